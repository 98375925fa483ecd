"""*Home Depot Product Search Relevance* (2016): `train.csv`, `product_descriptions.csv`, `attributes.csv`.

https://www.kaggle.com/c/home-depot-product-search-relevance/data
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE
from catalog.sources import own_queries, source
from catalog.text import normalise

COLUMNS = {"MFG Brand Name": "brand", "Color Family": "color", "Material": "material"}


@source("home_depot")
def home_depot(files: Files) -> Iterator[Row]:
    """Home Depot search relevance: means of three people's 1 (irrelevant) to 3 (perfect) become grades 0 to 3.

    Above 2.5 is exact, from 2 on a substitute, above 1 a complement.
    """
    train = files.need("train.csv")
    attributes: dict[str, dict[str, str]] = defaultdict(dict)
    if table := files.find("attributes.csv"):
        for one in rows(files, table, ["product_uid", "name", "value"]):
            if one.values["name"] in COLUMNS:
                attributes[one.values["product_uid"]][COLUMNS[one.values["name"]]] = one.values["value"]
    titles: dict[str, str] = {}
    asked: dict[str, str] = {}
    judged: list[tuple[str, dict[str, Any]]] = []
    for one in rows(files, train, ["product_uid", "product_title", "search_term", "relevance"]):
        product, query = one.values["product_uid"], normalise(one.values["search_term"])
        titles.setdefault(product, one.values["product_title"])
        if query:
            own = {"query_id": asked.setdefault(query, f"q{len(asked)}"), "product_id": product}
            judged.append((one.where, own | {"grade": _grade(one.values["relevance"])}))
    described: set[str] = set()
    if table := files.find("product_descriptions.csv"):
        for one in rows(files, table, ["product_uid", "product_description"]):
            product = one.values["product_uid"]
            if product in titles and product not in described:  # it describes products of the test set, too
                described.add(product)
                own = {"product_id": product, "title": titles[product], **attributes[product]}
                yield Row("products", one.where, own | {"description": one.values["product_description"]})
    for product in (one for one in titles if one not in described):
        yield Row("products", train, {"product_id": product, "title": titles[product], **attributes[product]})
    yield from own_queries(train, asked)
    for where, own in judged:
        yield Row("judgements", where, own)


def _grade(relevance: str) -> int | str:
    try:
        mean = float(relevance)
    except ValueError:
        return relevance  # which is then said to be no grade
    return EXACT if mean > 2.5 else SUBSTITUTE if mean >= 2 else COMPLEMENT if mean > 1 else IRRELEVANT
