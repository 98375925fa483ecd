"""register: MLflow run and model version, and the gate's verdict on it. The only stage that touches the registry."""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import yaml

from catalog import store
from catalog.schema import DataError
from components import tracking
from components.evaluate import CANDIDATE, comparisons, judged, report
from components.params import EvaluateParams, RegisterParams
from eval.gate import Decision, Evidence, Rules, decide
from eval.metrics import Scores, score
from eval.rankings import Run
from eval.report import Report, render

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
CODE = ("catalog", "fusion")
EVIDENCE = (
    "made_from.json", "metrics.json", "segments.csv", "comparisons.json", "facts.json", "queries.parquet", "scores",
    f"runs/{CANDIDATE}.parquet", "report.html",
)  # fmt: skip
COMPARISON = "comparison.html"
TAG_LENGTH = 5000  # MLflow's limit


def register(data: Path, model: Path, evaluation: Path, params: RegisterParams, registration: Path) -> None:
    """Register the candidate, decide whether it may be promoted, and write that on its version.

    Calling it again for the same model and evaluation finds the same run and version.

    Args:
        data: The data set, on which a champion of other data is judged again.
        model: What `train` wrote.
        evaluation: What `evaluate` wrote about it.
        params: Who may be promoted.
        registration: Folder to write: registration.json (run, version, verdict, findings, aliases), and comparison.html
            where there is a champion: the candidate beside it, query by query.

    Raises:
        DataError: where MLflow cannot be reached or the champion cannot be judged again.
    """
    source = json.loads((evaluation / "made_from.json").read_text())
    client = tracking.connect()
    chain = _chain(model, evaluation)
    training = store.fingerprint(model / "made_from.json")
    with (
        store.fresh(registration) as out,
        tracking.run(chain, training, tracking.lineage(source["data"])) as run,
    ):
        tracking.log(client, run, _flat(source["params"]), _metrics(evaluation), _curves(model))
        tracking.attach(run, evaluation, EVIDENCE, "evaluation")
        version = _version(
            client, run, model, evaluation, params.model_name, tracking.lineage(source["data"])
        )
        champion = _alias(client, params.model_name, CHAMPION)
        if champion and champion.version == version.version:
            print(f"register: version {version.version} is the champion already; its verdict stands")
            tracking.fetch(run.info.run_id, "registration.json", out)
            return
        rules = Rules(**params.model_dump(exclude={"model_name", "promote"}))
        old, new = _champion_evidence(champion, data, source) if champion else None, _evidence(evaluation)
        decision = decide(new.evidence, old.evidence if old else None, rules)
        aliases = _earned(decision, params)
        summary = {
            "model": params.model_name,
            "version": str(version.version),
            "run_id": run.info.run_id,
            "compared_with": champion and str(champion.version),
            "aliases": aliases,
            **decision.to_dict(),
        }
        (out / "registration.json").write_text(json.dumps(summary, indent=2) + "\n")
        if old:
            page = _beside(
                old, new, data, evaluation, rules, f"Product search: version {version.version} and champion"
            )
            (out / COMPARISON).write_text(render(page))
            tracking.attach(run, out, [COMPARISON])
        tracking.attach(run, out, ["registration.json"])
        # last, as a version that is the champion already takes its verdict from that file
        _announce(client, version, decision, params.model_name, aliases)
    earned = ", ".join(aliases) or "no alias"
    print(f"register: {params.model_name} version {version.version}, gate {_verdict(decision)}, {earned}")
    for reason in decision.reasons:
        print(f"  {reason}")


def _chain(model: Path, evaluation: Path) -> str:
    """What a chain did and made, as a hash: the same model with the same scores, judged the same way."""
    files = [json.loads((evaluation / name).read_text()) for name in ("made_from.json", "metrics.json")]
    parts = json.dumps([store.fingerprint(model), *files], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _flat(params: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in params.items() for key, value in keys.items()}


def _metrics(evaluation: Path) -> dict[str, float]:
    """The candidate's metrics by their own name, those of the baselines under `system/`, and the facts."""
    by_system = json.loads((evaluation / "metrics.json").read_text())
    ours = by_system.pop(CANDIDATE)
    theirs = {
        f"{system}/{name}": value for system, means in by_system.items() for name, value in means.items()
    }
    return ours | theirs | json.loads((evaluation / "facts.json").read_text())


def _curves(model: Path) -> list[dict[str, float]]:
    with (model / "history.csv").open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


@dataclass(frozen=True)
class Judged:
    """A model as the gate takes it, and its rankings."""

    evidence: Evidence
    run: Run


def _evidence(evaluation: Path) -> Judged:
    """What `evaluate` left."""
    scores = Scores.from_parquet(evaluation / "scores" / f"{CANDIDATE}.parquet")
    segments = pq.read_table(evaluation / "queries.parquet")["segment"].to_numpy()
    facts = json.loads((evaluation / "facts.json").read_text())
    run = Run.from_parquet(evaluation / "runs" / f"{CANDIDATE}.parquet")
    return Judged(Evidence(scores, segments, facts), run)


def _beside(old: Judged, new: Judged, data: Path, evaluation: Path, rules: Rules, title: str) -> Report:
    """The candidate beside the champion and its own baselines; queries are won and lost against the champion."""
    files = sorted((evaluation / "scores").glob("*.parquet"))
    scores = {CANDIDATE: new.evidence.scores, CHAMPION: old.evidence.scores}
    scores |= {file.stem: Scores.from_parquet(file) for file in files if file.stem != CANDIDATE}
    against = comparisons(scores, rules.primary, rules.resamples, rules.seed)
    qrels, segments = judged(data, "test")
    runs = {CANDIDATE: new.run, CHAMPION: old.run}
    return report(title, data, runs, scores, against, qrels, {"segment": segments}, rules.primary, CHAMPION)


def _alias(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    found = client.search_registered_models(f"name = '{name}'")
    number = found[0].aliases.get(alias) if found else None
    return client.get_model_version(name, number) if number else None


def _version(
    client: "MlflowClient", run: "ActiveRun", model: Path, evaluation: Path, name: str, tags: dict[str, str]
) -> "ModelVersion":
    """The run's model version: found, or logged and registered."""
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    if versions:
        return versions[0]
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    inputs = Schema([ColSpec("string", "text", required=False), ColSpec("string", "image", required=False)])
    kinds = {"query": "long", "rank": "long", "product_id": "string", "title": "string", "score": "double"}
    outputs = Schema([ColSpec(kind, column) for column, kind in kinds.items()])
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=_source("fusion") / "serving.py",
        artifacts={"model": str(model), "index": str(evaluation / "index.parquet")},
        code_paths=[str(_source(package)) for package in CODE],
        signature=ModelSignature(inputs, outputs, ParamSchema([ParamSpec("k", "long", 10)])),
        input_example=pd.DataFrame({"text": ["red dotted mug"]}),
        pip_requirements=_requirements(),
    )
    return mlflow.register_model(info.model_uri, name, tags=tags)


def _source(package: str) -> Path:
    return Path(import_module(package).__path__[0])


def _requirements() -> list[str]:
    """What serving needs, at the versions installed here: Vitrine's own requirements and MLflow's."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    needed = [Requirement(line) for line in metadata.requires("vitrine") or []]
    names = [one.name for one in needed if not one.marker] + ["mlflow", "pandas"]
    return [f"{name}=={Version(metadata.version(name)).public}" for name in names]


def _champion_evidence(champion: "ModelVersion", data: Path, source: dict[str, Any]) -> Judged:
    """The champion on this data: what is stored if it was judged on the same in the same way, else scored again.

    Raises:
        DataError: where it was not registered by this chain, or its process fails.
    """
    import mlflow

    if not champion.run_id:
        raise DataError(
            f"register: the champion, version {champion.version} of {champion.name}, has no run and so no scores; "
            f"move the alias '{CHAMPION}' to a version that this chain registered"
        )
    with tempfile.TemporaryDirectory() as folder:
        stored = tracking.fetch(champion.run_id, "evaluation", Path(folder))
        then = json.loads((stored / "made_from.json").read_text())
        if then["data"] == source["data"] and then["params"]["evaluate"] == source["params"]["evaluate"]:
            return _evidence(stored)
        print(
            f"register: champion {champion.version} was judged on other data or in another way; scoring it again"
        )
        uri = f"models:/{champion.name}/{champion.version}"
        package = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        params = EvaluateParams(**source["params"]["evaluate"])
        return _scored_again(package, data.resolve(), params, Path(folder) / "run.parquet")


def _scored_again(package: Path, data: Path, params: EvaluateParams, run: Path) -> Judged:
    """A registered model judged on a data set, by the code that was registered with it, in a process of its own."""
    flavour = yaml.safe_load((package / "MLmodel").read_text())["flavors"]["python_function"]
    model = package / flavour["artifacts"]["model"]["path"]  # MLflow keeps the name the folder had
    command = [sys.executable, "-m", "fusion", "rank", "--model", str(model)]
    command += ["--data", str(data), "--split", "test", "--depth", str(params.depth), "--run", str(run)]
    environment = os.environ | {"PYTHONPATH": str(package / "code"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command, env=environment, cwd=package, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise DataError(f"register: the champion could not be scored again: {done.stderr.strip()[-500:]}")
    qrels, segments = judged(data, "test")
    found = Run.from_parquet(run)
    scores = score(found, qrels, params.metrics, gains=params.gains, relevant=params.relevant)
    return Judged(Evidence(scores, segments, {}), found)


def _earned(decision: Decision, params: RegisterParams) -> list[str]:
    """The aliases that a verdict gives."""
    return [CHALLENGER] + [CHAMPION] * (params.promote == "auto") if decision.passed else []


def _announce(
    client: "MlflowClient", version: "ModelVersion", decision: Decision, name: str, aliases: Sequence[str]
) -> None:
    """Write the verdict on the version and move the aliases it earns."""
    number = version.version
    client.set_model_version_tag(name, number, "vitrine.gate", _verdict(decision))
    client.set_model_version_tag(name, number, "vitrine.reasons", " ".join(decision.reasons)[:TAG_LENGTH])
    client.update_model_version(name, number, "\n".join(f"- {finding.text}" for finding in decision.findings))
    for alias in aliases:
        client.set_registered_model_alias(name, alias, number)
    challenger = _alias(client, name, CHALLENGER)
    if not decision.passed and challenger and challenger.version == number:
        client.delete_registered_model_alias(name, CHALLENGER)


def _verdict(decision: Decision) -> str:
    return "passed" if decision.passed else "failed"
