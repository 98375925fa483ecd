"""Candidate and champion by the same yardstick: the same queries, judgements and catalogue, judged in the same way."""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from catalog.schema import DataError
from eval.gate import Evidence
from eval.metrics import Scores, score
from eval.rankings import Run
from registry import champion_process, tracking
from scoring.params import EvaluateParams
from scoring.systems import CANDIDATE, judged

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Judged:
    """A model as the gate takes it, its rankings, and how it was scored again, if it was."""

    evidence: Evidence
    run: Run
    again: str = ""


def stored(evaluation: Path) -> Judged:
    """What `evaluate` left."""
    scores = Scores.from_parquet(evaluation / "scores" / f"{CANDIDATE}.parquet")
    segments = pq.read_table(evaluation / "queries.parquet")["segment"].to_numpy()
    facts = json.loads((evaluation / "facts.json").read_text())
    run = Run.from_parquet(evaluation / "runs" / f"{CANDIDATE}.parquet")
    return Judged(Evidence(scores, segments, facts), run)


def of_champion(version: "ModelVersion", data: Path, source: dict[str, Any], primary: str) -> Judged:
    """The champion on this data: what is stored if it was judged on the same in the same way, else scored again.

    Args:
        version: The champion.
        data: The data set.
        source: How the candidate was judged, as `evaluate` writes it to made_from.json.
        primary: The metric of which to tell what changed.

    Raises:
        DataError: where it was not registered by this chain, or its process fails.
    """
    if not version.run_id:
        raise DataError(
            f"register: the champion, version {version.version} of {version.name}, has no run and so no scores; "
            "move the alias 'champion' to a version that this chain registered"
        )
    with tempfile.TemporaryDirectory() as folder:
        evaluation = tracking.fetch(version.run_id, "evaluation", Path(folder))
        then = json.loads((evaluation / "made_from.json").read_text())
        if then["data"] == source["data"] and then["params"]["evaluate"] == source["params"]["evaluate"]:
            return stored(evaluation)
        began = time.monotonic()
        package = champion_process.fetch(version, Path(folder))
        params = EvaluateParams(**source["params"]["evaluate"])
        facts = json.loads((evaluation / "facts.json").read_text())
        found = _scored_again(package, data.resolve(), params, Path(folder) / "run.parquet", facts)
        before = json.loads((evaluation / "metrics.json").read_text())[CANDIDATE].get(primary)
        was = "unknown" if before is None else f"{before:.4f}"
        again = (
            f"The champion, version {version.version}, was judged on other data or in another way, with {primary} at "
            f"{was}. Scored again on this data, in {time.monotonic() - began:.0f} s, it is at "
            f"{found.evidence.scores.means()[primary]:.4f}."
        )
        return Judged(found.evidence, found.run, again)


def _scored_again(
    package: Path, data: Path, params: EvaluateParams, run: Path, facts: dict[str, float]
) -> Judged:
    """A registered model judged on a data set; `facts` are those of its own evaluation."""
    champion_process.run(package, "rank", data=data, split="test", depth=params.depth, run=run)
    qrels, segments = judged(data, "test")
    found = Run.from_parquet(run)
    scores = score(found, qrels, params.metrics, gains=params.gains, relevant=params.relevant)
    return Judged(Evidence(scores, segments, facts), found)
