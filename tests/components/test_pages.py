"""The pages of a whole chain with a champion, in a real browser, at every width."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from components.params import ValidateParams
from components.validate import validate

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "product-search"
WIDTHS = (390, 768, 1400)  # pixels, as in the fixture `width`
PAGES = {
    "decision": "artifacts/register/decision.html",
    "report": "artifacts/evaluate/report.html",
    "data": "artifacts/validate/data.html",
    "champion": "artifacts/validate/champion.html",
}
KEPT = ("decision", "data")  # of which the documents have pictures
OVER_THE_EDGE = """
    const wide = document.documentElement.clientWidth;
    return [...document.querySelectorAll('body *')]
      .filter(e => !e.closest('.wide, .strip, pre') && e.getBoundingClientRect().right > wide + 0.5)
      .map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def pages(
    two_versions: Callable[[Path], None],
    data: Path,
    evaluation: Path,
    screenshots: Path | None,
    local_store: Callable[[Path], AbstractContextManager[None]],
    launcher: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Path]]:
    """Name → file; of the project's own chain where pictures are to be kept."""
    if screenshots:
        yield {name: ROOT / path for name, path in PAGES.items()}
        return
    root = tmp_path_factory.mktemp("pages")
    with local_store(root), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(launcher))  # for the champion's process
        two_versions(root)
        validate(data, ValidateParams(model_name=NAME), root / "validate")
        yield {
            "decision": root / "two" / "decision.html",
            "report": evaluation / "report.html",
            "data": root / "validate" / "data.html",
            "champion": root / "validate" / "champion.html",
        }


# The scheme changes colours, which are the same at every width.
LOOKS = [*((width, "light") for width in WIDTHS), (WIDTHS[-1], "dark")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS, indirect=["width"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_complete_without_a_network_and_everybody_can_use_it(
    pages: dict[str, Path],
    browser: "Chrome",
    axe: Callable[[], list[str]],
    requested: Callable[[], list[str]],
    keep: Callable[..., None],
    width: int,
    name: str,
    scheme: str,
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    try:
        browser.get(pages[name].as_uri())
        if (width, scheme) == (1400, "light") and name in KEPT:
            keep(name, colors=256)
        browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
        shown = "return [...document.images].every(image => image.complete && image.naturalWidth)"
        WebDriverWait(browser, 30).until(lambda _: browser.execute_script(shown))
        assert axe() == []
        assert requested() == []
        assert browser.execute_script(OVER_THE_EDGE) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE | {"offline": False})


OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
