"""*Amazon product data 2018* and *Amazon Reviews 2023*: metadata and reviews of a category, a JSON object a line.

2018: `meta_CATEGORY.json.gz`, `CATEGORY.json.gz` or `CATEGORY_5.json.gz`
(https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/, Ni et al., 2019); 2023: `meta_CATEGORY.jsonl`, `CATEGORY.jsonl`,
both with or without .gz (https://amazon-reviews-2023.github.io/, Hou et al., 2024).

They hold no queries. As usual with this data (Van Gysel et al., 2016; Ai et al., 2017), a query consists of the words
of a category, here also with a brand. Products with reviews are relevant: the judgements are `implicit`.
"""

import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.schema import EXACT, IMPLICIT, IRRELEVANT, SUBSTITUTE, DataError
from catalog.sources import query_rows, source
from catalog.text import normalise

MIN_STARS = 4.0  # mean rating from which a product is exact
MIN_REVIEWED = 2  # reviewed products that a query needs
IRRELEVANT_PRODUCTS = 10  # per query, from other categories
CATEGORY_LEVELS = 3  # last levels of a category path that become queries


def _images_2018(values: Mapping[str, Any]) -> list[str]:
    return [str(address) for address in values.get("imageURLHighRes") or values.get("imageURL") or ()]


def _images_2023(values: Mapping[str, Any]) -> list[str]:
    images = sorted(values.get("images") or (), key=lambda image: image.get("variant") != "MAIN")
    return [address for image in images if (address := image.get("hi_res") or image.get("large"))]


class Layout(NamedTuple):
    """Names of the columns in a release."""

    product: str
    category: str
    brand: str
    description: str
    bullets: str
    stars: str
    images: Callable[
        [Mapping[str, Any]], list[str]
    ]  # returns the addresses of the largest pictures, the main one first


LAYOUTS = {
    2018: Layout("asin", "category", "brand", "description", "feature", "overall", _images_2018),
    2023: Layout("parent_asin", "categories", "store", "description", "features", "rating", _images_2023),
}


@source("amazon_2018")
def amazon_2018(files: Files, *, pictures: bool = False) -> Iterator[Row]:
    """Amazon product data 2018: meta_*.json.gz, and reviews as implicit judgements.

    Args:
        files: The metadata, and reviews if you have them.
        pictures: Download the pictures of the metadata.
    """
    return _import_release(files, LAYOUTS[2018], pictures)


@source("amazon_2023")
def amazon_2023(files: Files, *, pictures: bool = False) -> Iterator[Row]:
    """Amazon Reviews 2023: meta_*.jsonl, and reviews as implicit judgements.

    Args:
        files: The metadata, and reviews if you have them.
        pictures: Download the pictures of the metadata.
    """
    return _import_release(files, LAYOUTS[2023], pictures)


def _import_release(files: Files, layout: Layout, pictures: bool) -> Iterator[Row]:
    metadata = files.require("meta_*.json*")
    if files.source.is_file() and not files.zip:
        metadata = files.source.name
    products_by_text: dict[str, set[str]] = defaultdict(set)  # text of a query → products
    product_ids: set[str] = set()
    for record in read_rows(files, metadata, [layout.product]):
        category, brand = _parse_category(record.values, layout), _parse_brand(record.values, layout)
        addresses = layout.images(record.values) if pictures else ()
        values = _product_values(record.values, layout) | {
            "category": "/".join(part.replace("/", "-") for part in category),
            "brand": brand,
            "images": [files.get_media(address) for address in addresses],
        }
        yield Row("products", record.where, values)
        product = values["product_id"]
        if values["title"] and product not in product_ids:
            product_ids.add(product)
            for text in filter(None, _query_texts(category, brand)):
                products_by_text[text].add(product)
    reviews = _find_reviews(files, metadata)
    if reviews:
        means = _mean_stars(files, reviews, layout, product_ids)
        yield from _implicit_judgements(files, reviews, means, products_by_text, product_ids)


def _product_values(item: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    texts = [*_as_list(item.get(layout.description)), *_as_list(item.get(layout.bullets))]
    has_price = _is_price(item.get("price"))
    return {
        "product_id": str(item[layout.product]),
        "title": html.unescape(str(item.get("title") or "")),
        "description": html.unescape("\n".join(texts)),
        "price": item.get("price") if has_price else None,
        "currency": "USD" if has_price else None,  # both releases are of amazon.com
    }


def _parse_category(item: Mapping[str, Any], layout: Layout) -> list[str]:
    """The levels of the category path, without duplicates and HTML."""
    levels = [str(part) for part in item.get(layout.category) or [] if part and "<" not in str(part)]
    return list(dict.fromkeys(levels or filter(None, [item.get("main_category")])))


def _parse_brand(item: Mapping[str, Any], layout: Layout) -> str:
    brand = str(item.get(layout.brand) or "").strip()
    return re.sub(r"^(by|visit the)\s+|\s+store$", "", brand, flags=re.I)


def _as_list(value: Any) -> list[str]:
    return [str(part) for part in value if part] if isinstance(value, list) else [str(value)] if value else []


def _is_price(value: Any) -> bool:
    """Whether a value is a price; the release of 2018 has parts of style sheets in this column."""
    return value is not None and len(str(value)) < 20


def _query_texts(category: list[str], brand: str) -> Iterator[str | None]:
    for part in category[-CATEGORY_LEVELS:]:
        yield normalise(part)
        yield normalise(f"{brand} {part}") if brand else None


def _find_reviews(files: Files, metadata: str) -> str | None:
    category = re.sub(r"^.*meta_|\.jsonl?(\.gz)?$", "", metadata)
    return files.find(f"{category}_5.json*", f"{category}.json*")


def _mean_stars(files: Files, reviews: str, layout: Layout, product_ids: set[str]) -> dict[str, float]:
    """Product id → mean rating, for products with reviews."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0])
    for record in read_rows(files, reviews, [layout.stars]):
        product = str(record.values.get(layout.product) or record.values.get("asin"))
        rating = record.values[layout.stars]
        if product in product_ids and isinstance(rating, (int, float)) and 1 <= rating <= 5:
            sums[product][0] += rating
            sums[product][1] += 1
    return {product: total / count for product, (total, count) in sums.items()}


def _implicit_judgements(
    files: Files,
    reviews: str,
    means: Mapping[str, float],
    products_by_text: Mapping[str, set[str]],
    product_ids: set[str],
) -> Iterator[Row]:
    """Yield queries with enough reviewed products, and their judgements."""
    reviewed = {text: sorted(ids & means.keys()) for text, ids in sorted(products_by_text.items())}
    reviewed = {text: ids for text, ids in reviewed.items() if MIN_REVIEWED <= len(ids) < len(product_ids)}
    if not reviewed:
        raise DataError(
            f"{files.source}: no category or brand has {MIN_REVIEWED} reviewed products; add the file of reviews"
        )
    query_ids = {text: f"q{number}" for number, text in enumerate(reviewed)}
    yield from query_rows(reviews, query_ids, IMPLICIT)
    ordered = sorted(product_ids)
    step = max(1, len(ordered) // (3 * IRRELEVANT_PRODUCTS))
    for number, (text, ids) in enumerate(reviewed.items()):
        grades = {product: EXACT if means[product] >= MIN_STARS else SUBSTITUTE for product in ids}
        others = [
            product for product in ordered[number % step :: step] if product not in products_by_text[text]
        ]
        grades |= dict.fromkeys(others[:IRRELEVANT_PRODUCTS], IRRELEVANT)
        for product, grade in grades.items():
            values = {"query_id": query_ids[text], "product_id": product, "grade": grade}
            yield Row("judgements", reviews, values)
