"""Indexes are published with a real store: repeated, killed at each step, and beside promotions and rollbacks."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from catalog.schema import DataError
from fusion.search.marker import IndexMarker, ModelMarker
from registry import index_publishing, mlflow_store
from registry.index_publishing import EXPERIMENT, JUDGED_INDEX, publish
from registry.live_index import INDEX, find_live_index
from registry.model_registry import COMPARED_WITH, GATE, ModelRegistry
from registry.promotion import rollback

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "product-search"
WRITES = (
    "create_run", "log_artifacts", "log_metric", "set_terminated", "set_model_version_tag", "delete_run",
    "log_param", "set_registered_model_alias", "delete_registered_model_alias", "update_run",
)  # fmt: skip


class Killed(BaseException):
    """A kill at some point."""


class Gate:
    """A client of MLflow that calls a function before each change of the store."""

    def __init__(self, client: "MlflowClient", before: Callable[[], None]) -> None:
        self._client, self._before = client, before

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if name not in WRITES:
            return attribute

        def change(*values: Any, **options: Any) -> Any:
            self._before()
            return attribute(*values, **options)

        return change


def model_of(number: str) -> ModelMarker:
    return ModelMarker(f"weights {number}", f"encoders {number}")


def write_index(root: Path, number: str, data: str) -> Path:
    """A folder that is as good as an index here."""
    folder = root / f"{number}-{data}"
    folder.mkdir(exist_ok=True)
    IndexMarker(model_of(number), data, 4).save(folder)
    (folder / "products.parquet").write_text(data)
    return folder


def add_versions(client: "MlflowClient", count: int) -> ModelRegistry:
    registry = ModelRegistry(client, NAME)
    for number in map(str, range(1, count + 1)):
        judged = {**model_of(number)._asdict(), "data": "first", "dim": 4}
        tags = {GATE: "passed", COMPARED_WITH: "", JUDGED_INDEX: json.dumps(judged)}
        client.create_model_version(NAME, "somewhere", tags=tags)
    return registry


def publish_day(client: Any, root: Path, number: str, data: str, keep: int = 2) -> str:
    version = client.get_model_version(NAME, number)
    return publish(client, version, write_index(root, number, data), {"products": 3.0}, keep)


def list_indexes(client: "MlflowClient") -> list[str]:
    """The data of the indexes whose files exist."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    root = Path(experiment.artifact_location.removeprefix("file://"))
    return sorted(path.read_text() for path in root.rglob("products.parquet"))


@pytest.fixture
def registry(client: "MlflowClient") -> ModelRegistry:
    """Version 1 is the champion, version 2 is not."""
    registry = add_versions(client, 2)
    registry.set_champion("1", "promoted", None)
    return registry


def test_a_published_index_is_live_with_its_version(registry: ModelRegistry, tmp_path: Path) -> None:
    before = find_live_index(NAME)
    assert before and (before.version, before.index_uri) == ("1", None)
    address = publish_day(registry.client, tmp_path, "1", "monday")
    live = find_live_index(NAME)
    assert live and (live.version, live.index_uri) == ("1", address)
    copy = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(tmp_path / "copy")))
    assert (copy / "products.parquet").read_text() == "monday"
    run = registry.client.get_run(address.split("/")[1])
    assert run.data.metrics == {"products": 3.0} and run.info.status == "FINISHED"
    assert json.loads(run.data.tags["vitrine.index.marker"])["data"] == "monday"
    assert publish_day(registry.client, tmp_path, "1", "monday") == address, "a repeated call changes nothing"
    assert list_indexes(registry.client) == ["monday"]


def test_the_newest_indexes_are_kept(registry: ModelRegistry, tmp_path: Path) -> None:
    publish_day(registry.client, tmp_path, "2", "other version")
    for day in ("monday", "tuesday", "wednesday", "thursday"):
        publish_day(registry.client, tmp_path, "1", day)
    assert list_indexes(registry.client) == ["other version", "thursday", "wednesday"]
    publish_day(registry.client, tmp_path, "1", "monday", keep=1)
    assert list_indexes(registry.client) == ["monday", "other version"]


def test_an_index_of_another_model_is_refused(registry: ModelRegistry, tmp_path: Path) -> None:
    version = registry.client.get_model_version(NAME, "1")
    folder = write_index(tmp_path, "2", "monday")
    with pytest.raises(DataError, match="version 1 of product-search did not make this index"):
        publish(registry.client, version, folder, {}, 2)
    registry.client.delete_model_version_tag(NAME, "1", JUDGED_INDEX)
    folder = write_index(tmp_path, "1", "monday")
    with pytest.raises(DataError, match="did not make this index"):
        publish(registry.client, registry.client.get_model_version(NAME, "1"), folder, {}, 2)
    assert INDEX not in registry.get_version("1").tags


def count_changes(registry: ModelRegistry, root: Path, day: str) -> int:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    publish_day(Gate(registry.client, step), root, "1", day)
    return count


def test_a_killed_attempt_is_taken_up(registry: ModelRegistry, tmp_path: Path) -> None:
    publish_day(registry.client, tmp_path, "1", "sunday")
    changes = count_changes(registry, tmp_path, "monday")
    assert changes >= 5
    for killed in range(changes):
        day, left = f"day {killed}", iter(range(killed))

        def step(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            publish_day(Gate(registry.client, step), tmp_path, "1", day)
        live = find_live_index(NAME)
        assert live and live.index_uri
        address = publish_day(registry.client, tmp_path, "1", day)
        copy = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(tmp_path / f"copy {killed}")))
        assert (copy / "products.parquet").read_text() == day
    experiment = registry.client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    assert len(registry.client.search_runs([experiment.experiment_id])) == 2
    assert len(list_indexes(registry.client)) == 2


def test_what_a_killed_attempt_left_is_deleted_later(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(2))

    def step() -> None:
        if next(left, None) is None:
            raise Killed

    with pytest.raises(Killed):
        publish_day(Gate(registry.client, step), tmp_path, "1", "monday")
    publish_day(registry.client, tmp_path, "1", "tuesday")
    assert list_indexes(registry.client) == ["monday", "tuesday"], "it may still be running"
    monkeypatch.setattr(index_publishing, "ABANDONED", -index_publishing.ABANDONED)
    publish_day(registry.client, tmp_path, "1", "wednesday")
    assert list_indexes(registry.client) == ["tuesday", "wednesday"]


class Operation(threading.Thread):
    """Work that pauses before each change of the store, until `advance` or `kill`."""

    def __init__(self, client: "MlflowClient", work: Callable[[Any], object]) -> None:
        super().__init__(daemon=True)
        self.go, self.paused = threading.Semaphore(0), threading.Semaphore(0)
        self.killed, self.ended = False, False
        self.error: BaseException | None = None
        self.work, self.client = work, Gate(client, self._pause)
        self.start()
        self.paused.acquire()

    def run(self) -> None:
        try:
            with suppress(Killed, DataError):
                self.work(self.client)
        except BaseException as error:  # the test raises it
            self.error = error
        self.ended = True
        self.paused.release()

    def _pause(self) -> None:
        self.paused.release()
        self.go.acquire()
        if self.killed:
            raise Killed

    def advance(self) -> None:
        """Make one change."""
        if not self.ended:
            self.go.release()
            self.paused.acquire()
        if self.error:
            raise self.error

    def kill(self) -> None:
        """Make no other change."""
        self.killed = True
        while not self.ended:
            self.advance()


class LiveStates(RuleBasedStateMachine):
    """Promotions, rollbacks and refreshes at once, each of which may be killed before any of its changes."""

    VERSIONS = ("1", "2", "3")

    def __init__(
        self, enter: Callable[[Path], AbstractContextManager[None]], make: Callable[[], Path]
    ) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = make()
        self.stack.enter_context(enter(self.root))
        self.client = mlflow_store.connect()
        add_versions(self.client, len(self.VERSIONS)).set_champion("1", "promoted", None)
        self.operations: list[Operation] = []
        self.day = 0

    def start(self, work: Callable[[Any], object]) -> None:
        self.operations = [operation for operation in self.operations if not operation.ended][-3:]
        self.operations.append(Operation(self.client, work))

    @rule(number=st.sampled_from(VERSIONS))
    def promote(self, number: str) -> None:
        def work(client: Any) -> None:
            registry = ModelRegistry(client, NAME)
            registry.set_champion(number, "promoted", registry.reconcile())

        self.start(work)

    @rule()
    def roll_back(self) -> None:
        self.start(lambda client: rollback(ModelRegistry(client, NAME)))

    @rule(number=st.none() | st.sampled_from(VERSIONS), repeated=st.booleans())
    def refresh(self, number: str | None, repeated: bool) -> None:
        """A refresh of what is live, or one that began before the champion changed; of new data or the same."""
        self.day += not repeated
        data = f"day {self.day}"
        live = find_live_index(NAME)
        assert live
        version = number or live.version
        self.start(lambda client: publish_day(client, self.root, version, data))

    @rule(which=st.integers(0, 3), changes=st.integers(1, 12))
    def advance(self, which: int, changes: int) -> None:
        for operation in self.operations[which : which + 1]:
            for _ in range(changes):
                operation.advance()

    @rule(which=st.integers(0, 3), changes=st.integers(0, 6))
    def kill(self, which: int, changes: int) -> None:
        self.advance(which, changes)
        for operation in self.operations[which : which + 1]:
            operation.kill()

    @invariant()
    def a_version_is_live_with_its_own_index(self) -> None:
        live = find_live_index(NAME)
        assert live, "never no live index"
        for version in self.client.search_model_versions(f"name = '{NAME}'"):
            if address := version.tags.get(INDEX):
                marker = json.loads(mlflow.artifacts.load_text(f"{address}/marker.json"))
                assert marker["weights"] == f"weights {version.version}"
                assert mlflow.artifacts.load_text(f"{address}/products.parquet") == marker["data"]

    def teardown(self) -> None:
        for operation in self.operations:
            operation.kill()
        registry = ModelRegistry(self.client, NAME)
        assert registry.reconcile()
        assert all(complete for _, complete in registry.history.list_moves_with_state())
        self.stack.close()


@pytest.mark.slow
def test_a_version_is_always_live_with_its_own_index(
    local_store: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("registry.promotion.list_missing_files", lambda version: [])  # they have no package
    run_state_machine_as_test(
        lambda: LiveStates(local_store, lambda: tmp_path_factory.mktemp("store")),
        settings=settings(
            max_examples=8, stateful_step_count=25, deadline=None, phases=[Phase.explicit, Phase.generate]
        ),
    )
