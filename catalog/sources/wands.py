"""*WANDS*, Wayfair's product search relevance data: `product.csv`, `query.csv`, `label.csv`, separated by tabs.

https://github.com/wayfair/WANDS (Chen et al., ECIR 2022)
"""

from collections.abc import Iterator, Mapping
from typing import Any

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.schema import EXACT, HUMAN, IRRELEVANT, SUBSTITUTE
from catalog.sources import source
from catalog.splits import assign_splits
from catalog.text import normalise

GRADES = {"Exact": EXACT, "Partial": SUBSTITUTE, "Irrelevant": IRRELEVANT}


@source("wands")
def wands(files: Files) -> Iterator[Row]:
    """WANDS (Wayfair): Exact, Partial and Irrelevant become exact, substitute and irrelevant."""
    products, queries, labels = (files.require(f"{name}.csv") for name in ("product", "query", "label"))
    for record in read_rows(files, products, ["product_id", "product_name"], delimiter="\t"):
        yield Row("products", record.where, _product_values(record.values))
    query_records = list(read_rows(files, queries, ["query_id", "query"], delimiter="\t"))
    splits = assign_splits(normalise(record.values["query"]) or "" for record in query_records)
    for record in query_records:
        values = {
            "query_id": record.values["query_id"],
            "text": record.values["query"],
            "judged_by": HUMAN,
            "segment": record.values.get("query_class"),
            "split": splits[normalise(record.values["query"]) or ""],
        }
        yield Row("queries", record.where, values)
    for record in read_rows(files, labels, ["query_id", "product_id", "label"], delimiter="\t"):
        grade = GRADES.get(record.values["label"], record.values["label"])
        yield Row("judgements", record.where, {**record.values, "grade": grade})


def _product_values(item: Mapping[str, Any]) -> dict[str, Any]:
    pairs = (pair.partition(":") for pair in str(item.get("product_features") or "").split("|"))
    features = {name.strip(): value.strip() for name, _, value in pairs}
    return {
        "product_id": item["product_id"],
        "title": item["product_name"],
        "description": item.get("product_description"),
        "category": _format_category(item.get("category hierarchy") or item.get("product_class") or ""),
        "color": features.get("color"),
        "material": features.get("material"),
        "attributes": features,
    }


def _format_category(hierarchy: str) -> str:
    return "/".join(part.strip().replace("/", "-") for part in hierarchy.split(" / "))
