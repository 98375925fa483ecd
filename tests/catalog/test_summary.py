import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catalog.schema import DataError
from catalog.summary import CAPTION, TILE, summarise_data, write_contact_sheet

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]


def test_describe_counts_what_is_there(tiny_data: Path) -> None:
    text = summarise_data(tiny_data)
    assert text.startswith("12 products\n")
    assert "price 100%, images 92%" in text
    assert "prices    10.00 to 21.00" in text
    assert "titles    2 to 2 words, median 2" in text
    assert "1 categories: clothing/shirt 12" in text
    assert re.search(r"^  image +1 +1 +1$", text, re.MULTILINE)
    assert "6 queries in 6 clusters\n" in text
    assert "text        red or blue shirt" in text
    assert re.search(r"^  3 exact +12  50%$", text, re.MULTILINE)
    assert "exact matches of a query: 2 to 2, median 2" in text
    assert "clips" not in text


def test_describe_counts_clusters(tiny_tables: Tables, write_data: Write) -> None:
    for number, cluster in enumerate(("a", "a", None, "b", None, "a")):
        tiny_tables["queries"][number]["cluster"] = cluster
    assert "6 queries in 4 clusters\n" in summarise_data(write_data(tiny_tables))


def test_describe_counts_galleries(tiny_tables: Tables, write_data: Write) -> None:
    for row in tiny_tables["products"][:3]:
        row["images"] *= 4
    assert "  galleries 3 (25%), up to 4 pictures\n" in summarise_data(write_data(tiny_tables))


def test_describe_counts_clips(tiny_tables: Tables, write_data: Write) -> None:
    for number, frames in enumerate((8, 0, 2, 8)):
        tiny_tables["products"][number]["video"] = [tiny_tables["products"][5]["images"][0]] * frames
    assert "  clips     3 (25%), 2 to 8 frames, median 8\n" in summarise_data(write_data(tiny_tables))


def test_describe_of_empty_tables(write_data: Write) -> None:
    text = summarise_data(write_data({"products": [], "queries": [], "judgements": []}))
    assert "0 products" in text
    assert "0 queries" in text
    assert "0 judgements" in text


def test_describe_wants_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parquet files"):
        summarise_data(tmp_path)


def test_sheet_shows_products_above_clips_above_queries(drawn: Path, tmp_path: Path) -> None:
    write_contact_sheet(drawn, tmp_path / "sheet.png", count=9, columns=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (
            4 * TILE,
            5 * (TILE + CAPTION),
        )  # three rows of products, one of a clip, one of queries
        pixels = np.asarray(sheet.convert("L"))
    filled = [
        pixels[
            8 + row * (TILE + CAPTION) : TILE - 8 + row * (TILE + CAPTION),
            8 + column * TILE : -8 + (column + 1) * TILE,
        ]
        for row in range(5)
        for column in range(4)
    ]
    assert [bool(tile.std() > 5) for tile in filled] == (
        [True] * 9 + [False] * 3 + [True] * 4 + [True] * 3 + [False]
    )


@pytest.mark.parametrize(("frames", "numbers"), [(2, [0, 1]), (3, [0, 1, 2]), (8, [0, 3, 6])])
def test_a_clip_is_a_strip_of_frames_in_order(
    frames: int, numbers: list[int], tiny_tables: Tables, write_data: Write, tmp_path: Path
) -> None:
    def flat(level: int) -> dict[str, Any]:
        stream = io.BytesIO()
        Image.new("RGB", (9, 9), (level, 0, 0)).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    tiny_tables["products"] = [
        {"product_id": "p0", "title": "mug", "video": [flat(9 + 30 * n) for n in range(frames)]}
    ]
    write_contact_sheet(write_data(tiny_tables), tmp_path / "sheet.png", count=8, columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = [sheet.getpixel((x * TILE + TILE // 2, TILE // 2)) for x in range(3)]
    assert pixels == [(9 + 30 * n, 0, 0) for n in numbers] + [(255, 255, 255)] * (3 - len(numbers))


def test_sheet_shows_which_pictures_are_broken(
    tiny_tables: Tables, write_data: Write, tmp_path: Path
) -> None:
    for product in tiny_tables["products"]:
        product["images"] = [{"bytes": b"no picture", "path": None}]
    tiny_tables["products"][3]["video"] = [{"bytes": None, "path": "frame.png"}, None]
    write_contact_sheet(write_data(tiny_tables), tmp_path / "sheet.png", count=8, columns=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        for column, row in ((0, 0), (0, 2), (1, 2)):
            place = column * TILE + TILE // 2, row * (TILE + CAPTION) + TILE - 10
            assert sheet.getpixel(place) == (211, 211, 211)
