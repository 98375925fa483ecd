"""The data set's content for the demo page."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from catalog import store
from fusion.search.filters import FILTERS
from serving.demo import catalogue
from serving.demo.catalogue import DemoCatalogue, Products, QueryPictures


def test_missing_columns(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for path in store.list_files(tmp_path / "data", "products"):
        pq.write_table(pq.read_table(path, columns=["product_id", "title"]), path)
    content = DemoCatalogue.load(tmp_path / "data")
    assert not content.facets and content.prices.low is None
    assert not content.products.has_picture.any() and content.products.read_image(3) is None


def test_filters_are_those_of_the_model() -> None:
    assert catalogue.FILTERS == FILTERS


def test_a_category_counts_what_is_below_it(data: Path) -> None:
    facet = next(facet for facet in catalogue.load_facets(data) if facet.field == "category")
    paths = [
        path
        for path in store.read_table(data, "products", ["category"])["category"].to_pylist()
        if path is not None
    ]
    counts = dict(facet.values)
    for parent in {path.split("/")[0] for path in paths}:
        assert counts[parent] == sum(path.split("/")[0] == parent for path in paths)


def test_the_cache_of_query_pictures_is_limited(png: Callable[..., bytes]) -> None:
    pictures = QueryPictures()
    pinned = pictures.add(png(99), pinned=True)
    keys = [pictures.add(png(0))]
    for seed in range(1, catalogue.MAX_QUERY_PICTURES + 1):
        assert pictures.get(keys[0])  # so that it is not the least recently used
        keys.append(pictures.add(png(seed)))
    assert [pictures.get(key) is not None for key in keys] == [True, False] + [True] * (
        catalogue.MAX_QUERY_PICTURES - 1
    )
    assert pictures.get(pinned)
    assert pictures.add(png(1, 3000, 20)) == pictures.add(pictures.get(pictures.add(png(1, 3000, 20))))


def test_products_are_read_by_id(png: Callable[..., bytes], tmp_path: Path) -> None:
    """Over several files, row groups and batches, and with gaps."""
    rows = {f"p/{n}?ä": {"bytes": png(n, 8, 8), "path": None} if n % 3 else None for n in range(200)}
    writer = store.TableWriter(tmp_path, "products", rows_per_file=180, rows_per_group=90)
    with writer:
        for key, image in rows.items():
            writer.write({"product_id": key, "title": f"title of {key}", "images": image and [image]})
    products = Products(tmp_path)
    assert len(store.list_files(tmp_path, "products")) > 1
    for key, image in rows.items():
        row = products.find_row(key)
        assert products.read_title(row) == f"title of {key}"
        assert products.read_image(row) == (image and image["bytes"])
        assert products.has_media(key) == (image is not None, False)
    assert products.find_row("p") is None and products.has_media("p") == (False, False)
