"""*WANDS*, Wayfair's product search relevance data: `product.csv`, `query.csv`, `label.csv`, separated by tabs.

https://github.com/wayfair/WANDS (Chen et al., ECIR 2022)
"""

from collections.abc import Iterator

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.schema import EXACT, HUMAN, IRRELEVANT, SUBSTITUTE
from catalog.sources import source
from catalog.splits import split
from catalog.text import normalise

GRADES = {"Exact": EXACT, "Partial": SUBSTITUTE, "Irrelevant": IRRELEVANT}


@source("wands")
def wands(files: Files) -> Iterator[Row]:
    """WANDS (Wayfair): Exact, Partial and Irrelevant become exact, substitute and irrelevant."""
    product, query, label = (files.need(f"{name}.csv") for name in ("product", "query", "label"))
    for one in rows(files, product, ["product_id", "product_name"], delimiter="\t"):
        features = (pair.partition(":") for pair in str(one.values.get("product_features") or "").split("|"))
        noted = {name.strip(): value.strip() for name, _, value in features}
        own = {
            "product_id": one.values["product_id"],
            "title": one.values["product_name"],
            "description": one.values.get("product_description"),
            "category": _path(one.values.get("category hierarchy") or one.values.get("product_class") or ""),
            "color": noted.get("color"),
            "material": noted.get("material"),
            "attributes": noted,
        }
        yield Row("products", one.where, own)
    asked = list(rows(files, query, ["query_id", "query"], delimiter="\t"))
    splits = split(normalise(one.values["query"]) or "" for one in asked)
    for one in asked:
        own = {"query_id": one.values["query_id"], "text": one.values["query"], "judged_by": HUMAN}
        own |= {
            "segment": one.values.get("query_class"),
            "split": splits[normalise(one.values["query"]) or ""],
        }
        yield Row("queries", one.where, own)
    for one in rows(files, label, ["query_id", "product_id", "label"], delimiter="\t"):
        grade = GRADES.get(one.values["label"], one.values["label"])
        yield Row("judgements", one.where, {**one.values, "grade": grade})


def _path(hierarchy: str) -> str:
    return "/".join(part.strip().replace("/", "-") for part in hierarchy.split(" / "))
