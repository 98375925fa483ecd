"""*Magento* and Adobe Commerce: the CSV of "System → Export → Products".

https://experienceleague.adobe.com/docs/commerce-admin/systems/data-transfer/data-attributes-product.html
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
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
    parse_moment,
    read_ahead,
    select_price,
    sort_options,
    split_list,
    take_first,
)
from catalog.sources import source

ROOT = "Default Category"  # of each shop's tree, which shoppers do not see
NAME = re.compile(
    r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_]*)="
)  # of an attribute; a comma elsewhere belongs to a value


class Families(NamedTuple):
    """Configurable products and their variations.

    Attributes:
        parents: SKU → values of a configurable product.
        parent_of: SKU of a variation → SKU of its configurable product.
        options: SKU of a variation → its options.
        enabled: SKUs of configurable products with an enabled variation.
    """

    parents: dict[str, dict[str, Any]]
    parent_of: dict[str, str]
    options: dict[str, dict[str, str]]
    enabled: set[str]


@source("magento")
def magento(
    files: Files,
    *,
    currency: str | None = None,
    pictures: Path | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row | Rejection]:
    """Magento 2, Adobe Commerce: the CSV of System → Export → Products; a row for each variation.

    A variation takes the values that it lacks from its configurable product. Disabled products, simple products that
    are not visible and belong to none, and rows of store views other than the default are left out and listed.

    Args:
        files: The CSV.
        currency: ISO 4217 code of the prices, which the export does not contain.
        pictures: Folder or zip of the pictures, such as pub/media/catalog/product.
        encoding: Encoding of the CSV; by default detected.
        delimiter: Delimiter of the CSV; by default detected.

    Raises:
        DataError: if the file has another layout.
    """
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the CSV itself")

    def read() -> Iterator[Record]:
        return read_rows(files, files.source.name, ("sku", "product_type", "name"), (), encoding, delimiter)

    families = _collect_families(read_ahead(files, read()))
    media, day = open_pictures(files, pictures), files.get_date(files.source.name)
    for record in read():
        sku = take_first(record.values, "sku")
        parent_sku = families.parent_of.get(sku or "")
        parent = families.parents.get(parent_sku or "", {})
        if reason := _explain_hidden(record.values, parent):
            yield leave_out(record, sku, reason)
        elif sku not in families.enabled:
            values = _product_values(record.values, parent, families.options.get(sku or "", {}), day)
            gallery = merge_galleries(_list_pictures(record.values), _list_pictures(parent))
            more = {"group_id": parent_sku or sku, "currency": currency}
            yield Row("products", record.where, {**values, **more, "images": get_pictures(media, gallery)})


def _is_enabled(values: Mapping[str, Any]) -> bool:
    return (take_first(values, "product_online") or "1") == "1"


def _collect_families(records: Iterator[Record]) -> Families:
    families = Families({}, {}, {}, set())
    enabled: set[str] = set()
    for record in records:
        sku = take_first(record.values, "sku") or ""
        if take_first(record.values, "store_view_code"):
            continue
        if _is_enabled(record.values):
            enabled.add(sku)
        if variations := take_first(record.values, "configurable_variations"):
            families.parents[sku] = record.values
            for options in map(_parse_pairs, variations.split("|")):
                child = options.pop("sku", "")
                families.parent_of[child], families.options[child] = sku, options
    families.enabled.update(parent for child, parent in families.parent_of.items() if child in enabled)
    return families


def _parse_pairs(text: Any) -> dict[str, str]:
    """Parse "name=value,name=value"; values may contain commas, and are in quotes in some exports."""
    parts = NAME.split(str(text or ""))
    return {name: value.strip().strip('"') for name, value in zip(parts[1::2], parts[2::2], strict=True)}


def _explain_hidden(values: Mapping[str, Any], parent: Mapping[str, Any]) -> str | None:
    """Explain why shoppers do not find a product; None if they do."""
    if view := take_first(values, "store_view_code"):
        return f"a text of the store view '{view}'; only the default view is imported"
    if not _is_enabled(values) or not _is_enabled(parent):
        return "not published: disabled"
    if not parent and take_first(values, "visibility") == "Not Visible Individually":
        return "not published: not visible individually"
    return None


def _product_values(
    values: Mapping[str, Any], parent: Mapping[str, Any], options: Mapping[str, str], day: date
) -> dict[str, Any]:
    attributes = {
        **_parse_pairs(parent.get("additional_attributes")),
        **_parse_pairs(values.get("additional_attributes")),
        **options,
    }
    columns = sort_options({name: ", ".join(value.split("|")) for name, value in attributes.items()})
    categories = take_first(values, "categories") or take_first(parent, "categories")
    return {
        "product_id": values.get("sku"),
        "title": values.get("name") or parent.get("name"),
        "description": take_first(values, "description", "short_description")
        or take_first(parent, "description", "short_description"),
        "category": select_path(map(_split_levels, split_list(categories, ",|"))),
        **columns,
        "price": select_price(
            values.get("price"),
            values.get("special_price"),
            values.get("special_price_from_date"),
            values.get("special_price_to_date"),
            day,
        ),
        "available": take_first(values, "is_in_stock"),
        "updated_at": parse_moment(values.get("updated_at")),
    }


def _split_levels(path: str) -> list[str]:
    r"""Split a path at "/", but not at "\/", which is part of a name; without the root."""
    levels = [level.replace("\\/", "/") for level in re.split(r"(?<!\\)/", path)]
    return levels[1:] if levels[0] == ROOT and len(levels) > 1 else levels


def _list_pictures(values: Mapping[str, Any]) -> list[str]:
    main = take_first(values, "base_image", "small_image", "thumbnail_image")
    names = [main or "", *split_names(values.get("additional_images"))]
    return [name for name in names if name and name != "no_selection"]
