"""The champion, evaluated on the candidate's queries, judgements and catalogue, with the same settings."""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from vitrine_judge.gate import Evidence
from vitrine_judge.metrics import Scores, score
from vitrine_judge.rankings import Run

from catalog.schema import DataError
from registry import champion_process, mlflow_runs
from scoring.judgements import read_judgements
from scoring.params import EvaluateParams
from scoring.systems import CANDIDATE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model with its scores and rankings.

    Attributes:
        evidence: What the gate reads.
        run: Its rankings.
        rescored: A sentence on why and how it was scored again; empty if it was not.
    """

    evidence: Evidence
    run: Run
    rescored: str = ""


def load_evaluation(evaluation: Path) -> EvaluatedModel:
    """The candidate of an evaluation, as `evaluate` wrote it."""
    scores = Scores.from_parquet(evaluation / "scores" / f"{CANDIDATE}.parquet")
    segments = pq.read_table(evaluation / "queries.parquet")["segment"].to_numpy()
    facts = json.loads((evaluation / "facts.json").read_text())
    run = Run.from_parquet(evaluation / "runs" / f"{CANDIDATE}.parquet")
    return EvaluatedModel(Evidence(scores, segments, facts), run)


def evaluate_champion(
    version: "ModelVersion", data: Path, provenance: dict[str, Any], primary: str
) -> EvaluatedModel:
    """The champion on this data: its own evaluation if data and settings are the same, else it is rescored.

    Args:
        version: The champion.
        data: The data set.
        provenance: Of the candidate's evaluation, as `evaluate` writes it to made_from.json.
        primary: The metric that the sentence on rescoring names.

    Raises:
        DataError: where it was not registered by this chain, or its process fails.
    """
    if not version.run_id:
        raise DataError(
            f"register: the champion, version {version.version} of {version.name}, has no run and so no scores; "
            "move the alias 'champion' to a version that this chain registered"
        )
    with tempfile.TemporaryDirectory() as folder:
        evaluation = mlflow_runs.download_artifact(version.run_id, "evaluation", Path(folder))
        champion_provenance = json.loads((evaluation / "made_from.json").read_text())
        settings = provenance["params"]["evaluate"]
        same_settings = champion_provenance["params"]["evaluate"] == settings
        if same_settings and champion_provenance["data"] == provenance["data"]:
            return load_evaluation(evaluation)
        return _rescore(version, data.resolve(), Path(folder), EvaluateParams(**settings), primary)


def _rescore(
    version: "ModelVersion", data: Path, folder: Path, params: EvaluateParams, primary: str
) -> EvaluatedModel:
    """The champion, run and scored on a data set; facts such as sizes are those of its own evaluation.

    `folder` is temporary and has the champion's `evaluation`.
    """
    start = time.monotonic()
    evaluation, run_file = folder / "evaluation", folder / "run.parquet"
    package = champion_process.download_model(version, folder)
    flags = {"data": data, "split": "test", "depth": params.depth, "run": run_file}
    champion_process.run_in_own_environment(package, "rank", **flags)
    qrels, segments = read_judgements(data, "test")
    run = Run.from_parquet(run_file)
    scores = score(run, qrels, params.metrics, gains=params.gains, relevant=params.relevant)
    facts = json.loads((evaluation / "facts.json").read_text())
    earlier = json.loads((evaluation / "metrics.json").read_text())[CANDIDATE].get(primary)
    rescored = (
        f"The champion, version {version.version}, was evaluated on other data or with other settings: {primary} "
        f"{'unknown' if earlier is None else f'{earlier:.4f}'}. It was rescored on this data in "
        f"{time.monotonic() - start:.0f} s: {primary} {scores.means()[primary]:.4f}."
    )
    return EvaluatedModel(Evidence(scores, segments, facts), run, rescored)
