"""*CrowdFlower Search Results Relevance* (2015): `train.csv`, pairs of a query and a product, judged by several people.

Columns: id, query, product_title, product_description, median_relevance (1–4), relevance_variance.
https://www.kaggle.com/c/crowdflower-search-relevance/data
"""

from collections.abc import Iterator
from typing import Any

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.sources import own_queries, source
from catalog.text import normalise


@source("crowdflower")
def crowdflower(files: Files) -> Iterator[Row]:
    """CrowdFlower search relevance: train.csv, or the same columns as parquet; grades 1–4 become 0–3.

    It has no ids of products: pairs with the same title and description are the same product.
    """
    table = files.find("train.csv", "*.parquet") or files.need("*.csv")
    asked: dict[str, str] = {}
    products: dict[tuple[str, str], str] = {}
    judged: list[tuple[str, dict[str, Any]]] = []
    for one in rows(files, table, ["query", "median_relevance"]):
        title, description = (
            str(one.values.get(f"product_{name}", one.values.get(name)) or "")
            for name in ("title", "description")
        )
        query = normalise(str(one.values["query"] or ""))
        if (title, description) not in products:
            products[title, description] = identity = f"p{len(products)}"
            yield Row(
                "products", one.where, {"product_id": identity, "title": title, "description": description}
            )
        if query:
            grade = str(one.values["median_relevance"])
            own = {
                "query_id": asked.setdefault(query, f"q{len(asked)}"),
                "product_id": products[title, description],
            }
            judged.append((one.where, own | {"grade": int(grade) - 1 if grade.isdigit() else grade}))
    yield from own_queries(table, asked)
    for where, own in judged:
        yield Row("judgements", where, own)
