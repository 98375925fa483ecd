"""The hash of a product's content."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import store
from catalog.content import CONTENT_COLUMNS, SIZE, hash_products, hash_row
from catalog.schema import PRODUCTS

NOT_CONTENT = set(PRODUCTS.names) - {"product_id", *CONTENT_COLUMNS}
PICTURE = {"bytes": b"picture", "path": "a.png"}
ROW: dict[str, Any] = {
    "title": "red shirt", "description": None, "category": "clothing/shirt", "brand": "ACME", "color": "red",
    "material": "", "language": "en", "group_id": "g", "attributes": [("size", "M")], "images": [PICTURE],
    "video": None,
}  # fmt: skip

Texts = st.none() | st.text(max_size=4)
Pictures = st.none() | st.lists(
    st.builds(lambda data: {"bytes": data, "path": None}, st.none() | st.binary(max_size=3)), max_size=3
)
Rows = st.fixed_dictionaries(
    {
        **dict.fromkeys(CONTENT_COLUMNS, Texts),
        "images": Pictures,
        "video": Pictures,
        "attributes": st.none() | st.lists(st.tuples(st.text(max_size=2), Texts), max_size=3),
    }
)


@pytest.mark.parametrize(
    "change",
    [
        {"title": "red shirts"}, {"description": "soft"}, {"brand": None}, {"language": "de"}, {"group_id": None},
        {"attributes": [("size", "L")]}, {"attributes": None}, {"images": [{"bytes": b"Picture", "path": None}]},
        {"images": [PICTURE, PICTURE]}, {"video": [PICTURE]}, {"color": None, "material": "red"},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_of_content_changes_the_hash(change: dict[str, Any]) -> None:
    assert hash_row(ROW | change) != hash_row(ROW)


def test_the_name_of_a_picture_is_no_content() -> None:
    assert hash_row(ROW | {"images": [PICTURE | {"path": "b.png"}]}) == hash_row(ROW)


def test_prices_and_stock_are_no_content() -> None:
    assert {"price", "max_price", "currency", "available", "updated_at"} == NOT_CONTENT


def test_the_order_of_pictures_counts() -> None:
    other = {"bytes": b"other", "path": None}
    hashes = {hash_row(ROW | {"images": images}) for images in ([PICTURE, other], [other, PICTURE])}
    assert len(hashes) == 2


def canonical(row: dict[str, Any]) -> object:
    """What is content of a row: pictures without bytes are left out, and an absent list equals an empty one."""
    images = tuple(picture["bytes"] for picture in row["images"] or () if picture["bytes"] is not None)
    video = tuple(frame["bytes"] for frame in row["video"] or ())
    attributes = tuple(row["attributes"] or ())
    texts = [row[name] for name in CONTENT_COLUMNS if name not in ("images", "video", "attributes")]
    return images, video, attributes, tuple(texts)


@given(Rows, Rows)
def test_hashes_are_equal_where_contents_are(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (hash_row(first) == hash_row(second)) == (canonical(first) == canonical(second))


def test_products_are_hashed_in_their_order(tmp_path: Path) -> None:
    titles = [f"product {number}" for number in range(5)]
    with store.TableWriter(tmp_path, "products", rows_per_file=2, rows_per_group=1) as table:
        for number, title in enumerate(titles):
            table.write({"product_id": str(number), "title": title, "price": number})
    empty = dict.fromkeys(CONTENT_COLUMNS)
    hashes = hash_products(tmp_path).to_pylist()
    assert hashes == [hash_row(empty | {"title": title}) for title in titles]
    assert all(len(value) == SIZE for value in hashes)
