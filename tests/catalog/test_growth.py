"""Data that grow: whatever happens to products, logs and test queries, no query moves to another split."""

import io
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from catalog import refresh, store
from catalog.images import decode_and_hash
from catalog.queries import add_click_queries, add_derived_queries
from catalog.refresh import refresh_judgements
from catalog.schema import EXACT, DataError, main_picture
from catalog.text import normalise
from catalog.update import update_products

Rows = list[dict[str, Any]]
IDS = [f"p{number}" for number in range(24)]
WORDS = ("oak", "pine", "steel", "glass")


def draw_picture(number: int) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 0, 0)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"{number}.png"}


PICTURES = [draw_picture(number) for number in range(8)]

# Few titles and pictures, so that products share them, and new products join old groups.
Products = st.fixed_dictionaries(
    {
        "product_id": st.sampled_from(IDS),
        "title": st.builds(
            lambda first, second, number: f"{first} chair {second} of series {number}",
            st.sampled_from(WORDS),
            st.sampled_from(WORDS),
            st.integers(0, 2),
        ),
        "category": st.sampled_from(["home/chair", "home/stool"]),
        "color": st.sampled_from(["red", "blue", "green"]),
        "images": st.sampled_from([None, *([picture] for picture in PICTURES)]),
    }
)
Catalogue = st.lists(Products, max_size=8, unique_by=lambda row: row["product_id"])
Searches = st.lists(
    st.tuples(st.sampled_from(["red chair", "stool", "oak", "sofa", "glass", "desk"]), st.sampled_from(IDS)),
    min_size=1,
)
Edit = Callable[[Path, Path, Path], object]


def write_products(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    for name, table_rows in (("products", rows), ("queries", []), ("judgements", [])):
        with store.TableWriter(folder, name, rows_per_file=8, rows_per_group=4) as table:
            for row in table_rows:
                table.write(row)
    return folder


def derive_again(seed: int, most: int) -> Edit:
    return lambda data, out, _: add_derived_queries(data, out, most, seed)


def add_log(searches: Sequence[tuple[str, str]]) -> Edit:
    def edit(data: Path, out: Path, scratch: Path) -> None:
        rows = [f"{text},{product},1,1" for text, product in searches]
        (scratch / "log.csv").write_text("\n".join(["query,product_id,position,clicked", *rows]))
        add_click_queries(data, scratch / "log.csv", out)

    return edit


def update(rows: Rows, removed: Sequence[str]) -> Edit:
    def edit(data: Path, out: Path, scratch: Path) -> None:
        sources = [write_products(scratch / "new", rows)] if rows else []
        existing = {row["product_id"] for row in read(data, "products")}
        update_products(data, out, sources, (existing & set(removed)) - {row["product_id"] for row in rows})

    return edit


def replace_test_queries(seed: int) -> Edit:
    return lambda data, out, _: refresh_judgements(data, out, most=8, seed=seed)


Edits = st.one_of(
    st.builds(derive_again, st.integers(0, 3), st.sampled_from([4, 12, 40])),
    st.builds(add_log, Searches),
    st.builds(update, Catalogue, st.lists(st.sampled_from(IDS), max_size=3, unique=True)),
    st.builds(replace_test_queries, st.integers(0, 3)),
)


def read(data: Path, table: str) -> Rows:
    return store.read_table(data, table).to_pylist()


def check(data: Path, history: dict[tuple[str, str], str]) -> None:
    """No text or id has another split than before, and no title or picture of derived queries is in two splits."""
    queries = {row["query_id"]: row for row in read(data, "queries")}
    for key, row in queries.items():
        for identity in (("text", normalise(row["text"]) or ""), ("id", key)):
            assert history.setdefault(identity, row["split"]) == row["split"], identity
    products = {row["product_id"]: row for row in read(data, "products")}
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in read(data, "judgements"):
        query, product = queries[row["query_id"]], products[row["product_id"]]
        if row["grade"] == EXACT and query["judged_by"] == "derived":
            splits["title", product["title"]].add(query["split"])
            if picture := main_picture(product):
                splits["pixels", decode_and_hash(picture) or ""].add(query["split"])
    assert [key for key, names in splits.items() if len(names) > 1] == []


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "MIN_QUERIES", 1)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(Products, min_size=12, unique_by=lambda row: row["product_id"]),
    st.lists(Edits, min_size=7, max_size=20),
)
def test_no_edit_moves_a_query(products: Rows, edits: Sequence[Edit]) -> None:
    """At least 100 edits in all. An edit may be refused, with nothing written."""
    history: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_products(root / "start", products)
        for number, edit in enumerate(edits):
            scratch, out = root / f"scratch-{number}", root / str(number)
            scratch.mkdir()
            try:
                edit(data, out, scratch)
            except DataError:
                assert not out.exists()
            else:
                check(out, history)
                data = out
