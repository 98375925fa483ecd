"""The champion, evaluated on the candidate's queries, judgements and catalogue, with the same settings."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.fingerprint import JUDGE, fingerprint
from vitrine_judge.gate import Evidence
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Run

from catalog.schema import DataError
from registry import champion_process, mlflow_runs
from scoring.judgements import Judgements, read_judgements_by_judge
from scoring.params import EvaluateParams
from scoring.results import write_json
from scoring.systems import read_served

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SCORING_SETTINGS = ("metrics", "gains", "relevant", "holdout")  # of `EvaluateParams`: they change no ranking


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
    """The served system of an evaluation, as `evaluate` wrote it."""
    served = read_served(evaluation)
    scores = Scores.from_parquet(evaluation / "scores" / f"{served}.parquet")
    queries = pq.read_table(evaluation / "queries.parquet")
    clusters = queries["cluster"].to_numpy() if "cluster" in queries.column_names else None
    facts = json.loads((evaluation / "facts.json").read_text())
    run = Run.from_parquet(evaluation / "runs" / f"{served}.parquet")
    evidence = Evidence(scores, queries["segment"].to_numpy(), facts, clusters=clusters)
    return EvaluatedModel(evidence, run)


def evaluate_champion(
    version: "ModelVersion", data: Path, provenance: dict[str, Any], primary: str
) -> EvaluatedModel:
    """The champion on this data: its own evaluation if data, settings and judge are the same, else it is rescored.

    Args:
        version: The champion.
        data: The data set.
        provenance: Of the candidate's evaluation, as `evaluate` writes it to made_from.json.
        primary: The metric that the sentence on rescoring names.

    Raises:
        DataError: where it was not registered by this chain, its process fails, or it must be rescored and another
            version of the judge scored the candidate.
    """
    if not version.run_id:
        raise DataError(
            f"register: the champion, version {version.version} of {version.name}, has no run and so no scores; "
            "move the alias 'champion' to a version that this chain registered"
        )
    with tempfile.TemporaryDirectory() as folder:
        evaluation = mlflow_runs.download_artifact(version.run_id, "evaluation", Path(folder))
        champion_provenance = json.loads((evaluation / "made_from.json").read_text())
        changes = list(list_changes(champion_provenance, provenance))
        if not changes:
            return load_evaluation(evaluation)
        if provenance.get(JUDGE) != fingerprint(read_configuration(provenance).metrics):
            raise DataError(
                "register: the candidate was scored by another version of the judge than the one that is installed; "
                "evaluate it again: dvc repro"
            )
        start = time.monotonic()
        if _rankings_are_equal(champion_provenance, provenance):
            run_file = evaluation / "runs" / f"{read_served(evaluation)}.parquet"
            action = "scored again from its stored ranking"
        else:
            depth = provenance["params"]["evaluate"]["depth"]
            run_file = _rank(version, data.resolve(), Path(folder), depth)
            action = f"ranked and scored again on this data in {time.monotonic() - start:.0f} s"
        model = _score_run(run_file, evaluation, data, provenance)
        mean = model.evidence.scores.means()[primary]
        rescored = (
            f"The champion, version {version.version}, was evaluated {' and '.join(changes)}: {primary} "
            f"{_describe_earlier_mean(evaluation, primary)}. It was {action}: {primary} {mean:.4f}."
        )
        return replace(model, rescored=rescored)


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What changed between two evaluations so that their scores cannot be compared, as ends of a sentence.

    Args:
        before, now: Their provenance, as `evaluate` writes it to made_from.json.
    """
    if before["data"] != now["data"]:
        yield "on other data"
    if before["params"]["evaluate"] != now["params"]["evaluate"]:
        yield "with other settings"
    if before.get(JUDGE) != now.get(JUDGE):
        yield "by another version of the judge"


def read_configuration(provenance: Mapping[str, Any]) -> MetricConfiguration:
    """How an evaluation scored its runs, of its made_from.json."""
    return _read_scoring_settings(provenance).configuration


def read_evaluation_judgements(
    data: Path, provenance: Mapping[str, Any], held: bool = False
) -> dict[str, Judgements]:
    """Read judgements with the settings of an evaluation; see `scoring.judgements.read_judgements_by_judge`.

    Args:
        data: The data set.
        provenance: Of the evaluation.
        held: Read the queries that are held out, in place of the others.
    """
    settings = _read_scoring_settings(provenance)
    return read_judgements_by_judge(data, "test", settings.holdout, held, settings.collapse)


def score_stored_runs(evaluation: Path, data: Path) -> None:
    """Score the runs of an evaluation again, with the judge that is installed; `data` is the data set.

    Writes scores/ and made_from.json. Systems whose runs are not stored are left out: their scores would be those of
    another judge.
    """
    provenance = json.loads((evaluation / "made_from.json").read_text())
    configuration = read_configuration(provenance)
    judgements = next(iter(read_evaluation_judgements(data, provenance).values()))
    for file in (evaluation / "scores").glob("*.parquet"):
        run_file = evaluation / "runs" / file.name
        if run_file.exists():
            judgements.score(Run.from_parquet(run_file), configuration).to_parquet(file)
        else:
            file.unlink()
    write_json(evaluation / "made_from.json", provenance | {JUDGE: fingerprint(configuration.metrics)})


def _rankings_are_equal(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two evaluations rank the same products for the same queries, to the same depth."""
    same_settings = _select_ranking_settings(before) == _select_ranking_settings(now)
    return same_settings and before["data"] == now["data"]


def _read_scoring_settings(provenance: Mapping[str, Any]) -> EvaluateParams:
    """The parameters of an evaluation that change scores; without holdout and groups before there were any."""
    settings = {"holdout": 0.0, "collapse": None} | provenance["params"]["evaluate"]
    return EvaluateParams(**{name: settings[name] for name in (*SCORING_SETTINGS, "collapse")})


def _select_ranking_settings(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an evaluation that change rankings."""
    settings = provenance["params"]["evaluate"]
    return {name: value for name, value in settings.items() if name not in SCORING_SETTINGS}


def _rank(version: "ModelVersion", data: Path, folder: Path, depth: int) -> Path:
    """Let the champion's own code rank the test queries of a data set, as it serves; the file of the run."""
    run_file = folder / "run.parquet"
    package = champion_process.download_model(version, folder)
    flags = {"data": data, "split": "test", "depth": depth, "run": run_file}
    flags["hybrid"] = champion_process.find_artifact(package, "hybrid")
    champion_process.run_in_own_environment(package, "rank", **flags)
    return run_file


def _score_run(run_file: Path, evaluation: Path, data: Path, provenance: Mapping[str, Any]) -> EvaluatedModel:
    """Score a run of the champion as the candidate's; facts such as sizes are those of the champion's evaluation."""
    judgements = next(iter(read_evaluation_judgements(data, provenance).values()))
    run = judgements.grouping.collapse_run(Run.from_parquet(run_file))
    scores = judgements.score(run, read_configuration(provenance))
    facts = json.loads((evaluation / "facts.json").read_text())
    return EvaluatedModel(Evidence(scores, judgements.segments, facts, clusters=judgements.clusters), run)


def _describe_earlier_mean(evaluation: Path, metric: str) -> str:
    means = json.loads((evaluation / "metrics.json").read_text())[read_served(evaluation)]
    return f"{means[metric]:.4f}" if metric in means else "unknown"
