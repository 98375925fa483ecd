"""`make try`, in a real browser."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from selenium.webdriver.support.ui import WebDriverWait

from catalog import store
from components import services

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.slow

NAME = "product-search"
ROOT = Path(__file__).parents[2]
LIMIT = 180  # seconds for the page to show what it should


@pytest.fixture(scope="module")
def address(
    two_versions: Callable[[Path], None],
    data: Path,
    screenshots: Path | None,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Of the page, beside a champion and a challenger."""
    import mlflow

    root = tmp_path_factory.mktemp("showroom")
    shutil.copy(empty_store, root / "mlflow.db")
    (root / "params.yaml").write_text(yaml.safe_dump({"register": {"model_name": NAME}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_TRACKING_URI")
        two_versions(root)
        mlflow.set_tracking_uri(None)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        port = services.free_port()
        command = [sys.executable, "-m", "components.showroom", "--headless", "--port", str(port)]
        command += ["--data", str(ROOT / "data" if screenshots else data)]
        page = f"http://127.0.0.1:{port}"
        with services.running(command, root / "log", services.answers(f"{page}/_stcore/health")):
            yield page
        served = re.findall(r"answers at (http\S+)", (root / "log").read_text())
        assert len(served) == 2
        assert not any(services.answers(one.replace("invocations", "ping"))() for one in served), (
            "a model is still served"
        )


@pytest.fixture(params=[390, 1400])
def page(browser: "Chrome", address: str, request: pytest.FixtureRequest) -> "Chrome":
    size = {"width": request.param, "height": 844, "deviceScaleFactor": 1, "mobile": request.param < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    return browser


def shows(page: "Chrome", pattern: str) -> str:
    """All that the page says, once it says that."""

    def said(_: object) -> str | None:
        text = page.execute_script("return document.body.innerText")
        return text if re.search(pattern, text) else None

    try:
        return WebDriverWait(page, LIMIT).until(said)
    except Exception:
        print(page.execute_script("return document.body.innerText"))
        raise


def field(page: "Chrome", selector: str) -> "WebElement":
    """A field, once it is there: Streamlit fetches the code of each kind when it first needs it."""
    return WebDriverWait(page, LIMIT).until(lambda _: page.find_elements("css selector", selector))[0]


def test_both_models_answer_words(
    page: "Chrome", data: Path, screenshots: Path | None, keep: Callable[[str], None]
) -> None:
    shows(
        page, "Type something or drop a picture: champion · version 1 and challenger · version 2 will answer"
    )
    field(page, "input[type=text]").send_keys("red dotted mug\n")
    text = shows(
        page,
        r"(?s)champion · version 1.*8 products in \d+ ms.*challenger · version 2.*8 products in \d+ ms.*\n8\. .*score",
    )
    shop = ROOT / "data" if screenshots else data
    titles = set(store.read(shop, "products", ["title"])["title"].to_pylist())
    shown = re.findall(r"(?m)^\d\. (.*)$", text)
    assert len(shown) == 16 and set(shown) <= titles and shown[:8] == shown[8:]
    assert re.search(r"score \d\.\d{3}, owed to", text)
    loaded = (
        "return [...document.images].length > 8 && [...document.images].every(one => one.naturalWidth > 0)"
    )
    WebDriverWait(page, LIMIT).until(lambda _: page.execute_script(loaded))
    wide = "const d = document.documentElement; return d.scrollWidth <= d.clientWidth"
    assert page.execute_script(wide)
    keep("showroom")


def test_a_picture_alone(page: "Chrome", data: Path, tmp_path: Path) -> None:
    shows(page, "Type something or drop a picture")
    image = store.read(data, "products", ["image"])["image"].to_pylist()[0]
    (tmp_path / "photo.png").write_bytes(image["bytes"])
    field(page, "input[type=file]").send_keys(str(tmp_path / "photo.png"))
    shows(page, r"(?s)8 products in.*8 products in")


def test_what_is_no_picture_is_said(page: "Chrome", tmp_path: Path) -> None:
    shows(page, "Type something or drop a picture")
    (tmp_path / "photo.png").write_text("no picture")
    field(page, "input[type=file]").send_keys(str(tmp_path / "photo.png"))
    text = shows(page, "photo.png: this picture cannot be used")
    assert "Traceback" not in text


def test_nothing_to_try(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "params.yaml").write_text("register: {}")
    unset = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-m", "components.showroom", "--headless"],
        cwd=tmp_path,
        env=unset | {"DVC_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "product-search has neither champion nor challenger to try; run the chain first" in done.stderr
    assert "Traceback" not in done.stderr
