"""A data format that is added by one file in the folder `plugins/`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import plugins
from catalog import store
from catalog.__main__ import main
from catalog.sources import SOURCES

FORMAT = '''
from collections.abc import Iterator

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.schema import EXACT, HUMAN
from catalog.sources import query_rows, source
from catalog.text import normalise


@source("shop_export")
def shop_export(files: Files, *, prefix: str = "p", undocumented: int = 0) -> Iterator[Row]:
    """Shop export: export.csv with product, title and search, 100 % of our own.

    Args:
        files: The folder.
        prefix: Put before each id.
    """
    table = files.require("export.csv")
    searches: dict[str, str] = {}
    for record in read_rows(files, table, ["product", "title", "search"]):
        product_id = prefix + record.values["product"]
        searches[normalise(record.values["search"]) or ""] = product_id
        yield Row("products", record.where, {"product_id": product_id, "title": record.values["title"]})
    yield from query_rows(table, {text: f"q-{product_id}" for text, product_id in searches.items()}, HUMAN)
    for product_id in searches.values():
        yield Row("judgements", table, {"query_id": f"q-{product_id}", "product_id": product_id, "grade": EXACT})
'''


@pytest.fixture
def add_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Adds a module `plugins.extra` with a text; its registration is undone after the test."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(folder)])
    sources = dict(SOURCES)
    yield (folder / "extra.py").write_text
    SOURCES.clear()
    SOURCES.update(sources)
    sys.modules.pop("plugins.extra", None)
    if hasattr(plugins, "extra"):
        del plugins.extra


def test_a_format_from_outside_is_listed(
    add_plugin: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    add_plugin(FORMAT)
    with pytest.raises(SystemExit, match="0"):
        main(["import", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert "Shop export: export.csv with product, title and search, 100 % of our own." in help_text


def test_a_format_from_outside_imports_a_file(add_plugin: Callable[[str], None], tmp_path: Path) -> None:
    add_plugin(FORMAT)
    source, out = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    rows = "".join(f"{number},Mug {number},mug number {number}\n" for number in range(6))
    (source / "export.csv").write_text("product,title,search\n" + rows)
    assert main(["import", "shop_export", str(source), "--out", str(out), "--prefix", "x"]) == 0
    products = store.read_table(out, "products", ["product_id", "title"]).to_pylist()
    assert products == [{"product_id": f"x{number}", "title": f"Mug {number}"} for number in range(6)]
    queries = store.read_table(out, "queries").to_pylist()
    assert {row["split"] for row in queries} == {"train", "valid", "test"}
    assert store.read_table(out, "judgements").num_rows == 6


def test_an_undocumented_option_does_not_break_the_command(
    add_plugin: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_plugin(FORMAT)
    with pytest.raises(SystemExit, match="0"):
        main(["import", "shop_export", "--help"])
    help_text = capsys.readouterr().out
    assert "--prefix STR" in help_text and "Put before each id." in help_text
    assert "--undocumented INT" in help_text
    (tmp_path / "products.csv").write_text("product_id,title\n1,a\n")
    words = ["import", "table", str(tmp_path / "products.csv"), "--out", str(tmp_path / "data")]
    assert main(words) == 0
