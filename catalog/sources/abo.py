"""*Amazon Berkeley Objects*: `listings/metadata/listings_*.json.gz`, `images/metadata/images.csv.gz`, `images/small/`.

https://amazon-berkeley-objects.s3.amazonaws.com/index.html (Collins et al., CVPR 2022)
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_rows
from catalog.schema import DataError
from catalog.sources import source


@source("abo")
def abo(files: Files, *, language: str = "en") -> Iterator[Row]:
    """Amazon Berkeley Objects: products with pictures, and no queries.

    Args:
        files: The unpacked archives.
        language: Language of the texts, such as "en" or "en_US"; without it, a product keeps its first language.
    """
    listings = files.find_all("listings/metadata/listings_*.json*") or files.find_all("listings_*.json*")
    if not listings:
        raise DataError(f"{files.source}: no listings/metadata/listings_*.json.gz")
    pictures = _read_picture_names(files)
    for name in listings:
        for record in read_rows(files, name, ["item_id"]):
            ids = [record.values.get("main_image_id"), *(record.values.get("other_image_id") or ())]
            names = [pictures[key] for key in map(str, ids) if key in pictures]
            images = [files.get_media(name) for name in names if files.has(name)]
            yield Row("products", record.where, _product_values(record.values, language) | {"images": images})


def _read_picture_names(files: Files) -> dict[str, str]:
    """Read the list of pictures: image id → file name."""
    table = files.find("images/metadata/images.csv*")
    if not table:
        return {}
    folder = PurePosixPath(table).parents[1] / "small"
    return {
        record.values["image_id"]: str(folder / record.values["path"])
        for record in read_rows(files, table, ["image_id", "path"])
    }


def _product_values(item: Mapping[str, Any], language: str) -> dict[str, Any]:
    nodes = [node.get("node_name") or "" for node in item.get("node") or []]
    return {
        "product_id": item["item_id"],
        "title": _first_text(item.get("item_name"), language),
        "description": "\n".join(_select_texts(item.get("bullet_point"), language)),
        "category": (nodes[0].strip("/") if nodes else "") or _first_text(item.get("product_type"), language),
        "brand": _first_text(item.get("brand"), language),
        "color": _first_text(item.get("color"), language),
        "material": _first_text(item.get("material"), language),
    }


def _select_texts(entries: Any, language: str) -> list[str]:
    """Select the texts in a language; if there are none, those in the language of the first text."""
    entries = [entry for entry in entries or [] if entry.get("value")]
    texts = [entry["value"] for entry in entries if str(entry.get("language_tag", "")).startswith(language)]
    first = entries[0].get("language_tag") if entries else None
    return texts or [entry["value"] for entry in entries if entry.get("language_tag") == first]


def _first_text(entries: Any, language: str) -> str | None:
    return next(iter(_select_texts(entries, language)), None)
