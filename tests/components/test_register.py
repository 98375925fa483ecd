import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from catalog.schema import DataError
from components import tracking
from components.params import RegisterParams
from components.register import _requirements, register

if TYPE_CHECKING:
    from mlflow import MlflowClient

OPEN = RegisterParams(floors={"ndcg@10": 0.0})
AUTO = OPEN.model_copy(update={"promote": "auto"})
CLOSED = RegisterParams(floors={"ndcg@10": 1.0})


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[MlflowClient]":
    """Of an empty store in a folder of its own."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tracking.connect()
    mlflow.set_tracking_uri(None)


def read(folder: Path) -> Any:
    return json.loads((folder / "registration.json").read_text())


def test_a_verdict_may_change_and_a_champion_stays(
    data: Path, model: Path, evaluation: Path, tmp_path: Path, client: "MlflowClient"
) -> None:
    def decide(params: RegisterParams) -> tuple[bool, dict[str, str]]:
        register(data, model, evaluation, params, tmp_path / "out")
        found = client.get_registered_model(params.model_name).aliases
        return read(tmp_path / "out")["passed"], {alias: str(version) for alias, version in found.items()}

    assert decide(CLOSED) == (False, {})
    assert decide(OPEN) == (True, {"challenger": "1"})
    assert decide(CLOSED) == (False, {})
    assert decide(AUTO) == (True, {"challenger": "1", "champion": "1"})
    assert decide(CLOSED) == (True, {"challenger": "1", "champion": "1"})
    assert len(client.search_model_versions(f"name = '{OPEN.model_name}'")) == 1


def test_an_equal_candidate_does_not_pass(
    data: Path, model: Path, evaluation: Path, tmp_path: Path, client: "MlflowClient"
) -> None:
    """Another model with the champion's very scores: a tie is no gain."""
    register(data, model, evaluation, AUTO, tmp_path / "out")
    shutil.copytree(model, tmp_path / "twin")
    (tmp_path / "twin" / "made_from.json").write_text((model / "made_from.json").read_text() + "\n")
    register(data, tmp_path / "twin", evaluation, AUTO, tmp_path / "out")
    said = read(tmp_path / "out")
    assert (said["version"], said["compared_with"], said["passed"], said["aliases"]) == ("2", "1", False, [])
    assert client.get_model_version_by_alias(OPEN.model_name, "champion").version in {1, "1"}
    (version,) = (
        v for v in client.search_model_versions(f"name = '{OPEN.model_name}'") if str(v.version) == "2"
    )
    assert version.tags["vitrine.gate"] == "failed"
    assert "cannot be told apart" in version.tags["vitrine.reasons"]

    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "version 2 and champion" in page
    ours, theirs = (
        re.search(rf"<bdi>{name}</bdi></th>\s*<td[^>]*>([\d.]+)", page) for name in ("fused", "champion")
    )
    assert ours and theirs and ours[1] == theirs[1]
    assert "comparison.html" in [one.path for one in client.list_artifacts(said["run_id"])]


def test_the_first_has_nothing_beside_it(
    data: Path, model: Path, evaluation: Path, tmp_path: Path, client: "MlflowClient"
) -> None:
    register(data, model, evaluation, OPEN, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["registration.json"]


def test_a_champion_from_elsewhere_is_one_clear_message(
    data: Path, model: Path, evaluation: Path, tmp_path: Path, client: "MlflowClient"
) -> None:
    client.create_registered_model(OPEN.model_name)
    version = client.create_model_version(OPEN.model_name, source=tmp_path.as_uri())
    client.set_registered_model_alias(OPEN.model_name, "champion", version.version)
    with pytest.raises(DataError, match=r"the champion, version 1 of product-search, has no run"):
        register(data, model, evaluation, OPEN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_serving_needs_is_pinned() -> None:
    needed = {one.name: one for one in map(Requirement, _requirements())}
    assert {"torch", "numpy", "pyarrow", "mlflow", "pandas"} <= set(needed)
    assert not {"dvc", "kfp", "great-expectations", "pytest"} & set(needed)
    assert all(len(one.specifier) == 1 and "+" not in str(one.specifier) for one in needed.values())
