"""`python -m serving monitor`: the page, MLflow, the webhook, its errors."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from request_logs import START, event, search, write_log

from catalog.command import run_command
from catalog.request_log import EVENTS, SEARCHES
from serving.monitor.aggregation import Period
from serving.monitor.command import EXPERIMENT, main, measure
from serving.monitor.figures import FIGURES
from serving.monitor.page import format_estimate, render
from serving.params import load_serving_params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[3]
TEXTS = ["red shirt", "blue or green shirt", "navy", "black clothing"]
OLD = search("old", "red shirt", [], -24 * 40_000)
Watch = Callable[..., int]


def draw_day(day: int, rng: np.random.Generator, empty: float, withheld: bool) -> tuple[list[Any], list[Any]]:
    """The searches and clicks of a day: 60 searches, four products each, one position in two clicked first."""
    searches, events = [], []
    for number in range(60):
        request, hours = f"{day}-{number}", 24 * day + float(rng.uniform(0, 23))
        text = str(rng.choice(TEXTS))
        products = [] if rng.random() < empty else [f"p{place}" for place in rng.permutation(10)[:4]]
        row = {
            "status": 200,
            "latency_ms": float(rng.lognormal(3, 0.3)),
            "version": "1",
            "has_picture": False,
        }
        row |= {"characters": len(text), "words": len(text.split()), "unknown_tokens": 0.0}
        row |= {"withheld": "log.queries"} if withheld else {}
        searches.append(search(request, None if withheld else text, products, hours, **row))
        if products and rng.random() < 0.5:
            events.append(event(request, products[0], hours=hours))
    return searches, events


def monitor(*words: str) -> int:
    """Run the command; returns its exit code."""
    try:
        return run_command(lambda: main(words))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.fixture
def prepare(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Write a log of eight days with a share of empty results on the last one; the options to watch that day."""
    log = tmp_path / "log"

    def prepare(empty: float = 0.0, withheld: bool = False) -> list[str]:
        rng = np.random.default_rng(0)
        shutil.rmtree(log, ignore_errors=True)
        days = [draw_day(day, rng, empty if day == 7 else 0.02, withheld) for day in range(8)]
        write_log(str(log), SEARCHES, [OLD, *(row for searches, _ in days for row in searches)])
        write_log(str(log), EVENTS, [row for _, events in days for row in events])
        limits = "{min_searches: 50, compared: 400}"
        settings = f"log: {{folder: {log}, retention_days: 36500}}\nmonitor: {limits}\n"
        (tmp_path / "serving.yaml").write_text(settings)
        return list_options(tiny_data)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return prepare


def list_options(data: Path) -> list[str]:
    since = (START + timedelta(days=7)).date().isoformat()
    options = ["--params", str(ROOT / "params.yaml"), "--since", since, "--until", "2026-12-05"]
    return ["--data", str(data), *options]


@pytest.fixture
def watch(client: "MlflowClient", prepare: Callable[..., list[str]]) -> Watch:
    """Write a log and watch its last day."""
    return lambda *arguments: monitor(*prepare(*arguments))


def find_runs(client: "MlflowClient") -> list[Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.usefixtures("client")  # no champion, whatever store another test has used
def test_the_page_has_the_figures(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    options = prepare(0.5)
    params, data = load_serving_params(tmp_path / "serving.yaml"), Path(options[1])
    periods = [
        Period(START + timedelta(days=first), START + timedelta(days=last))
        for first, last in ((0, 7), (7, 8))
    ]
    report = measure(data, (periods[0], periods[1]), params, "product-search")
    page = render(report, params.monitor)
    figures = [format_estimate(figure.measure(report.current), figure.format) for figure in FIGURES.values()]
    for text in ("1 of 9 rules fail", "By query length", "no champion: no drift of embeddings", *figures):
        assert text in page, text
    assert report.current.totals.empty == 31


@pytest.mark.slow
def test_a_usual_day(
    watch: Watch,
    client: "MlflowClient",
    tmp_path: Path,
    webhook: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert watch() == 0
    assert "passed     searches without a result: 0.00 %" in capsys.readouterr().out
    page = (tmp_path / "artifacts" / "monitor.html").read_text()
    days = sorted(path.name for path in (tmp_path / "log" / SEARCHES).iterdir())
    assert days[0] == "date=2026-11-27", "files older than log.retention_days are deleted"
    for text in (
        "No rule fails",
        "60 searches, compared with 420",
        "position 1",
        "product-search has no champion",
    ):
        assert text in page, text
    (run,) = find_runs(client)
    metrics = run.data.metrics
    assert (metrics["searches"], metrics["reference/searches"], metrics["failed_rules"]) == (60, 420, 0)
    assert metrics["coverage"] == 10 / 12 and metrics["empty_share"] == 0
    assert metrics["searches_per_day"] == metrics["reference/searches_per_day"] == 60
    assert f"{100 * metrics['click_through']:.2f} %" in page
    assert {"drift/lengths", "drift/languages", "drift/unknown_tokens"} <= metrics.keys()
    assert run.data.tags["vitrine.verdict"] == "passed" and webhook == []


@pytest.mark.slow
def test_a_rule_that_fails_is_told_and_a_repeated_call_logs_the_same_run(
    watch: Watch, client: "MlflowClient", webhook: list[Any]
) -> None:
    assert watch(0.5) == 1
    assert watch(0.5) == 1
    first, *lines, link = webhook[0]["text"].splitlines()
    assert first == ("Vitrine: 1 of 9 rules fail for searches of 2026-12-04 00:00 to 2026-12-05 00:00 UTC")
    assert lines[0].startswith("searches without a result: ") and lines[0].endswith("; at most 10.00 %")
    (run,) = find_runs(client)
    assert link.endswith(f"runs/{run.info.run_id}/artifacts/monitor.html?workflowType=machine_learning")
    assert run.data.tags["vitrine.reasons"] == "\n".join(lines)
    history = client.get_metric_history(run.info.run_id, "searches")
    assert [point.value for point in history] == [60]
    assert watch(0.0) == 0  # rows that came late, say
    (run,) = find_runs(client)
    assert run.data.metrics["empty_share"] == 0 and run.data.tags["vitrine.verdict"] == "passed"


@pytest.mark.slow
def test_a_log_without_texts_is_watched_too(watch: Watch, tmp_path: Path) -> None:
    assert watch(0.0, True) == 0
    page = (tmp_path / "artifacts" / "monitor.html").read_text()
    assert "A period has no texts" in page and "unknown tokens" in page


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--since", "yesterday"], "--since yesterday: not a time; write it like 2026-11-28"),
        (["--since", "2026-12-06"], "the period ends before it starts; give --since and --until"),
        (["--since", "2020-01-01", "--until", "2020-01-02"], "no searches in 2019-12-25 00:00 to"),
        (["--settings", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_errors_are_one_line(
    words: list[str],
    problem: str,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serving.yaml").write_text("log: {folder: log}")
    assert monitor(*list_options(tiny_data), *words) == 1
    error = capsys.readouterr().err
    assert problem in error and len(error.splitlines()) == 1


def test_without_a_log_there_is_nothing_to_watch(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert monitor("--data", str(tiny_data), "--page", str(tmp_path / "page.html")) == 1
    assert "log.folder of serving.yaml is null" in capsys.readouterr().err


def test_everybody_can_use_the_page(
    browser: "Chrome",
    axe: Callable[[], list[str]],
    width: int,
    watch: Watch,
    tmp_path: Path,
    requested: Callable[[], list[str]],
) -> None:
    watch(0.5)
    browser.get((tmp_path / "artifacts" / "monitor.html").as_uri())
    assert axe() == []
    assert requested() == []
    assert browser.execute_script("const d = document.documentElement; return d.scrollWidth <= d.clientWidth")
    bars = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(plot => plot.getBoundingClientRect().width)"
    )
    assert len(bars) >= 4 and min(bars) > 200, json.dumps(bars)
