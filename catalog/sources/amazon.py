"""*Amazon product data 2018* and *Amazon Reviews 2023*: metadata and reviews of a category, a JSON object a line.

2018: `meta_CATEGORY.json.gz`, `CATEGORY.json.gz` or `CATEGORY_5.json.gz`
(https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/, Ni et al., 2019); 2023: `meta_CATEGORY.jsonl`, `CATEGORY.jsonl`,
both with or without .gz (https://amazon-reviews-2023.github.io/, Hou et al., 2024).

They hold no queries. As is usual with this data (Van Gysel et al., 2016; Ai et al., 2017), a query is the words of a
category, here also with a brand, and what shoppers of it reviewed is what they were after: `implicit`.
"""

import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.schema import EXACT, IMPLICIT, IRRELEVANT, SUBSTITUTE, DataError
from catalog.sources import own_queries, source
from catalog.text import normalise

LIKED = 4.0  # stars, on the mean, from which a product is what its buyers wanted
FEWEST = 2  # products with reviews that a query needs
UNRELATED = 10  # products of no shared category that each query is given as irrelevant
DEPTH = 3  # levels of categories that a query's words are taken from, from the last up


def _image_2018(values: Mapping[str, Any]) -> str | None:
    found = values.get("imageURLHighRes") or values.get("imageURL")
    return str(found[0]) if found else None


def _image_2023(values: Mapping[str, Any]) -> str | None:
    main: dict[str, str] = next(
        (one for one in values.get("images") or [] if one.get("variant") == "MAIN"), {}
    )
    return main.get("hi_res") or main.get("large")


class Layout(NamedTuple):
    """Where a release keeps what."""

    product: str
    category: str
    brand: str
    description: str
    bullets: str
    stars: str
    image: Callable[[Mapping[str, Any]], str | None]  # address of the main picture, the larger one of two


LAYOUTS = {
    2018: Layout("asin", "category", "brand", "description", "feature", "overall", _image_2018),
    2023: Layout("parent_asin", "categories", "store", "description", "features", "rating", _image_2023),
}


@source("amazon_2018")
def amazon_2018(files: Files, *, pictures: bool = False) -> Iterator[Row]:
    """Amazon product data 2018: meta_*.json.gz, and reviews as implicit judgements.

    Args:
        files: The metadata, and reviews if there are any.
        pictures: Download the pictures that it names.
    """
    return _amazon(files, LAYOUTS[2018], pictures)


@source("amazon_2023")
def amazon_2023(files: Files, *, pictures: bool = False) -> Iterator[Row]:
    """Amazon Reviews 2023: meta_*.jsonl, and reviews as implicit judgements.

    Args:
        files: The metadata, and reviews if there are any.
        pictures: Download the pictures that it names.
    """
    return _amazon(files, LAYOUTS[2023], pictures)


def _amazon(files: Files, layout: Layout, pictures: bool) -> Iterator[Row]:
    meta = files.need("meta_*.json*")
    if files.source.is_file() and not files.zip:
        meta = files.source.name
    shelves: dict[str, set[str]] = defaultdict(set)  # query → products
    of: dict[str, set[str]] = {}
    for one in rows(files, meta, [layout.product]):
        values, product = one.values, str(one.values[layout.product])
        category = [str(part) for part in values.get(layout.category) or [] if part and "<" not in str(part)]
        category = list(dict.fromkeys(category or filter(None, [values.get("main_category")])))
        brand = re.sub(
            r"^(by|visit the)\s+|\s+store$", "", str(values.get(layout.brand) or "").strip(), flags=re.I
        )
        told = [*_list(values.get(layout.description)), *_list(values.get(layout.bullets))]
        address = layout.image(values) if pictures else None
        own = {
            "product_id": product,
            "title": html.unescape(str(values.get("title") or "")),
            "description": html.unescape("\n".join(told)),
            "category": "/".join(part.replace("/", "-") for part in category),
            "brand": brand,
            "price": values.get("price") if _is_price(values.get("price")) else None,
            "currency": "USD" if _is_price(values.get("price")) else None,  # both releases are of amazon.com
            "image": files.picture(address) if address else None,
        }
        yield Row("products", one.where, own)
        if own["title"] and product not in of:
            of[product] = {text for text in _asked(category, brand) if text}
            for text in of[product]:
                shelves[text].add(product)
    reviews = _reviews(files, meta)
    if reviews:
        yield from _implicit(files, reviews, layout, shelves, of)


def _list(value: Any) -> list[str]:
    return [str(part) for part in value if part] if isinstance(value, list) else [str(value)] if value else []


def _is_price(value: Any) -> bool:
    """The release of 2018 holds pieces of style sheets in the place of some prices."""
    return value is not None and len(str(value)) < 20


def _asked(category: list[str], brand: str) -> Iterator[str | None]:
    for part in category[-DEPTH:]:
        yield normalise(part)
        yield normalise(f"{brand} {part}") if brand else None


def _reviews(files: Files, meta: str) -> str | None:
    category = re.sub(r"^.*meta_|\.jsonl?(\.gz)?$", "", meta)
    return files.find(f"{category}_5.json*", f"{category}.json*")


def _implicit(
    files: Files, reviews: str, layout: Layout, shelves: Mapping[str, set[str]], of: Mapping[str, set[str]]
) -> Iterator[Row]:
    stars: dict[str, list[float]] = defaultdict(lambda: [0, 0])
    for one in rows(files, reviews, [layout.stars]):
        product, rating = (
            str(one.values.get(layout.product) or one.values.get("asin")),
            one.values[layout.stars],
        )
        if product in of and isinstance(rating, (int, float)) and 1 <= rating <= 5:
            stars[product][0] += rating
            stars[product][1] += 1
    means = {product: total / count for product, (total, count) in stars.items()}
    asked = {text: sorted(shelf & means.keys()) for text, shelf in sorted(shelves.items())}
    asked = {text: shelf for text, shelf in asked.items() if len(shelf) >= FEWEST and len(shelf) < len(of)}
    if not asked:
        raise DataError(f"{files.source}: no category or brand has {FEWEST} products that were reviewed")
    ids = {text: f"q{number}" for number, text in enumerate(asked)}
    yield from own_queries(reviews, ids, IMPLICIT)
    others = sorted(of)
    step = max(1, len(others) // (3 * UNRELATED))
    for number, (text, shelf) in enumerate(asked.items()):
        far = [one for one in others[number % step :: step] if one not in shelves[text]]
        grades = {product: EXACT if means[product] >= LIKED else SUBSTITUTE for product in shelf}
        for product, grade in (grades | dict.fromkeys(far[:UNRELATED], IRRELEVANT)).items():
            own = {"query_id": ids[text], "product_id": product, "grade": grade}
            yield Row("judgements", reviews, own)
