"""The experiment in the service, over real worker processes whose model is a stub."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from stub_service import StubService, run_service, wait_until

from catalog.schema import DataError
from serving.experiment import Experiment
from serving.live_experiment import PENDING, check_experiment
from serving.params import ExperimentParams, LogParams, ServiceParams
from serving.request_log import Event, Search

PARAMS = ServiceParams(timeout_seconds=1, drain_seconds=5, poll_seconds=0.05)
LISTS = {"1": ["p0", "p1", "p2", "p3"], "2": ["p3", "p2", "p1", "p0"]}  # of "reverse@2"


class ListLog:
    """A log that keeps its entries in memory."""

    def __init__(self) -> None:
        self.entries: list[Search | Event] = []

    def add(self, entry: Search | Event) -> None:
        self.entries.append(entry)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, StubService]]:
    """A service for each kind of experiment; all sessions take part."""
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(
                run_service(tmp_path_factory.mktemp(kind), PARAMS, ListLog(), create_params(kind))
            )
            for kind in ("interleaving", "ab", "shadow")
        }


@pytest.fixture
def choose(running: dict[str, StubService]) -> Callable[[str], StubService]:
    """A service with a champion and a challenger that answer, and an empty log."""

    def choose_kind(kind: str) -> StubService:
        service = running[kind]
        service.live, service.challenger = "1", "2"
        ready = 'alias="challenger",index="data1",version="2"'
        wait_until(lambda: ready in service.get("/metrics").text and service.is_ready())
        return service

    return choose_kind


def create_params(kind: str) -> ExperimentParams:
    return ExperimentParams(kind=kind, share=1.0, wait_ms=150)  # type: ignore[arg-type]


def has_challenger(service: StubService) -> bool:
    return 'vitrine_model_info{alias="challenger"' in service.get("/metrics").text


def find_session(kind: str, version: str) -> str:
    """A session that an A/B test shows this version."""
    arm = {"1": "champion", "2": "challenger"}[version]
    experiment = Experiment(create_params(kind), "1", "2")
    names = (f"s{number}" for number in range(100))
    return next(name for name in names if kind != "ab" or experiment.arm(name) == arm)


def search(service: StubService, text: str, session: str | None = "s", k: int = 4, **fields: Any) -> Any:
    return service.search(text, session=session, k=k, **fields)


def ids(answer: Any) -> list[str]:
    return [product["product_id"] for product in answer.json()["results"]]


def find_entry(service: StubService, answer: Any) -> Search:
    """What the log has of a search; in a shadow, it has it later."""
    request_id = answer.headers["X-Request-ID"]

    def entries() -> list[Search]:
        return [
            item for item in service.log.entries if isinstance(item, Search) and item.request_id == request_id
        ]

    wait_until(lambda: len(entries()) == 1)
    return entries()[0]


def trial(entry: Search) -> tuple[str | None, str | None, str | None, str | None]:
    return entry.experiment, entry.arm, entry.champion, entry.challenger


NO_TRIAL = (None, None, None, None)


def test_an_interleaved_list_has_results_of_both_and_the_log_knows_whose(
    choose: Callable[[str], StubService],
) -> None:
    service = choose("interleaving")
    answer = search(service, "reverse@2")
    entry = find_entry(service, answer)
    assert trial(entry) == ("interleaving", "interleaved", "1", "2")
    assert ids(answer) == [result.product_id for result in entry.results]
    assert sorted(ids(answer)) == LISTS["1"], "no product twice"
    for version, ranking in LISTS.items():
        placed = [result.product_id for result in entry.results if result.version == version]
        assert len(placed) == 2 and placed == sorted(placed, key=ranking.index)
    assert "placed_by" not in answer.text and "arm" not in answer.json()
    assert answer.json()["version"] == "1"
    assert ids(search(service, "reverse@2")) == ids(answer), "a repeated search shows the same list"
    lists = {tuple(ids(search(service, "reverse@2", f"s{number}"))) for number in range(8)}
    assert len(lists) > 1, "another session has other coins"


def test_equal_rankings_are_the_champions_list(choose: Callable[[str], StubService]) -> None:
    service = choose("interleaving")
    answer = search(service, "red mug", filters={"color": ["red"]}, max_price=9)
    entry = find_entry(service, answer)
    assert trial(entry) == ("interleaving", "champion", "1", "2")
    assert ids(answer) == LISTS["1"] and {result.version for result in entry.results} == {"1"}
    assert "'color': ['red']" in answer.json()["results"][0]["title"] and "9.0" in answer.text


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_ab_test_shows_the_list_of_one(choose: Callable[[str], StubService], version: str) -> None:
    service = choose("ab")
    answer = search(service, "reverse@2", find_session("ab", version))
    assert (answer.json()["version"], ids(answer)) == (version, LISTS[version])
    entry = find_entry(service, answer)
    assert trial(entry) == ("ab", {"1": "champion", "2": "challenger"}[version], "1", "2")
    assert (entry.version, entry.index) == (version, "data1")
    assert {result.version for result in entry.results} == {version}


def test_a_shadow_never_touches_the_answer(choose: Callable[[str], StubService]) -> None:
    service = choose("shadow")
    start = time.monotonic()
    answer = search(service, "sleep@2 0.5")
    assert time.monotonic() - start < 0.4 and ids(answer) == LISTS["1"]
    entry = find_entry(service, answer)
    assert trial(entry) == ("shadow", "shadow", "1", "2")
    assert entry.shadow_ms and entry.shadow_ms > 400 > entry.latency_ms
    answer = search(service, "reverse@2")
    assert ids(answer) == LISTS["1"]
    entry = find_entry(service, answer)
    assert entry.shadow_results is not None
    assert [result.product_id for result in entry.shadow_results] == LISTS["2"]
    assert {result.version for result in entry.shadow_results} == {"2"}
    assert {result.version for result in entry.results} == {"1"}


@pytest.mark.parametrize("command", ["fail@2 now", "exit@2 1", "sleep@2 60"])
@pytest.mark.parametrize("kind", ["interleaving", "ab", "shadow"])
def test_a_challenger_that_fails_ends_or_hangs_is_not_noticed(
    choose: Callable[[str], StubService], kind: str, command: str
) -> None:
    """The customer sees the champion's list soon; the search is no part of the experiment; then it goes on."""
    service = choose(kind)
    start = time.monotonic()
    answer = search(service, command, find_session(kind, "2"))
    assert time.monotonic() - start < 1.2
    assert answer.status_code == 200 and ids(answer) == LISTS["1"] and answer.json()["version"] == "1"
    entry = find_entry(service, answer)
    if kind == "shadow":
        assert trial(entry) == ("shadow", "shadow", "1", "2") and entry.shadow_results is None
    else:
        assert trial(entry) == NO_TRIAL and {result.version for result in entry.results} == {"1"}

    def goes_on() -> bool:
        answer = search(service, "reverse@2", find_session(kind, "2"))
        entry = find_entry(service, answer)
        return trial(entry) != NO_TRIAL and (kind != "shadow" or entry.shadow_results is not None)

    wait_until(goes_on)


def test_a_champion_that_fails_fails_the_search(choose: Callable[[str], StubService]) -> None:
    service = choose("interleaving")
    answer = search(service, "fail@1 now")
    entry = find_entry(service, answer)
    assert (answer.status_code, entry.status, trial(entry)) == (500, 500, NO_TRIAL)


def test_without_a_session_or_a_challenger_there_is_no_experiment(
    choose: Callable[[str], StubService],
) -> None:
    service = choose("interleaving")
    answer = search(service, "reverse@2", None)
    assert ids(answer) == LISTS["1"] and trial(find_entry(service, answer)) == NO_TRIAL
    service.challenger = None
    wait_until(lambda: not has_challenger(service))
    answer = search(service, "reverse@2")
    assert ids(answer) == LISTS["1"] and trial(find_entry(service, answer)) == NO_TRIAL


def test_another_pair_is_another_experiment(choose: Callable[[str], StubService]) -> None:
    service = choose("interleaving")

    def pair() -> tuple[str | None, str | None]:
        answer = search(service, "reverse@2")
        assert answer.ok
        entry = find_entry(service, answer)
        return entry.champion, entry.challenger

    service.challenger = "3"
    wait_until(lambda: pair() == ("1", "3"))
    service.live = "3"  # promoted, before its alias is gone
    wait_until(lambda: pair() == (None, None))
    service.challenger = None
    service.live = "1"
    wait_until(lambda: not has_challenger(service))
    assert pair() == (None, None)


def test_versions_with_different_catalogues_are_not_compared(
    choose: Callable[[str], StubService], caplog: pytest.LogCaptureFixture
) -> None:
    """The customer would see products that are gone, and compare catalogues."""
    service = choose("interleaving")
    service.challenger = "4"
    wait_until(lambda: 'index="data2"' in service.get("/metrics").text)
    for _ in range(2):
        answer = search(service, "reverse@4")
        assert ids(answer) == LISTS["1"] and trial(find_entry(service, answer)) == NO_TRIAL
    # the champion of another test may be in it
    warnings = [text for text in caplog.messages if "and version 4 have indexes of different data" in text]
    assert len(warnings) == 1 and "run python -m serving refresh" in warnings[0]
    assert service.read_metric("vitrine_challenger_failures_total", reason="catalogue") == 2


def test_many_searches_do_not_wait_for_a_challenger_that_hangs(choose: Callable[[str], StubService]) -> None:
    service = choose("interleaving")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: search(service, "sleep@2 60"), range(4 * PENDING)))
    assert all(ids(answer) == LISTS["1"] for answer in answers)
    assert service.read_metric("vitrine_challenger_failures_total", reason="busy") > 0
    assert service.read_metric("vitrine_challenger_failures_total", reason="slow") > 0


def test_the_end_of_the_service_logs_searches_in_the_shadow(tmp_path: Path) -> None:
    log = ListLog()
    with run_service(tmp_path, PARAMS, log, create_params("shadow")) as service:
        wait_until(lambda: has_challenger(service))
        search(service, "sleep@2 1")
        assert not log.entries
    (entry,) = log.entries
    assert isinstance(entry, Search) and entry.arm == "shadow" and entry.shadow_results is None


@pytest.mark.parametrize(
    ("kind", "folder", "key", "served", "problem"),
    [
        ("ab", None, "k", "champion", "log.folder is null: an experiment is read from the log"),
        ("ab", "log", None, "champion", "set the environment variable VITRINE_LOG_KEY to a secret"),
        ("ab", "log", "k", "version 3", "but version 3 is served: start without --alias and --version"),
    ],
)
def test_an_experiment_that_nobody_could_read_is_refused(
    kind: str, folder: str | None, key: str | None, served: str, problem: str
) -> None:
    with pytest.raises(DataError, match=f"experiment.kind is {kind}.*{problem}"):
        check_experiment(create_params(kind), LogParams(folder=folder), key, served)
    check_experiment(ExperimentParams(), LogParams(folder=folder), key, served)
    check_experiment(create_params(kind), LogParams(folder="log"), "k", "champion")
