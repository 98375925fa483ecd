"""*Home Depot Product Search Relevance* (2016): `train.csv`, `product_descriptions.csv`, `attributes.csv`.

https://www.kaggle.com/c/home-depot-product-search-relevance/data
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE
from catalog.sources import query_rows, source
from catalog.text import normalise

COLUMNS = {"MFG Brand Name": "brand", "Color Family": "color", "Material": "material"}


@source("home_depot")
def home_depot(files: Files) -> Iterator[Row]:
    """Home Depot search relevance: means of three people's 1 (irrelevant) to 3 (perfect) become grades 0 to 3.

    Above 2.5 is exact, from 2 on a substitute, above 1 a complement.
    """
    train = files.require("train.csv")
    attributes = _read_attributes(files)
    titles: dict[str, str] = {}
    query_ids: dict[str, str] = {}
    judgements: list[tuple[str, dict[str, Any]]] = []
    for record in read_rows(files, train, ["product_uid", "product_title", "search_term", "relevance"]):
        product, query = record.values["product_uid"], normalise(record.values["search_term"])
        titles.setdefault(product, record.values["product_title"])
        if query:
            judgement = {
                "query_id": query_ids.setdefault(query, f"q{len(query_ids)}"),
                "product_id": product,
                "grade": _grade(record.values["relevance"]),
            }
            judgements.append((record.where, judgement))
    yield from _product_rows(files, train, titles, attributes)
    yield from query_rows(train, query_ids)
    for where, judgement in judgements:
        yield Row("judgements", where, judgement)


def _read_attributes(files: Files) -> dict[str, dict[str, str]]:
    """Read brand, colour and material: product id → our column → value."""
    attributes: dict[str, dict[str, str]] = defaultdict(dict)
    if table := files.find("attributes.csv"):
        for record in read_rows(files, table, ["product_uid", "name", "value"]):
            if record.values["name"] in COLUMNS:
                attributes[record.values["product_uid"]][COLUMNS[record.values["name"]]] = record.values[
                    "value"
                ]
    return attributes


def _product_rows(
    files: Files, train: str, titles: Mapping[str, str], attributes: Mapping[str, Mapping[str, str]]
) -> Iterator[Row]:
    """Yield the products of the training set, first those with a description."""
    described: set[str] = set()
    if table := files.find("product_descriptions.csv"):
        for record in read_rows(files, table, ["product_uid", "product_description"]):
            product = record.values["product_uid"]
            if product in titles and product not in described:  # the table also has products of the test set
                described.add(product)
                values = {"product_id": product, "title": titles[product], **attributes.get(product, {})}
                values["description"] = record.values["product_description"]
                yield Row("products", record.where, values)
    for product in titles:
        if product not in described:
            values = {"product_id": product, "title": titles[product], **attributes.get(product, {})}
            yield Row("products", train, values)


def _grade(relevance: str) -> int | str:
    try:
        mean = float(relevance)
    except ValueError:
        return relevance  # the conversion rejects it
    return EXACT if mean > 2.5 else SUBSTITUTE if mean >= 2 else COMPLEMENT if mean > 1 else IRRELEVANT
