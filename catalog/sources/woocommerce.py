"""*WooCommerce*: the CSV of "Products → Export".

https://github.com/woocommerce/woocommerce/wiki/Product-CSV-Import-Schema
https://woocommerce.com/document/product-csv-importer-exporter/
"""

from collections.abc import Iterator, Mapping
from datetime import date
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from catalog.categories import select_path
from catalog.conversion import Rejection, Row
from catalog.files import Files
from catalog.galleries import get_pictures, split_names
from catalog.reading import Record, read_rows
from catalog.schema import DataError
from catalog.shops import (
    leave_out,
    merge_galleries,
    open_pictures,
    read_ahead,
    select_price,
    sort_options,
    split_list,
    take_first,
)
from catalog.sources import source

REQUIRED = ("Type", "Name")
STATUSES = {"-1": "draft", "0": "private", "2": "pending review"}


class Parents(NamedTuple):
    """Variable products and the variations that refer to them.

    Attributes:
        by_reference: "id:ID" and SKU → values of a variable product.
        with_variations: References of products that have a published variation.
    """

    by_reference: dict[str, dict[str, Any]]
    with_variations: set[str]


@source("woocommerce")
def woocommerce(
    files: Files,
    *,
    currency: str | None = None,
    pictures: Path | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row | Rejection]:
    """WooCommerce: the CSV of Products → Export; a row for each simple product and each variation.

    The id is the SKU, or else "id:ID". A variation takes the values that it lacks from its product. Drafts, private and
    hidden products are left out and listed.

    Args:
        files: The CSV, with the English titles of columns.
        currency: ISO 4217 code of the prices, which the export does not contain.
        pictures: Folder or zip of the pictures, if they are not addresses.
        encoding: Encoding of the CSV; by default detected.
        delimiter: Delimiter of the CSV; by default detected.

    Raises:
        DataError: if the file has another layout.
    """
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the CSV itself")

    def read() -> Iterator[Record]:
        return read_rows(files, files.source.name, REQUIRED, (), encoding, delimiter)

    parents = _collect_parents(read_ahead(files, read()))
    media, day = open_pictures(files, pictures), files.get_date(files.source.name)
    for record in read():
        values = record.values
        parent = parents.by_reference.get(take_first(values, "Parent") or "", {})
        if reason := _explain_hidden(values, parent):
            yield leave_out(record, _get_id(values), reason)
        elif not _references(values) & parents.with_variations:
            columns = _product_values(values, parent, day)
            gallery = merge_galleries(_list_pictures(values), _list_pictures(parent))
            yield Row(
                "products",
                record.where,
                {**columns, "currency": currency, "images": get_pictures(media, gallery)},
            )


def _get_id(values: Mapping[str, Any]) -> str:
    number = take_first(values, "ID")
    return take_first(values, "SKU") or (f"id:{number}" if number else "")


def _references(values: Mapping[str, Any]) -> set[str]:
    """How variations refer to a product: by SKU, or by ID."""
    return {_get_id(values), f"id:{take_first(values, 'ID')}"} - {"", "id:None"}


def _is_variation(values: Mapping[str, Any]) -> bool:
    return "variation" in split_list(values.get("Type"))


def _collect_parents(records: Iterator[Record]) -> Parents:
    parents = Parents({}, set())
    for record in records:
        if _is_variation(record.values):
            if take_first(record.values, "Published") in {None, "1"}:
                parents.with_variations.add(take_first(record.values, "Parent") or "")
        elif "variable" in split_list(record.values.get("Type")):
            parents.by_reference.update(dict.fromkeys(_references(record.values), record.values))
    return parents


def _explain_hidden(values: Mapping[str, Any], parent: Mapping[str, Any]) -> str | None:
    """Explain why shoppers do not find a product; None if they do."""
    for row in (values, parent):
        published = take_first(row, "Published") or "1"
        if published != "1":
            return f"not published: {STATUSES.get(published, published)}"
        if take_first(row, "Visibility in catalog") == "hidden":
            return "not published: hidden in the catalogue"
    return None


def _product_values(values: Mapping[str, Any], parent: Mapping[str, Any], day: date) -> dict[str, Any]:
    texts = [_unescape(values.get(name) or parent.get(name)) for name in ("Short description", "Description")]
    categories = split_list(take_first(values, "Categories") or take_first(parent, "Categories"))
    options = sort_options(
        {
            **_list_attributes(parent),
            **_list_attributes(values),
            "tags": take_first(values, "Tags") or take_first(parent, "Tags"),
        }
    )
    brand = take_first(values, "Brands") or take_first(parent, "Brands")
    return {
        "product_id": _get_id(values),
        "group_id": _get_id(parent) if parent else take_first(values, "Parent") or _get_id(values),
        "title": values.get("Name") or parent.get("Name"),
        "description": "\n".join(text for text in texts if text),
        "category": select_path(category.split(">") for category in categories),
        **options,
        "brand": brand or options.get("brand"),
        "price": select_price(
            values.get("Regular price"),
            values.get("Sale price"),
            values.get("Date sale price starts"),
            values.get("Date sale price ends"),
            day,
        ),
        "available": take_first(values, "In stock?"),
    }


def _unescape(text: Any) -> str:
    r"""Restore line breaks, which the exporter writes as "\n"; its own "\n" is "\\n"."""
    return str(text or "").replace("\\\\n", "\0").replace("\\n", "\n").replace("\0", "\\n")


def _list_attributes(values: Mapping[str, Any]) -> dict[str, str]:
    names = takewhile(lambda column: column in values, (f"Attribute {number} name" for number in count(1)))
    pairs = ((values[column], values.get(column.replace(" name", " value(s)"))) for column in names)
    return {str(name): ", ".join(split_list(items)) for name, items in pairs if name and split_list(items)}


def _list_pictures(values: Mapping[str, Any]) -> list[str]:
    return split_names(values.get("Images"))
