"""`make try` as a command, and its page in a real browser."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from catalog import store
from registry import local_stack

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.slow

NAME = "product-search"
ROOT = Path(__file__).parents[3]
LIMIT = 60  # seconds for the page to show something
NARROW = 600  # pixels, below which there are tabs


@pytest.fixture(scope="module")
def address(
    two_versions: Callable[[Path], None],
    data: Path,
    screenshots: Path | None,
    launcher: Path,
    local_store: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of the page, with a champion and a challenger."""
    import mlflow

    root = tmp_path_factory.mktemp("demo")
    (root / "params.yaml").write_text(yaml.safe_dump({"register": {"model_name": NAME}}))
    with local_store(root):
        two_versions(root)
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it
        port = local_stack.find_free_port()
        command = [str(launcher), "-m", "serving.demo.__main__", "--headless", "--port", str(port)]
        command += ["--data", str(ROOT / "data" if screenshots else data)]
        page = f"http://127.0.0.1:{port}"
        with local_stack.run_service(command, root / "log", local_stack.make_page_check(page)):
            yield page
        served = re.findall(r"answers at (http\S+)", (root / "log").read_text())
        assert len(served) == 2
        assert not any(local_stack.make_page_check(url.replace("invocations", "ping"))() for url in served), (
            "a model is still served"
        )


@pytest.fixture
def page(
    browser: "Chrome", address: str, width: int, sent_requests: Callable[[], list[dict[str, Any]]]
) -> Iterator["Chrome"]:
    """The start page at each width; after the test, checks its network requests."""
    sent_requests()  # of the tests before
    browser.get_log("browser")
    browser.get(address)
    yield browser
    urls = [event["request"]["url"] for event in sent_requests()]
    assert urls and {urlsplit(url).netloc for url in urls} == {urlsplit(address).netloc}
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in severe if "400 (Bad Request)" not in message]


def find(page: "Chrome", selector: str) -> "WebElement":
    return page.find_element("css selector", selector)


def visible(page: "Chrome", selector: str) -> list["WebElement"]:
    return [element for element in page.find_elements("css selector", selector) if element.is_displayed()]


def text_of(page: "Chrome") -> str:
    return page.execute_script("return document.body.innerText")


def submit(page: "Chrome", act: Callable[[], None]) -> None:
    """Run an action that opens another page, and wait for that page."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    page.execute_script("window.left = true")
    act()
    # do not use elements of the old page: the driver fails while a new page replaces it
    wait = WebDriverWait(page, LIMIT, ignored_exceptions=[WebDriverException])
    done = "return !window.left && document.readyState === 'complete'"
    wait.until(lambda _: page.execute_script(done))


def search(page: "Chrome", words: str) -> None:
    field = find(page, "#text")
    submit(page, lambda: field.send_keys(words, "\n"))


def check_look(page: "Chrome", axe: Callable[[], list[str]]) -> None:
    """Nothing is wider than the page, every picture is loaded, and axe reports nothing, light or dark."""
    assert page.execute_script("const d = document.documentElement; return d.scrollWidth <= d.clientWidth")
    # pictures below the fold are fetched when they are scrolled to
    page.execute_script("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    from selenium.webdriver.support.ui import WebDriverWait

    loaded = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    WebDriverWait(page, LIMIT).until(lambda _: page.execute_script(loaded))
    for scheme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        assert axe() == [], scheme


def test_both_models_answer_words(
    page: "Chrome",
    width: int,
    data: Path,
    axe: Callable[[], list[str]],
    screenshots: Path | None,
    keep: Callable[..., None],
) -> None:
    check_look(page, axe)
    assert "Champion · version 1 and challenger · version 2 answer each search." in text_of(page)
    search(page, "red dotted mug")
    assert page.current_url.endswith("/?text=red+dotted+mug")
    columns = page.find_elements("css selector", ".column")
    assert [column.is_displayed() for column in columns] == [True, width >= NARROW]
    titles = [title.text for title in visible(page, ".product h3")]
    data_set = ROOT / "data" if screenshots else data
    assert set(titles) <= set(store.read_table(data_set, "products", ["title"])["title"].to_pylist())
    assert len(titles) == (16 if width >= NARROW else 8)
    assert titles[:8] == titles[-8:]  # the models are copies
    if width >= NARROW:
        tops = {round(column.rect["y"]) for column in columns}
        assert len(tops) == 1, "the columns are not side by side"
    assert re.search(r"8 products in \d+ ms", text_of(page))
    check_look(page, axe)
    page.execute_script("window.scrollTo(0, 0)")
    if width == 1400:
        keep("demo", colors=256)  # for the products' pictures


def test_tabs_by_keyboard(page: "Chrome", width: int) -> None:
    from selenium.webdriver import ActionChains, Keys

    search(page, "mug")
    tabs = visible(page, ".tabs")
    assert bool(tabs) == (width < NARROW)
    if tabs:
        champion, challenger = page.find_elements("css selector", ".column")
        find(page, ".vote summary").click()  # closed again; focus stands before the tabs
        find(page, ".vote summary").click()
        ActionChains(page).send_keys(Keys.TAB, Keys.ARROW_RIGHT).perform()
        assert (champion.is_displayed(), challenger.is_displayed()) == (False, True)
        label = find(page, "#tab-2").find_element("xpath", "..")
        assert "3px" in label.value_of_css_property("outline")
        ActionChains(page).send_keys(Keys.ARROW_LEFT).perform()
        assert (champion.is_displayed(), challenger.is_displayed()) == (True, False)


def test_a_picture_alone_then_with_words(page: "Chrome", data: Path, tmp_path: Path) -> None:
    image = store.read_table(data, "products", ["images"])["images"].drop_null()[0].as_py()[0]
    (tmp_path / "photo.png").write_bytes(image["bytes"])
    find(page, "#upload").send_keys(str(tmp_path / "photo.png"))
    button = find(page, ".search .main")
    submit(page, button.click)
    assert re.search(r"/\?picture=[0-9a-f]{32}$", page.current_url)
    assert len(page.find_elements("css selector", ".product")) == 16
    assert page.execute_script("return document.querySelector('.subject img').naturalWidth") > 0
    search(page, "red")
    assert re.search(r"/\?text=red&picture=[0-9a-f]{32}$", page.current_url)
    remove = find(page, ".subject a")
    submit(page, remove.click)
    assert page.current_url.endswith("/?text=red")


def test_an_upload_that_is_not_a_picture(
    page: "Chrome", tmp_path: Path, axe: Callable[[], list[str]]
) -> None:
    (tmp_path / "photo.png").write_text("no picture")
    find(page, "#upload").send_keys(str(tmp_path / "photo.png"))
    button = find(page, ".search .main")
    submit(page, button.click)
    assert find(page, "[role=alert]").text.startswith("photo.png: this picture cannot be used")
    check_look(page, axe)


def test_filters(page: "Chrome", width: int, axe: Callable[[], list[str]]) -> None:
    from selenium.webdriver.support.ui import Select

    search(page, "mug")
    assert bool(visible(page, "#brand")) == (width >= NARROW)
    if width < NARROW:
        find(page, ".toggle").click()
    brand = Select(find(page, "#brand")).options[1].get_attribute("value")
    Select(find(page, "#brand")).select_by_value(brand)
    find(page, "#max_price").send_keys("5000")
    apply = find(page, ".filters button")
    submit(page, apply.click)
    assert f"&brand={brand}&max_price=5000" in page.current_url
    assert all(facts.text.startswith(brand) for facts in visible(page, ".facts"))
    assert visible(page, "#brand")
    check_look(page, axe)
    chip = find(page, ".chips a")
    submit(page, chip.click)
    assert "brand" not in page.current_url and "max_price=5000" in page.current_url


def test_similar_products(page: "Chrome", axe: Callable[[], list[str]]) -> None:
    search(page, "mug")
    title = find(page, ".product h3").text
    link = find(page, ".product .similar")
    submit(page, link.click)
    assert f"Like {title}" in text_of(page)
    assert len(page.find_elements("css selector", ".product")) == 16
    assert title not in [heading.text for heading in page.find_elements("css selector", ".product h3")]
    check_look(page, axe)


def test_a_vote_by_keyboard(page: "Chrome", width: int, axe: Callable[[], list[str]]) -> None:
    from selenium.webdriver import Keys

    search(page, f"a mug at {width} pixels")
    assert "Are the challenger’s results better than the champion’s?" in text_of(page)
    button = find(page, ".vote button[value=worse]")
    submit(page, lambda: button.send_keys(Keys.ENTER))
    assert "Your vote is saved: the challenger is worse." in text_of(page)
    assert find(page, ".vote button[value=worse]").get_attribute("aria-pressed") == "true"
    find(page, ".vote summary").click()
    assert "dvc add" in find(page, ".vote pre").text
    check_look(page, axe)


def run_demo(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder with its own store."""
    (folder / "params.yaml").write_text("register: {}")
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "serving.demo.__main__", "--headless", *flags],
        cwd=folder,
        env=env | {"DVC_ROOT": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("warm_start")
def test_no_model_to_serve(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    done = run_demo(tmp_path)
    assert done.returncode == 1
    assert "product-search has neither champion nor challenger; run the chain first" in done.stderr
    assert "Traceback" not in done.stderr
