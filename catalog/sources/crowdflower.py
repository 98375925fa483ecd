"""*CrowdFlower Search Results Relevance* (2015): `train.csv`, pairs of a query and a product, judged by several people.

Columns: id, query, product_title, product_description, median_relevance (1–4), relevance_variance.
https://www.kaggle.com/c/crowdflower-search-relevance/data
"""

from collections.abc import Iterator
from typing import Any

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.sources import query_rows, source
from catalog.text import normalise


@source("crowdflower")
def crowdflower(files: Files) -> Iterator[Row]:
    """CrowdFlower search relevance: train.csv, or the same columns as parquet; grades 1–4 become 0–3.

    It has no product ids: pairs with the same title and description are the same product.
    """
    table = files.find("train.csv", "*.parquet") or files.require("*.csv")
    query_ids: dict[str, str] = {}
    product_ids: dict[tuple[str, str], str] = {}
    judgements: list[tuple[str, dict[str, Any]]] = []
    for record in read_rows(files, table, ["query", "median_relevance"]):
        title, description = (
            str(record.values.get(f"product_{name}", record.values.get(name)) or "")
            for name in ("title", "description")
        )
        if (title, description) not in product_ids:
            product_id = product_ids[title, description] = f"p{len(product_ids)}"
            values = {"product_id": product_id, "title": title, "description": description}
            yield Row("products", record.where, values)
        query = normalise(str(record.values["query"] or ""))
        if query:
            grade = str(record.values["median_relevance"])
            judgement = {
                "query_id": query_ids.setdefault(query, f"q{len(query_ids)}"),
                "product_id": product_ids[title, description],
                "grade": int(grade) - 1 if grade.isdigit() else grade,
            }
            judgements.append((record.where, judgement))
    yield from query_rows(table, query_ids)
    for where, judgement in judgements:
        yield Row("judgements", where, judgement)
