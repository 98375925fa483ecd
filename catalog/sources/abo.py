"""*Amazon Berkeley Objects*: `listings/metadata/listings_*.json.gz`, `images/metadata/images.csv.gz`, `images/small/`.

https://amazon-berkeley-objects.s3.amazonaws.com/index.html (Collins et al., CVPR 2022)
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from catalog.conversion import Row
from catalog.reading import Files, rows
from catalog.schema import DataError
from catalog.sources import source


@source("abo")
def abo(files: Files, *, language: str = "en") -> Iterator[Row]:
    """Amazon Berkeley Objects: products with pictures, and no queries.

    Args:
        files: The unpacked archives.
        language: Of the texts, as in "en" or "en_US"; a product that has none of it keeps the first that it has.
    """
    listings = files.all("listings/metadata/listings_*.json*") or files.all("listings_*.json*")
    if not listings:
        raise DataError(f"{files.source}: no listings/metadata/listings_*.json.gz")
    pictures: dict[str, str] = {}
    if table := files.find("images/metadata/images.csv*"):
        folder = PurePosixPath(table).parents[1] / "small"
        for one in rows(files, table, ["image_id", "path"]):
            pictures[one.values["image_id"]] = str(folder / one.values["path"])
    for name in listings:
        for one in rows(files, name, ["item_id"]):
            values = one.values
            nodes = [node.get("node_name") or "" for node in values.get("node") or []]
            main = pictures.get(str(values.get("main_image_id")))
            own = {
                "product_id": values["item_id"],
                "title": _first(values.get("item_name"), language),
                "description": "\n".join(_all(values.get("bullet_point"), language)),
                "category": (nodes[0].strip("/") if nodes else "")
                or _first(values.get("product_type"), language),
                "brand": _first(values.get("brand"), language),
                "color": _first(values.get("color"), language),
                "material": _first(values.get("material"), language),
                "image": files.picture(main) if main and files.has(main) else None,
            }
            yield Row("products", one.where, own)


def _all(values: Any, language: str) -> list[str]:
    """The texts of a language, or of the first there is."""
    told = [one for one in values or [] if one.get("value")]
    own = [one["value"] for one in told if str(one.get("language_tag", "")).startswith(language)]
    first = told[0].get("language_tag") if told else None
    return own or [one["value"] for one in told if one.get("language_tag") == first]


def _first(values: Any, language: str) -> str | None:
    return next(iter(_all(values, language)), None)
