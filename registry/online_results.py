"""The result of an experiment on live traffic, stored with the version that was the challenger.

The files `online.json` and `online.html` are artifacts of the version's run; the gate reads the first. Tags of the
version say the same to people. They are set last, so a result without them is not complete.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitrine_judge.online import OnlineResult

from catalog.schema import DataError
from registry.mlflow_runs import download_artifact
from registry.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ONLINE_TAG = "vitrine.online."
RESULT_FILE, PAGE_FILE = "online.json", "online.html"  # artifacts of the run
SHADOW_PAGE_FILE = "shadow.html"  # likewise
AGAINST = f"{ONLINE_TAG}champion"  # set last


def record_online_result(
    registry: ModelRegistry, number: str, champion: str, result: OnlineResult, confidence: float, page: str
) -> None:
    """Store a result on a version and its run; a repeated call changes nothing.

    Args:
        registry: Of the model.
        number: Of the challenger.
        champion: The number of the champion that it was compared with.
        result: Of all sessions since the start of the experiment.
        confidence: Of the interval in the tags; the gate computes its own.
        page: HTML with the plot.

    Raises:
        DataError: where the version was not registered by this chain.
    """
    run, client = _require_run(registry, number), registry.client
    measured = result.measure(confidence)[-1]
    tags = {
        "kind": result.kind,
        "sessions": str(measured.sessions),
        "preference": f"{measured.mean:.6f}",
        "low": f"{measured.low:.6f}",
        "high": f"{measured.high:.6f}",
        "confidence": f"{confidence:g}",
        "since": result.days[0].date,
        "until": result.days[-1].date,
        "decided_at": result.find_verdict_date(confidence),
    }
    if registry.get_version(number).tags.get(AGAINST) not in (
        None,
        champion,
    ):  # until all is written, there is no result
        client.delete_model_version_tag(registry.name, number, AGAINST)
    content = {"champion": champion, "challenger": number, **result.to_dict()}
    client.log_text(run, json.dumps(content, indent=2) + "\n", RESULT_FILE)
    client.log_text(run, page, PAGE_FILE)
    for name, value in tags.items():
        client.set_model_version_tag(registry.name, number, ONLINE_TAG + name, value)
    client.set_model_version_tag(registry.name, number, AGAINST, champion)


def record_shadow_result(
    registry: ModelRegistry, number: str, champion: str, figures: Mapping[str, float], page: str
) -> None:
    """Store what a shadow showed on a version and its run; a repeated call changes nothing, and no rule reads it.

    Args:
        registry: Of the model.
        number: Of the challenger.
        champion: The number of the champion that it was compared with.
        figures: Name → value.
        page: HTML.

    Raises:
        DataError: where the version was not registered by this chain.
    """
    run = _require_run(registry, number)
    registry.client.log_text(run, page, SHADOW_PAGE_FILE)
    tags = {name: f"{value:.6g}" for name, value in figures.items()} | {"champion": champion}
    for name, value in tags.items():
        registry.client.set_model_version_tag(registry.name, number, f"{ONLINE_TAG}shadow_{name}", value)


def _require_run(registry: ModelRegistry, number: str) -> str:
    version = registry.get_version(number)
    if not version.run_id:
        raise DataError(
            f"version {number} of {registry.name} was not registered by this chain, as it has no run"
        )
    return str(version.run_id)


def read_online_result(version: "ModelVersion", champion: str) -> OnlineResult | None:
    """The result of a version against a champion; None where there is none.

    Args:
        version: The candidate.
        champion: The number of the current champion.
    """
    if version.tags.get(AGAINST) != champion or not version.run_id:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = download_artifact(version.run_id, RESULT_FILE, Path(folder))
        content = json.loads(path.read_text())
    return OnlineResult.from_dict(content) if content["champion"] == champion else None
