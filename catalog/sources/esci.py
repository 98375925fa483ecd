"""*Shopping Queries Dataset* (Amazon ESCI), and the picture addresses of SQID.

`shopping_queries_dataset_products.parquet`, `…_examples.parquet`; `product_image_urls.parquet` or `.csv`.
https://github.com/amazon-science/esci-data (Reddy et al., 2022),
https://github.com/Crossing-Minds/shopping-queries-image-dataset (Al Ghossein et al., 2024)
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.schema import COMPLEMENT, EXACT, HUMAN, IRRELEVANT, SUBSTITUTE
from catalog.sources import source
from catalog.splits import assign_splits
from catalog.text import normalise

GRADES = {"E": EXACT, "S": SUBSTITUTE, "C": COMPLEMENT, "I": IRRELEVANT}
PREFIX = "shopping_queries_dataset"


class Judgement(NamedTuple):
    """A judged pair of the examples, and its place in the file."""

    where: str
    query_id: str
    product_id: str
    label: str


class Query(NamedTuple):
    """A query of the examples; `split` is train or test."""

    text: str
    split: str


@source("esci")
def esci(files: Files, *, locale: str = "us", large: bool = False, pictures: bool = False) -> Iterator[Row]:
    """Amazon ESCI shopping queries, optionally with SQID's pictures; E, S, C and I are our grades.

    Args:
        files: The parquet files.
        locale: us, es or jp; products of other locales are skipped.
        large: Use the version of tasks 2 and 3 instead of the smaller one of task 1.
        pictures: Download the pictures that SQID lists.
    """
    products, examples = (
        files.require(f"{PREFIX}_products.parquet"),
        files.require(f"{PREFIX}_examples.parquet"),
    )
    version = "large_version" if large else "small_version"
    queries, judgements = _read_examples(files, examples, locale, version)
    addresses = _read_addresses(files) if pictures else {}
    product_ids = {judgement.product_id for judgement in judgements}
    for record in read_rows(files, products, ["product_id", "product_title", "product_locale"]):
        product_id = record.values["product_id"]
        if record.values["product_locale"] == locale and product_id in product_ids:
            images = [files.get_media(addresses[product_id])] if product_id in addresses else None
            yield Row("products", record.where, _product_values(record.values) | {"images": images})
    splits = _cut_validation(queries)
    for query_id, query in queries.items():
        values = {"query_id": query_id, "text": query.text, "judged_by": HUMAN, "split": splits[query_id]}
        yield Row("queries", examples, values)
    for where, query_id, product_id, label in judgements:
        grade = GRADES.get(label, label)
        yield Row("judgements", where, {"query_id": query_id, "product_id": product_id, "grade": grade})


def _read_examples(
    files: Files, table: str, locale: str, version: str
) -> tuple[dict[str, Query], list[Judgement]]:
    """Read the queries by id, and the judgements, of a locale and a version."""
    queries: dict[str, Query] = {}
    judgements = []
    columns = ["query", "query_id", "product_id", "product_locale", "esci_label", "split", version]
    for record in read_rows(files, table, columns):
        values = record.values
        if values["product_locale"] == locale and values[version] == 1:
            query_id = str(values["query_id"])
            queries[query_id] = Query(values["query"], values["split"])
            judgements.append(Judgement(record.where, query_id, values["product_id"], values["esci_label"]))
    return queries, judgements


def _product_values(item: Mapping[str, Any]) -> dict[str, Any]:
    texts = [item.get(f"product_{name}") for name in ("description", "bullet_point")]
    return {
        "product_id": item["product_id"],
        "title": item["product_title"],
        "description": "\n".join(text for text in texts if text),
        "brand": item.get("product_brand"),
        "color": item.get("product_color"),
    }


def _cut_validation(queries: Mapping[str, Query]) -> dict[str, str]:
    """Assign splits by query id: a part of the training split becomes the validation split."""
    texts = {query_id: normalise(query.text) or "" for query_id, query in queries.items()}
    train = [texts[query_id] for query_id, query in queries.items() if query.split == "train"]
    splits = assign_splits(train, {"train": 0.85, "valid": 0.15})
    return {
        query_id: splits[texts[query_id]] if query.split == "train" else query.split
        for query_id, query in queries.items()
    }


def _read_addresses(files: Files) -> dict[str, str]:
    """Read SQID's lists: product id → address of its picture."""
    addresses: dict[str, str] = {}
    for name in ("supp_product_image_urls", "product_image_urls"):
        if table := files.find(f"{name}.parquet", f"{name}.csv"):
            for record in read_rows(files, table, ["product_id", "image_url"]):
                if record.values["image_url"]:
                    addresses[record.values["product_id"]] = record.values["image_url"]
    return addresses
