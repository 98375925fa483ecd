"""From sessions that are assigned, through a log of files, to the result on the version."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from vitrine_judge.online import Day, OnlineResult, OnlineRule

from catalog.request_log import COLUMNS, EVENTS, SEARCHES, LogFolder
from catalog.schema import DataError
from registry import mlflow_store
from registry.model_registry import ModelRegistry
from registry.online_results import PAGE_FILE, read_online_result
from serving.experiment import Experiment
from serving.experiment_log import ExperimentLog, Pair, read_experiment
from serving.experiment_outcomes import Outcomes, measure_outcomes
from serving.experiment_page import describe_preference, describe_shadow, render_page
from serving.experiment_report import main
from serving.log_files import file_path, write_table
from serving.log_rows import Event, Result, Search
from serving.params import ExperimentParams, LogParams
from serving.request_log import RequestLog
from serving.shadow_comparison import Comparison

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from selenium.webdriver import Chrome

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
END = START + 30 * DAY
EQUAL, BETTER = (0.3, 0.3), (0.15, 0.3)  # noise of challenger and champion in bench/interleaving.py
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    return importlib.import_module("interleaving")


def simulate(
    bench: ModuleType, params: ExperimentParams, noises: tuple[float, float], day: int, daily: int, seed: int
) -> Rows:
    """The log of a day: sessions of one search each, assigned and merged as the service does it."""
    rng = np.random.default_rng([seed, day])
    experiment = Experiment(params, "1", "2")
    drawn = bench.draw_sessions(noises, daily, rng)
    rows: Rows = {SEARCHES: [], EVENTS: []}
    for number in range(daily):
        session, request = f"{seed}-{day}-{number}", f"{seed:x}{day:x}{number:x}"
        if (arm := experiment.arm(session)) is None:
            continue
        challenger, champion = (
            [{"product_id": str(item)} for item in ranking[number]] for ranking in drawn.rankings
        )
        shown, placed = (challenger, "2") if arm == "challenger" else (champion, "1")
        placed_by = [placed] * bench.K
        if arm == "interleaved":
            shown, placed_by, arm = experiment.merge(champion, challenger, bench.K, session, "q")
        time = START + day * DAY + timedelta(seconds=3600 * number / daily)
        results = [
            {"product_id": product["product_id"], "score": 0.5, "version": version}
            for product, version in zip(shown, placed_by, strict=True)
        ]
        row = {
            "request_id": request,
            "time": time,
            "session": session,
            "arm": arm,
            "results": results,
            "latency_ms": 5,
        }
        rows[SEARCHES].append(row | {"experiment": params.kind, "champion": "1", "challenger": "2"})
        items = np.array([[int(product["product_id"]) for product in shown]])
        chances = bench.click_chances(drawn.attractiveness[number : number + 1], items)[0]
        for item in items[0][rng.random(bench.K) < chances].tolist():
            event = {"request_id": request, "time": time + timedelta(seconds=9), "product_id": str(item)}
            rows[EVENTS].append(event | {"kind": "click", "session": session})
    return rows


def write_day(address: str, day: int, rows: Rows) -> None:
    log = LogFolder.open(address)
    for table, part in rows.items():
        hours: dict[datetime, list[dict[str, Any]]] = {}
        for row in part:
            hours.setdefault(row["time"].replace(minute=0, second=0, microsecond=0), []).append(row)
        for hour, group in hours.items():
            path = file_path(log, table, hour, "ab", day, day)
            write_table(log, path, pa.Table.from_pylist(group, schema=COLUMNS[table]))


def create_params(kind: str, share: float = 1.0) -> ExperimentParams:
    return ExperimentParams(kind=kind, share=share)  # type: ignore[arg-type]


def look(address: str, until: datetime = END) -> Outcomes:
    return measure_outcomes(read_experiment(address, Pair("1", "2"), None, None, until), until, 100)


@pytest.fixture
def registry(client: "MlflowClient") -> ModelRegistry:
    """Version 1 is the champion, version 2 the challenger."""
    registry = ModelRegistry(client, "product-search")
    experiment = mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)
    for number, alias in (("1", "champion"), ("2", "challenger")):
        run = client.create_run(experiment).info.run_id
        client.create_model_version(registry.name, f"runs:/{run}/model", run)
        client.set_registered_model_alias(registry.name, alias, number)
    return registry


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "log")


def report(monkeypatch: pytest.MonkeyPatch, folder: str, *flags: str) -> str:
    """Run the command; the page."""
    monkeypatch.setattr(sys, "argv", ["experiment", "--log", folder, "--until", END.isoformat(), *flags])
    Path("serving.yaml").write_text("{}")
    main()
    return Path("artifacts/experiment.html").read_text()


def test_a_better_challenger_is_preferred_and_the_version_says_so(
    bench: ModuleType,
    registry: ModelRegistry,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = create_params("interleaving", share=0.5)
    for day in range(2):
        write_day(folder, day, simulate(bench, params, BETTER, day, 900, seed=1))
    page = report(monkeypatch, folder)
    output = capsys.readouterr().out
    assert output.startswith(
        "interleaving: version 2 against the champion, version 1, 2026-11-01 to 2026-11-02\n"
    )
    assert "Customers prefer this version: preference +0." in output
    assert "end the experiment (experiment.kind: none), then run python -m registry judge 2." in output
    assert "<h1>Customers prefer version 2</h1>" in page and 'class="plot"' in page

    version = registry.get_version("2")
    result = read_online_result(version, "1")
    assert result and result == look(folder).result
    tags = dict(version.tags)
    assert tags["vitrine.online.decided_at"] == result.find_verdict_date(0.95) != ""
    assert float(tags["vitrine.online.low"]) > 0
    assert 600 < int(tags["vitrine.online.sessions"]) < 1000, "half of the sessions take part"
    assert report(monkeypatch, folder) == page and dict(registry.get_version("2").tags) == tags
    artifacts = [file.path for file in registry.client.list_artifacts(str(version.run_id))]
    assert PAGE_FILE in artifacts


def test_an_ab_test_shows_the_same_difference_as_click_through(
    bench: ModuleType, registry: ModelRegistry, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_day(folder, 0, simulate(bench, create_params("ab"), BETTER, 0, 1500, seed=2))
    outcomes = look(folder)
    (challenger, high), (champion, low) = (outcomes.click_through[arm] for arm in ("challenger", "champion"))
    assert outcomes.result is not None
    measured = outcomes.result.measure(0.95)[-1]
    assert measured.sessions == min(challenger, champion)
    assert measured.mean == pytest.approx(high - low, abs=0.02) and measured.mean > 0
    page = report(monkeypatch, folder)
    assert "Sessions with a click" in page and "A/B test: version 2 against the champion, version 1" in page
    assert registry.get_version("2").tags["vitrine.online.kind"] == "ab"


def test_a_shadow_is_reported_and_is_no_evidence(
    registry: ModelRegistry, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [Result("a", 0.5, "1"), Result("b", 0.4, "1")]
    search = Search(
        request_id="r", time=START, session="s", text="mug", has_picture=False, filters="{}", k=2, version="1",
        index="f", results=shown, latency_ms=5.0, status=200, experiment="shadow", arm="shadow", champion="1",
        challenger="2", shadow_results=[Result("b", 0.5, "2"), Result("c", 0.5, "2")], shadow_ms=7.0,
    )  # fmt: skip
    with RequestLog(LogParams(folder=folder, retention_days=36_500)) as log:
        log.add(search)
        log.add(replace(search, request_id="q", shadow_results=None, shadow_ms=None))
        log.add(
            replace(search, request_id="other", experiment=None, arm=None, champion=None, challenger=None)
        )
        log.add(Event("r", START, "a", "click", "s"))
    page = report(monkeypatch, folder)
    assert "<h1>Version 2 shows 50 % of the champion&#39;s products</h1>" in page
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["searches", "answered", "2", "1"] in lines
    version = registry.get_version("2")
    assert version.tags["vitrine.online.shadow_overlap"] == "0.5"
    assert version.tags["vitrine.online.shadow_failed"] == "0.5"
    assert read_online_result(version, "1") is None


OUTCOMES = Outcomes(
    OnlineResult("ab", (Day("2026-11-01", 10, 80, 10), Day("2026-11-02", 50, 500, 250))),
    {"sessions": 2000, "sessions that are not over": 7},
    {"challenger": (1000, 0.4), "champion": (1000, 0.2)},
)
SHADOW = Comparison(10, 0.1, 0.5, 0.2, 0.7, 0.0, 0.1, 5.0, 7.0, 9.0, 12.0)


@pytest.mark.parametrize("kind", ["ab", "shadow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_the_page(
    browser: "Chrome",
    axe: Callable[[], list[str]],
    width: int,
    requested: Callable[[], list[str]],
    tmp_path: Path,
    kind: str,
    scheme: str,
) -> None:
    searches = pa.table({"time": pa.array([START, END])})
    log = ExperimentLog(kind, Pair("1", "2"), searches, searches)
    assert OUTCOMES.result
    content = (
        describe_preference(log.pair, OUTCOMES, OUTCOMES.result, OnlineRule())
        if kind == "ab"
        else describe_shadow(log, SHADOW)
    )
    page = tmp_path / "experiment.html"
    page.write_text(render_page("<i>search</i>", log, content), encoding="utf-8")
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert axe() == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert requested() == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_rule_of_the_gate_decides_what_the_report_says(
    bench: ModuleType, registry: ModelRegistry, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_day(folder, 0, simulate(bench, create_params("interleaving"), BETTER, 0, 300, seed=1))
    Path("params.yaml").write_text(
        yaml.safe_dump({"register": {"online": {"min_sessions": 5000, "confidence": 0.9}}})
    )
    page = report(monkeypatch, folder)
    assert "At least 5,000 are required." in page and "90 % interval" in page
    assert "Go on, and look whenever you like" in page
    assert registry.get_version("2").tags["vitrine.online.confidence"] == "0.9"


def test_what_cannot_be_reported_is_one_message(
    bench: ModuleType, registry: ModelRegistry, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "experiment with champion 1 and challenger 2: the log has"
    with pytest.raises(DataError, match=f"{prefix} no search of it"):
        report(monkeypatch, folder)
    write_day(folder, 0, simulate(bench, create_params("interleaving"), EQUAL, 0, 20, seed=1))
    with pytest.raises(
        DataError, match=r"no session counts yet: (\d+) sessions; \1 sessions that are not over; "
    ):
        report(monkeypatch, folder, "--until", "2026-11-01T00:20", "--since", "2026-11-01")
    write_day(folder, 1, simulate(bench, create_params("ab"), EQUAL, 1, 20, seed=1))
    with pytest.raises(DataError, match=rf"{prefix} several kinds of it \(ab, interleaving\): choose --kind"):
        report(monkeypatch, folder)
    assert "interleaving: version 2" in report(monkeypatch, folder, "--kind", "interleaving")
    with pytest.raises(DataError, match="with champion 1 and challenger 3: the log has no search"):
        report(monkeypatch, folder, "--challenger", "3")
    registry.client.delete_registered_model_alias(registry.name, "challenger")
    with pytest.raises(DataError, match="product-search has no challenger; name the versions: --champion N"):
        report(monkeypatch, folder)
    monkeypatch.setattr(sys, "argv", ["experiment"])
    with pytest.raises(DataError, match=r"serving.yaml: log.folder is null; name the log with --log"):
        main()


@pytest.mark.slow
def test_two_equal_rankers_rarely_get_a_verdict_though_people_look_every_day(bench: ModuleType) -> None:
    """50 experiments of five days, each looked at every day through its files: about 5 % may decide."""
    params, verdicts, sessions = create_params("interleaving"), 0, 0
    for seed in range(50):
        address = f"memory://experiment-{seed}"
        is_decided = False
        for day in range(5):
            write_day(address, day, simulate(bench, params, EQUAL, day, 60, seed))
            result = look(address, START + (day + 1) * DAY).result
            assert result is not None
            is_decided |= bool(result.find_verdict_date(0.95))
        verdicts += is_decided
        sessions += result.measure(0.95)[-1].sessions
    assert sessions > 0.9 * 50 * 5 * 60, "nearly all sessions are over, and saw different rankings"
    assert verdicts <= 5
