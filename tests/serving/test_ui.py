"""What a reviewer sees: MLflow's own pages, of a real server, in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from registry import local_stack, tracking
from registry.model_registry import HISTORY
from serving import ui

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

NAME = "product-search"
LIMIT = 180  # seconds for a page to show what it should

CLOSE = (
    'document.querySelectorAll(\'[aria-label="Close"], [data-testid*="close"]\').forEach(one => one.click())'
)
Look = Callable[..., None]
Reviewed = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def reviewed(
    two_versions: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reviewed]:
    """The address of a server that has a champion and a challenger, and the run of each."""
    import mlflow

    root = tmp_path_factory.mktemp("ui")
    port = local_stack.free_port()
    with (
        pytest.MonkeyPatch.context() as patch,
        local_stack.server(root, port, f"sqlite:///{root / 'mlflow.db'}", str(root / "artifacts")),
    ):
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        patch.chdir(root)
        mlflow.set_tracking_uri(None)
        two_versions(root)
        client = tracking.connect()
        runs = {str(one.version): one.run_id for one in client.search_model_versions(f"name = '{NAME}'")}
        runs["history"] = client.get_registered_model(NAME).tags[HISTORY]
        yield f"http://127.0.0.1:{port}", runs
        mlflow.set_tracking_uri(None)


@pytest.fixture
def look(
    browser: "Chrome",
    reviewed: Reviewed,
    keep: Callable[[str], None],
    sent_requests: Callable[[], list[dict[str, Any]]],
) -> Look:
    """Open a page of MLflow's, wait until it shows some texts, keep a picture of it; all that it shows."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def shown() -> str:
        return browser.execute_script("return document.body.innerText")

    def look(path: str, picture: str, wanted: list[str], search: str = "", framed: str = "") -> None:
        browser.get("about:blank")
        # as for who opens MLflow for the first time: it keeps its view and searches
        storage = {"origin": reviewed[0], "storageTypes": "local_storage"}
        browser.execute_cdp_cmd("Storage.clearDataForOrigin", storage)
        browser.get(path if path.startswith("http") else f"{reviewed[0]}/#/{path}")
        wait = WebDriverWait(browser, LIMIT)
        if search:
            field = wait.until(lambda _: browser.find_elements("css selector", "input[placeholder^=Search]"))[
                0
            ]
            field.send_keys(search)
        try:
            wait.until(lambda _: all(text in shown() for text in wanted), f"{picture} shows {wanted}")
            if framed:
                frame = wait.until(lambda _: browser.find_elements("css selector", "iframe"))[0]
                browser.switch_to.frame(frame)
                wait.until(lambda _: framed in shown(), f"{picture} shows '{framed}' in its frame")
                assert browser.execute_script(
                    "return [...document.images].every(one => one.naturalWidth > 0)"
                )
            urls = [event["request"]["url"] for event in sent_requests()]
            hosts = {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}
            assert hosts == {"127.0.0.1"}
        finally:
            browser.switch_to.default_content()
            browser.execute_script(CLOSE)
            keep(picture)
            print(shown())

    return look


def test_the_run(look: Look, reviewed: Reviewed) -> None:
    wanted = [
        "version 1 · champion",
        "Gate passed: version 1 may be promoted",
        "Open the decision page",
        "ndcg_at_10",
        "vitrine.data",
        "Training And Evaluation",
        "v1",
    ]
    look(f"experiments/1/runs/{reviewed[1]['1']}", "run", wanted)


def test_its_learning_curves(look: Look, reviewed: Reviewed) -> None:
    path = f"experiments/1/runs/{reviewed[1]['1']}/model-metrics"
    look(path, "curves", ["loss", "score", "pairs", "tags"], search="train/")


def test_its_report(look: Look, reviewed: Reviewed) -> None:
    path = f"experiments/1/runs/{reviewed[1]['1']}/artifacts/evaluation/report.html"
    look(path, "report", ["report.html"], framed="Where it is better, where it is worse")


def test_the_baselines_are_a_table(look: Look, reviewed: Reviewed) -> None:
    path = f"experiments/1/runs/{reviewed[1]['1']}/artifacts/systems.json"
    look(path, "systems", ["systems.json", "system", "bm25", "fused", "ndcg@10"])


def test_curves_come_before_charts_of_one_bar(look: Look, reviewed: Reviewed, browser: "Chrome") -> None:
    """MLflow draws a bar for each metric of one value; those of baselines and surveys are tables instead."""
    path = f"experiments/1/runs/{reviewed[1]['1']}/model-metrics"
    look(path, "metrics", ["version 1 · champion (train/loss)"])
    shown = browser.execute_script("return document.body.innerText")
    assert shown.index("(train/loss)") < f"{shown}ndcg_at_10".index("ndcg_at_10")
    assert not {"bm25", "rating", "agreement"} & set(shown.split())


def test_the_version(look: Look) -> None:
    wanted = [
        "challenger",
        "Gate failed: do not promote version 2; ndcg@10 did not improve",
        "Known weaknesses",
    ]
    wanted += ["vitrine.gate", "vitrine.judgements", "vitrine.libraries", "vitrine.compared_with"]
    look(f"models/{NAME}/versions/2", "version", wanted)


@pytest.mark.parametrize("page", ["run", "version"])
def test_the_decision_page_is_one_click_away(
    look: Look, reviewed: Reviewed, browser: "Chrome", page: str
) -> None:
    run = reviewed[1]["2"]
    path = {"run": f"experiments/1/runs/{run}", "version": f"models/{NAME}/versions/2"}[page]
    look(path, f"{page}-link", ["Open the decision page"])
    link = browser.find_element("link text", "Open the decision page")
    verdict = browser.find_element("xpath", "//*[starts-with(text(), 'Gate failed')]")
    assert 0 < link.location["y"] - verdict.location["y"] < 100
    look(link.get_attribute("href"), f"{page}-decision", ["decision.html"], framed="version 2")


def test_the_links_of_make_ui_show_runs_and_versions(
    look: Look, reviewed: Reviewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, versions = (line.split()[1] for line in ui.links(NAME).splitlines())
    assert runs.startswith(reviewed[0])
    look(runs, "experiment", ["version 1 · champion", "version 2 · challenger"])
    look(versions, "model", ["Version 1", "Version 2", "champion"])
    look(tracking.version_url(NAME, "2"), "version-url", ["Gate failed"])


def test_champion_and_challenger_are_told_apart(look: Look, reviewed: Reviewed) -> None:
    one, other = reviewed[1]["1"], reviewed[1]["2"]
    wanted = ["version 1 · champion", "version 2 · challenger"]
    look(f'compare-runs?runs=["{one}","{other}"]&experiments=["1"]', "compare", wanted)


def test_the_history(look: Look, reviewed: Reviewed) -> None:
    look(
        f"experiments/2/runs/{reviewed[1]['history']}",
        "history",
        ["history of product-search", "0001", "by the chain"],
    )
