"""Which steps run again, by the rule of Kubeflow Pipelines' back end, and by that of its local runner."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from kfp.local.cache import LocalCache
from kfp_backend import OUT_OF_MEMORY, Run

from pipelines import ir, remote
from pipelines.__main__ import main
from pipelines.fetch import resolve_version

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NEVER_CACHED = ["resolve", "register", "notify"]
Submit = Callable[..., Run]


class Shop:
    """A git repository with a data.dvc, which a cluster can reach."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, f"file://localhost{root}"
        root.mkdir()
        self._git("init", "--quiet", "--initial-branch", "main")
        self.commit("data.dvc", "a")

    def commit(self, name: str, content: str) -> None:
        """Commit a file; that of data.dvc is DVC's hash."""
        text = yaml.safe_dump({"outs": [{"md5": content, "path": "data"}]}) if name == "data.dvc" else content
        (self.root / name).write_text(text)
        self._git("add", name)
        self._git("-c", "user.name=shop", "-c", "user.email=shop", "commit", "--quiet", "-m", name)

    def _git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.root, check=True)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


@pytest.fixture(params=[1, 4], ids=["one featurize", "four shards"])
def cluster_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    cluster = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text()) | {"shards": request.param}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster))
    return path


@pytest.fixture
def submit(
    kubeflow: Any,
    shop: Shop,
    cluster_file: Path,
    compile_once: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Submit:
    """`python -m pipelines submit` with other values of parameters; returns what the back end made of it."""
    monkeypatch.setenv("VITRINE_COMMIT", "abc")
    monkeypatch.setattr(ir, "compile_pipeline", compile_once)
    monkeypatch.setattr(remote, "find_repo", lambda repo: repo)  # takes a path of this machine
    kubeflow.backend.steps["resolve"] = lambda inputs: resolve_version(**inputs)._asdict()

    def run(pipeline: str = "training", **sections: dict[str, Any]) -> Run:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(params | {key: params[key] | sections[key] for key in sections}))
        files = [
            "--params",
            str(path),
            "--settings",
            str(ROOT / "serving.yaml"),
            "--cluster",
            str(cluster_file),
        ]
        words = ["submit", "--pipeline", pipeline, "--repo", shop.url, "--rev", "main"]
        assert main([*words, *files, "--host", kubeflow.address]) == 0
        return list(kubeflow.runs.values())[-1]

    return run


def test_the_same_run_again_only_resolves_registers_and_notifies(submit: Submit) -> None:
    first, second = submit(), submit()
    assert not first.cached and first.executed[:3] == ["resolve", "fetch", "validate"]
    assert second.states[-1] == "SUCCEEDED"
    assert second.executed == NEVER_CACHED
    assert sorted(second.cached + second.executed) == sorted(first.executed)


def test_a_changed_parameter_of_train_runs_train_and_what_follows(submit: Submit) -> None:
    submit()
    run = submit(train={"epochs": 1})
    assert run.executed == ["resolve", "train", "index", "evaluate", "register", "notify"]


def test_changed_data_run_every_step(submit: Submit, shop: Shop) -> None:
    first = submit()
    shop.commit("data.dvc", "b")
    run = submit()
    assert run.executed == first.executed and not run.cached


def test_a_commit_without_new_data_runs_no_step_again(submit: Submit, shop: Shop) -> None:
    submit()
    shop.commit("README", "x")
    assert submit().executed == NEVER_CACHED


def test_a_night_without_changes_runs_no_step_again(
    kubeflow: Any, submit: Submit, shop: Shop, cluster_file: Path
) -> None:
    submit()
    words = ["schedule", "nightly", "--cron", "0 2 * * *", "--repo", shop.url, "--rev", "main"]
    files = ["--params", str(ROOT / "params.yaml"), "--cluster", str(cluster_file)]
    assert main([*words, *files, "--host", kubeflow.address]) == 0
    (schedule,) = kubeflow.objects["recurringruns"]
    run = kubeflow.runs[kubeflow.trigger(schedule)["run_id"]]
    assert run.executed == NEVER_CACHED


def test_a_refresh_without_new_data_checks_nothing_again(submit: Submit, shop: Shop) -> None:
    """The champion and its index may have changed."""
    steps = ["resolve", "fetch", "validate", "require-valid", "refresh", "notify"]
    assert submit("refresh").executed == steps
    assert submit("refresh").executed == ["resolve", "refresh", "notify"]
    shop.commit("data.dvc", "b")
    assert submit("refresh").executed == steps


def test_what_a_training_has_done_is_not_reused_by_a_refresh(submit: Submit) -> None:
    """KFP keeps results by pipeline (backend/src/v2/driver/cache.go at tag 2.17.0)."""
    submit()
    assert not submit("refresh").cached


def test_a_failed_step_is_not_reused(submit: Submit, kubeflow: Any) -> None:
    kubeflow.backend.endings["train"] = OUT_OF_MEMORY
    assert submit().states[-1] == "FAILED"
    kubeflow.backend.endings.clear()
    assert submit().executed == ["resolve", "train", "index", "evaluate", "register", "notify"]


def test_all_runs_again_if_fetch_is_not_cached(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same data get a new id, and ids are what KFP compares."""
    compile_pipeline = ir.compile_pipeline

    def compile_without_cache(*arguments: Any) -> str:
        documents = list(yaml.load_all(compile_pipeline(*arguments), yaml.CSafeLoader))
        documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]["fetch"]["cachingOptions"] = {}
        return yaml.dump_all(documents, Dumper=yaml.CSafeDumper)

    monkeypatch.setattr(ir, "compile_pipeline", compile_without_cache)
    first, second = submit(), submit()
    assert second.executed == first.executed and not second.cached


@pytest.mark.parametrize(("folder", "hit"), [("run-1", True), ("run-2", False)])
def test_a_step_that_runs_again_is_a_new_input_on_this_machine_too(
    folder: str, hit: bool, tmp_path: Path
) -> None:
    """The local runner compares addresses, which hold the run that wrote them, where the back end compares ids."""
    cache = LocalCache(str(tmp_path))

    def compute_key(folder: str) -> str:
        data = dsl.Dataset(name="data", uri=f"/pipeline/{folder}/fetch/data")
        return cache.compute_key("validate", "vitrine:python", ["python"], {"data": data, "params": {}})

    assert (compute_key(folder) == compute_key("run-1")) is hit
