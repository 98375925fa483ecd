"""Judges an existing version again, from what its MLflow run holds."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vitrine_judge.fingerprint import JUDGE, fingerprint

from catalog import store
from catalog.schema import DataError
from registry.champion_scoring import read_configuration, score_stored_runs
from registry.comparison import Candidate
from registry.mlflow_runs import download_artifact
from registry.model_registry import ModelRegistry, copied_from
from registry.params import RegisterParams
from registry.verdict import describe_result, judge_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EVALUATION, VALIDATION = "evaluation", "validation"  # artifact folders of a run
REPORT = f"{VALIDATION}/report.json"


def judge(registry: ModelRegistry, number: str, data: Path, params: RegisterParams) -> str:
    """Judge a version against the current champion, and write the verdict as the stage `register` does.

    Args:
        registry: The model's.
        number: Of the version.
        data: The data set on which the version was evaluated.
        params: The gate's rules, and whether a version that passes becomes champion.

    Returns:
        The verdict, with its reasons.

    Raises:
        DataError: an unknown version, a version that this chain did not register, or other data.
    """
    champion = registry.reconcile_and_warn()
    version = registry.get_version(number)
    if champion == number:
        return f"version {number} is the champion; its verdict does not change"
    _check_origin(registry.client, version)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        candidate = _load_candidate(registry.client, version, data, folder)
        output = folder / "output"
        output.mkdir()
        comparison = judge_version(registry, candidate, champion, params, output)
    return describe_result(registry.name, comparison)


def _check_origin(client: "MlflowClient", version: "ModelVersion") -> None:
    """Raise DataError if the version is a copy, or its run lacks files that the gate needs."""
    name = f"version {version.version} of {version.name}"
    if source := copied_from(version):
        raise DataError(f"{name} is a copy of {source}; judge that version")
    if not version.run_id:
        raise DataError(
            f"{name} was not registered by this chain, as it has no run; register it with: dvc repro"
        )
    folders = (EVALUATION, VALIDATION)
    paths = {file.path for folder in folders for file in client.list_artifacts(version.run_id, folder)}
    missing = {f"{EVALUATION}/made_from.json", REPORT} - paths
    if missing:
        raise DataError(
            f"{name} was not registered by this version of the chain: its run {version.run_id} has no artifact "
            f"{', '.join(sorted(missing))}; register it with: dvc repro"
        )


def _load_candidate(client: "MlflowClient", version: "ModelVersion", data: Path, folder: Path) -> Candidate:
    """Download the version's evaluation, scored again where another judge scored it, and validation report.

    Raises:
        DataError: where it was evaluated on other data.
    """
    run = client.get_run(str(version.run_id))
    evaluation = download_artifact(run.info.run_id, EVALUATION, folder)
    report = download_artifact(run.info.run_id, REPORT, folder)
    provenance = json.loads((evaluation / "made_from.json").read_text())
    if provenance["data"] != store.fingerprint(data):
        revision = version.tags.get("vitrine.data.revision")
        command = f"git checkout {revision} data.dvc && dvc checkout data" if revision else "--data FOLDER"
        raise DataError(
            f"{data}: version {version.version} was evaluated on other data (fingerprint {provenance['data']}); "
            f"get that data ({command}), or train and register a new version: dvc repro"
        )
    if provenance.get(JUDGE) != fingerprint(read_configuration(provenance).metrics):
        score_stored_runs(evaluation, data)
        provenance = json.loads((evaluation / "made_from.json").read_text())
    return Candidate(version, run, data, evaluation, provenance, json.loads(report.read_text()))
