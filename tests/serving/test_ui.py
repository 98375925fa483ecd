"""MLflow's own pages as a reviewer sees them: a real server in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from registry import local_stack, mlflow_store, mlflow_urls
from registry.champion_history import HISTORY
from serving import ui

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

NAME = "product-search"
LIMIT = 180  # seconds for a page to show its content

CLOSE = 'document.querySelectorAll(\'[aria-label="Close"], [data-testid*="close"]\').forEach(button => button.click())'
Look = Callable[..., None]
Reviewed = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def reviewed(
    two_versions: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reviewed]:
    """The address of a server that has a champion and a challenger, and the run of each."""
    import mlflow

    root = tmp_path_factory.mktemp("ui")
    port = local_stack.find_free_port()
    with (
        pytest.MonkeyPatch.context() as patch,
        local_stack.run_mlflow_server(root, port, f"sqlite:///{root / 'mlflow.db'}", str(root / "artifacts")),
    ):
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        patch.chdir(root)
        mlflow.set_tracking_uri(None)
        two_versions(root)
        client = mlflow_store.connect()
        runs = {str(item.version): item.run_id for item in client.search_model_versions(f"name = '{NAME}'")}
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
    """Open a page of MLflow, wait until it shows some texts, and save a screenshot."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def page_text() -> str:
        return browser.execute_script("return document.body.innerText")

    def look(path: str, picture: str, texts: list[str], search: str = "", framed: str = "") -> None:
        browser.get("about:blank")
        # as on the first visit: MLflow stores its view and searches
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
            wait.until(lambda _: all(text in page_text() for text in texts), f"{picture} shows {texts}")
            if framed:
                frame = wait.until(lambda _: browser.find_elements("css selector", "iframe"))[0]
                browser.switch_to.frame(frame)
                wait.until(lambda _: framed in page_text(), f"{picture} shows '{framed}' in its frame")
                assert browser.execute_script(
                    "return [...document.images].every(image => image.naturalWidth > 0)"
                )
            urls = [event["request"]["url"] for event in sent_requests()]
            hosts = {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}
            assert hosts == {"127.0.0.1"}
        finally:
            browser.switch_to.default_content()
            browser.execute_script(CLOSE)
            keep(picture)
            print(page_text())

    return look


def test_the_run(look: Look, reviewed: Reviewed) -> None:
    texts = [
        "version 1 · champion",
        "Gate passed: version 1 may be promoted",
        "Open the decision page",
        "ndcg_at_10",
        "vitrine.data",
        "Training And Evaluation",
        "v1",
    ]
    look(f"experiments/1/runs/{reviewed[1]['1']}", "run", texts)


def test_its_learning_curves(look: Look, reviewed: Reviewed) -> None:
    path = f"experiments/1/runs/{reviewed[1]['1']}/model-metrics"
    look(path, "curves", ["loss", "score", "pairs", "tags"], search="train/")


def test_its_report(look: Look, reviewed: Reviewed) -> None:
    path = f"experiments/1/runs/{reviewed[1]['1']}/artifacts/evaluation/report.html"
    look(path, "report", ["report.html"], framed="Differences by segment")


def test_the_baselines_are_a_table(look: Look, reviewed: Reviewed) -> None:
    path = f"experiments/1/runs/{reviewed[1]['1']}/artifacts/systems.json"
    look(path, "systems", ["systems.json", "system", "bm25", "fused", "ndcg@10"])


def test_curves_come_before_charts_of_one_bar(look: Look, reviewed: Reviewed, browser: "Chrome") -> None:
    """MLflow draws a bar for each metric of one value; those of baselines and surveys are tables instead."""
    path = f"experiments/1/runs/{reviewed[1]['1']}/model-metrics"
    look(path, "metrics", ["version 1 · champion (train/loss)"])
    page_text = browser.execute_script("return document.body.innerText")
    assert page_text.index("(train/loss)") < f"{page_text}ndcg_at_10".index("ndcg_at_10")
    assert not {"bm25", "rating", "agreement"} & set(page_text.split())


def test_the_version(look: Look) -> None:
    texts = [
        "challenger",
        "Gate undecided: do not promote version 2 yet; ndcg@10 may or may not have improved",
        "Known weaknesses",
    ]
    texts += ["vitrine.gate", "vitrine.judgements", "vitrine.libraries", "vitrine.compared_with"]
    look(f"models/{NAME}/versions/2", "version", texts)


@pytest.mark.parametrize("page", ["run", "version"])
def test_the_decision_page_is_one_click_away(
    look: Look, reviewed: Reviewed, browser: "Chrome", page: str
) -> None:
    run = reviewed[1]["2"]
    path = {"run": f"experiments/1/runs/{run}", "version": f"models/{NAME}/versions/2"}[page]
    look(path, f"{page}-link", ["Open the decision page"])
    link = browser.find_element("link text", "Open the decision page")
    verdict = browser.find_element("xpath", "//*[starts-with(text(), 'Gate undecided')]")
    assert 0 < link.location["y"] - verdict.location["y"] < 100
    look(link.get_attribute("href"), f"{page}-decision", ["decision.html"], framed="version 2")


def test_the_links_of_make_ui_show_runs_and_versions(
    look: Look, reviewed: Reviewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, versions = (line.split()[1] for line in ui.build_links(NAME).splitlines())
    assert runs.startswith(reviewed[0])
    look(runs, "experiment", ["version 1 · champion", "version 2 · challenger"])
    look(versions, "model", ["Version 1", "Version 2", "champion"])
    look(mlflow_urls.version_url(NAME, "2"), "version-url", ["Gate undecided"])


def test_champion_and_challenger_are_compared(look: Look, reviewed: Reviewed) -> None:
    champion, challenger = reviewed[1]["1"], reviewed[1]["2"]
    texts = ["version 1 · champion", "version 2 · challenger"]
    look(f'compare-runs?runs=["{champion}","{challenger}"]&experiments=["1"]', "compare", texts)


def test_the_history(look: Look, reviewed: Reviewed) -> None:
    look(
        f"experiments/2/runs/{reviewed[1]['history']}",
        "history",
        ["history of product-search", "0001", "by the chain"],
    )
