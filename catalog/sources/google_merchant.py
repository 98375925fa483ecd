"""*Google Merchant Center* product feeds: TSV, CSV, RSS 2.0 and Atom 1.0; other marketplaces read them, too.

https://support.google.com/merchants/answer/7052112 (attributes), /14987622 (RSS 2.0), /14990811 (Atom 1.0)
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from catalog.categories import select_path
from catalog.conversion import Rejection, Row
from catalog.feeds import is_feed, read_feed
from catalog.files import Files
from catalog.galleries import get_pictures, split_names
from catalog.reading import Record, read_rows
from catalog.schema import DataError
from catalog.shops import (
    open_pictures,
    parse_moment,
    select_price,
    split_list,
)
from catalog.sources import source

# Attributes that describe the product, beside those with a column of their own.
DESCRIBING = (
    "pattern",
    "size",
    "size_system",
    "size_type",
    "gender",
    "age_group",
    "condition",
    "gtin",
    "mpn",
)


@source("google_merchant")
def google_merchant(
    files: Files, *, pictures: Path | None = None, encoding: str | None = None, delimiter: str | None = None
) -> Iterator[Row | Rejection]:
    """Google Merchant Center: a feed as TSV, CSV, RSS 2.0 or Atom XML; a row for each item.

    Items with the same item_group_id are variants. A sale price counts on the day of the file.

    Args:
        files: The feed, also as .gz.
        pictures: Folder or zip of the pictures, if they are not addresses.
        encoding: Encoding of TSV and CSV; by default detected.
        delimiter: Delimiter of TSV and CSV; by default detected.

    Raises:
        DataError: if the file has another layout, or is XML that is damaged or declares a DTD.
    """
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the feed itself")
    name = files.source.name
    records = (
        read_feed(files, name) if is_feed(files, name) else _read_table(files, name, encoding, delimiter)
    )
    media, day = open_pictures(files, pictures), files.get_date(name)
    for record in records:
        values = _product_values(record.values, day)
        yield Row(
            "products", record.where, {**values, "images": get_pictures(media, _list_pictures(record.values))}
        )


def _read_table(files: Files, name: str, encoding: str | None, delimiter: str | None) -> Iterator[Record]:
    """Read TSV or CSV with the values of `catalog.feeds.read_feed`; "image link" and "g:id" are names, too."""
    for where, values in read_rows(files, name, (), (), encoding, delimiter):
        attributes: dict[str, list[str]] = defaultdict(list)
        for column, value in values.items():
            attributes[column.strip().lower().removeprefix("g:").replace(" ", "_")].append(str(value or ""))
        if "id" not in attributes:
            raise DataError(f"{where}: no column id; it has {', '.join(list(values)[:20])}")
        yield Record(where, attributes)


def _get(attributes: Mapping[str, Any], name: str) -> str:
    return next((value.strip() for value in attributes.get(name, ()) if value.strip()), "")


def _product_values(attributes: Mapping[str, Any], day: date) -> dict[str, Any]:
    start, _, end = _get(attributes, "sale_price_effective_date").partition("/")
    group = _get(attributes, "item_group_id") or _get(attributes, "id")
    return {
        "product_id": _get(attributes, "id"),
        "group_id": group,
        "title": _get(attributes, "title"),
        "description": _get(attributes, "description"),
        "category": _select_category(attributes),
        "brand": _get(attributes, "brand"),
        "color": _get(attributes, "color").replace("/", ", "),
        "material": _get(attributes, "material").replace("/", ", "),
        "attributes": _list_attributes(attributes),
        "price": select_price(_get(attributes, "price"), _get(attributes, "sale_price"), start, end, day),
        "available": _get(attributes, "availability"),
        "language": _get(attributes, "content_language") or _get(attributes, "language"),
        "updated_at": parse_moment(_get(attributes, "updated")),
    }


def _select_category(attributes: Mapping[str, Any]) -> list[str]:
    """The shop's category, else Google's; the latter can be a bare number, which is no path."""
    for name in ("product_type", "google_product_category"):
        texts = [
            text for value in attributes.get(name, ()) for text in split_list(value) if not text.isdecimal()
        ]
        if path := select_path(text.split(">") for text in texts):
            return path
    return []


def _list_attributes(attributes: Mapping[str, Any]) -> dict[str, str]:
    described = {name: value for name in DESCRIBING if (value := _get(attributes, name))}
    for detail in attributes.get("product_detail", ()):  # "section:name:value"
        _, _, pair = detail.partition(":")
        name, _, value = pair.partition(":")
        described |= {name.strip(): value.strip()} if name.strip() and value.strip() else {}
    return described


def _list_pictures(attributes: Mapping[str, Any]) -> list[str]:
    more = [name for value in attributes.get("additional_image_link", ()) for name in split_names(value)]
    return [_get(attributes, "image_link"), *more]
