import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catalog.describe import CAPTION, TILE, contact_sheet, describe
from catalog.schema import DataError


def test_describe_counts_what_is_there(tiny_data: Path) -> None:
    text = describe(tiny_data)
    assert text.startswith("12 products\n")
    assert "price 100%, image 92%" in text
    assert "prices    10.00 to 21.00" in text
    assert "titles    2 to 2 words, median 2" in text
    assert "1 categories: clothing/shirt 12" in text
    assert re.search(r"^  image +1 +1 +1$", text, re.MULTILINE)
    assert "text        red or blue shirt" in text
    assert re.search(r"^  3 exact +12  50%$", text, re.MULTILINE)
    assert "exact matches of a query: 2 to 2, median 2" in text


def test_describe_of_empty_tables(write_data: Callable[[dict[str, list[dict[str, Any]]]], Path]) -> None:
    text = describe(write_data({"products": [], "queries": [], "judgements": []}))
    assert "0 products" in text
    assert "0 queries" in text
    assert "0 judgements" in text


def test_describe_wants_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parquet files"):
        describe(tmp_path)


def test_sheet_shows_products_above_queries(drawn: Path, tmp_path: Path) -> None:
    contact_sheet(drawn, tmp_path / "sheet.png", count=9, columns=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * TILE, 4 * (TILE + CAPTION))  # three rows of products, one of queries
        pixels = np.asarray(sheet.convert("L"))
    filled = [
        pixels[
            8 + row * (TILE + CAPTION) : TILE - 8 + row * (TILE + CAPTION),
            8 + column * TILE : -8 + (column + 1) * TILE,
        ]
        for row in range(4)
        for column in range(4)
    ]
    assert [bool(tile.std() > 5) for tile in filled] == [True] * 9 + [False] * 3 + [True] * 3 + [False]


def test_sheet_shows_which_pictures_are_broken(
    tiny_tables: dict[str, list[dict[str, Any]]],
    write_data: Callable[[dict[str, list[dict[str, Any]]]], Path],
    tmp_path: Path,
) -> None:
    for product in tiny_tables["products"]:
        product["image"] = {"bytes": b"no picture", "path": None}
    contact_sheet(write_data(tiny_tables), tmp_path / "sheet.png", count=1, columns=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((TILE // 2, TILE - 10)) == (211, 211, 211)
