"""*Shopping Queries Dataset* (Amazon ESCI), and the addresses of pictures that SQID adds.

`shopping_queries_dataset_products.parquet`, `…_examples.parquet`; `product_image_urls.parquet` or `.csv`.
https://github.com/amazon-science/esci-data (Reddy et al., 2022),
https://github.com/Crossing-Minds/shopping-queries-image-dataset (Al Ghossein et al., 2024)
"""

from collections.abc import Iterator

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.schema import COMPLEMENT, EXACT, HUMAN, IRRELEVANT, SUBSTITUTE
from catalog.sources import source
from catalog.splits import split
from catalog.text import normalise

GRADES = {"E": EXACT, "S": SUBSTITUTE, "C": COMPLEMENT, "I": IRRELEVANT}
PREFIX = "shopping_queries_dataset"


@source("esci")
def esci(files: Files, *, locale: str = "us", large: bool = False, pictures: bool = False) -> Iterator[Row]:
    """Amazon ESCI shopping queries, with SQID's pictures if asked; E, S, C and I are our grades.

    Args:
        files: The parquet files.
        locale: us, es or jp; products of others are left aside.
        large: The version of tasks 2 and 3, rather than the smaller one of task 1.
        pictures: Download the pictures that SQID's list names.
    """
    products, examples = files.need(f"{PREFIX}_products.parquet"), files.need(f"{PREFIX}_examples.parquet")
    version = "large_version" if large else "small_version"
    judged: list[tuple[str, str, str, str]] = []
    asked: dict[str, tuple[str, str]] = {}
    wanted = ["query", "query_id", "product_id", "product_locale", "esci_label", "split", version]
    for one in rows(files, examples, wanted):
        if one.values["product_locale"] == locale and one.values[version] == 1:
            query = str(one.values["query_id"])
            asked[query] = one.values["query"], one.values["split"]
            judged.append((one.where, query, one.values["product_id"], one.values["esci_label"]))
    addresses = _addresses(files) if pictures else {}
    needed = {product for _, _, product, _ in judged}
    for one in rows(files, products, ["product_id", "product_title", "product_locale"]):
        product = one.values["product_id"]
        if one.values["product_locale"] != locale or product not in needed:
            continue
        told = [one.values.get(f"product_{name}") for name in ("description", "bullet_point")]
        own = {
            "product_id": product,
            "title": one.values["product_title"],
            "description": "\n".join(text for text in told if text),
            "brand": one.values.get("product_brand"),
            "color": one.values.get("product_color"),
            "image": files.picture(addresses[product]) if product in addresses else None,
        }
        yield Row("products", one.where, own)
    train = [normalise(text) or "" for text, name in asked.values() if name == "train"]
    splits = split(train, {"train": 0.85, "valid": 0.15})
    for query, (text, name) in asked.items():
        own = {"query_id": query, "text": text, "judged_by": HUMAN}
        own["split"] = splits[normalise(text) or ""] if name == "train" else name
        yield Row("queries", examples, own)
    for where, query, product, label in judged:
        grade = GRADES.get(label, label)
        yield Row("judgements", where, {"query_id": query, "product_id": product, "grade": grade})


def _addresses(files: Files) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("supp_product_image_urls", "product_image_urls"):
        if table := files.find(f"{name}.parquet", f"{name}.csv"):
            for one in rows(files, table, ["product_id", "image_url"]):
                if one.values["image_url"]:
                    found[one.values["product_id"]] = one.values["image_url"]
    return found
