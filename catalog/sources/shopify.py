"""*Shopify*: the product CSV of the admin (titles of columns before and since 2025), and `products.json`.

https://help.shopify.com/en/manual/products/import-export/using-csv
https://shopify.dev/docs/api/admin-rest/latest/resources/product
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from catalog.conversion import Rejection, Row
from catalog.files import Files
from catalog.galleries import get_pictures
from catalog.reading import Record, read_json_items, read_rows
from catalog.schema import DataError
from catalog.shops import (
    fold_names,
    is_positive,
    leave_out,
    merge_galleries,
    open_pictures,
    sort_options,
    split_list,
    take_first,
)
from catalog.sources import source

OPTIONS = (1, 2, 3)
PICTURE_COLUMNS = ("image src", "product image url")
METAFIELD = re.compile(r"(.+) \((?:product|variant)\.metafields\.[^()]+\)")


class Product(NamedTuple):
    """A product of either file.

    Attributes:
        where: Place in the file.
        handle: Id of the product in addresses; names its group.
        status: "active", or why shoppers do not see it.
        values: Columns of ours that its variants share.
        gallery: Addresses of its pictures, in order.
        variants: Its variants.
    """

    where: str
    handle: str
    status: str
    values: dict[str, Any]
    gallery: list[str]
    variants: list["Variant"]


class Variant(NamedTuple):
    """A variant of a product: its place, id if it has one, option values, columns of ours, and its own pictures."""

    where: str
    id: str | None
    options: dict[str, str]
    values: dict[str, Any]
    pictures: list[str]


@source("shopify")
def shopify(
    files: Files, *, currency: str | None = None, pictures: Path | None = None
) -> Iterator[Row | Rejection]:
    """Shopify: the product CSV of the admin, or products.json; a row for each variant.

    The id of a variant is its SKU; without one, or if another variant has it, the handle and the option values. Drafts,
    archived and unpublished products are left out and listed.

    Args:
        files: The CSV or JSON.
        currency: ISO 4217 code of the prices, which the export does not contain.
        pictures: Folder or zip of the pictures, if they are not addresses.

    Raises:
        DataError: if the file has another layout.
    """
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the file itself, products_export.csv or products.json")
    is_json = ".json" in files.source.suffixes
    media = open_pictures(files, pictures)
    product_ids: set[str] = set()
    for product in _read_json(files) if is_json else _read_csv(files):
        if product.status != "active":
            yield leave_out(Record(product.where, {}), product.handle, f"not published: {product.status}")
            continue
        of_variants = [picture for variant in product.variants for picture in variant.pictures]
        for variant in product.variants:
            product_id = _choose_id(product, variant, product_ids)
            names = merge_galleries(variant.pictures, product.gallery, of_variants)
            values = {
                **{"product_id": product_id, "group_id": product.handle, "currency": currency},
                **product.values,
                **variant.values,
                **_merge_options(product.values, variant.options),
                "images": get_pictures(media, names),
            }
            yield Row("products", variant.where, values)


def _choose_id(product: Product, variant: Variant, product_ids: set[str]) -> str:
    named = "-".join([product.handle, *variant.options.values()])
    product_id = variant.id if variant.id and variant.id not in product_ids else named
    product_ids.add(product_id)
    return product_id


def _merge_options(values: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The option values of a variant, with the attributes of its product."""
    columns = sort_options({**values["attributes"], **options})
    columns.pop("brand", None)  # the vendor
    return columns


def _read_csv(files: Files) -> Iterator[Product]:
    """Group the rows of a CSV by handle: the first row has the product, each has a variant, a picture, or both."""
    last = ""

    def get_handle(record: Record) -> str:
        nonlocal last
        last = take_first(record.values, "handle", "url handle") or last
        return last

    rows = read_rows(files, files.source.name, ["Title"])
    records = (Record(where, _fold(values)) for where, values in rows)
    for handle, group in groupby(records, get_handle):
        yield _build_product(handle, list(group))


def _fold(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fold the names of columns; metafields keep their name in an item of their own."""
    metafields = {match[1]: value for name, value in values.items() if (match := METAFIELD.fullmatch(name))}
    return {**fold_names(values), "metafields": metafields}


def _build_product(handle: str, records: Sequence[Record]) -> Product:
    where, first = records[0]
    names = {number: take_first(first, f"option{number} name") for number in OPTIONS}
    pictured = [record.values for record in records if take_first(record.values, *PICTURE_COLUMNS)]
    gallery = [take_first(values, *PICTURE_COLUMNS) or "" for values in sorted(pictured, key=_parse_position)]
    variants = [
        _build_variant(record, names)
        for record in records
        if record is records[0] or take_first(record.values, "option1 value", "variant sku", "sku")
    ]
    values = {
        "title": first.get("title"),
        "description": take_first(first, "body", "description"),
        "category": take_first(first, "product category", "type"),
        "brand": first.get("vendor"),
        "attributes": {
            **{"type": first.get("type"), "tags": ", ".join(split_list(first.get("tags")))},
            **first["metafields"],
        },
    }
    return Product(where, handle, _get_status(first), values, gallery, variants)


def _parse_position(values: Mapping[str, Any]) -> int:
    text = take_first(values, "image position") or ""
    return int(text) if text.isdecimal() else 0


def _get_status(values: Mapping[str, Any]) -> str:
    published = (take_first(values, "published", "published on online store") or "true").casefold()
    status = (take_first(values, "status") or "active").casefold()
    return "hidden in the online store" if status == "active" and published == "false" else status


def _build_variant(record: Record, names: Mapping[int, str | None]) -> Variant:
    values = record.values
    options = {
        name: value
        for number, name in names.items()
        if name and (value := take_first(values, f"option{number} value")) and value != "Default Title"
    }
    picture = take_first(values, "variant image", "variant image url")
    columns = {
        "price": take_first(values, "variant price", "price"),
        "available": _is_available(
            take_first(values, "variant inventory tracker", "inventory tracker"),
            take_first(values, "variant inventory qty", "inventory quantity"),
            take_first(values, "variant inventory policy", "continue selling when out of stock"),
        ),
    }
    sku = take_first(values, "variant sku", "sku")
    return Variant(record.where, sku, options, columns, [picture] if picture else [])


def _is_available(tracker: Any, quantity: Any, policy: Any) -> bool | None:
    """Whether a variant can be bought: it is not tracked, in stock, or sold when out of stock; None if unknown."""
    if str(policy or "").casefold() in {"continue", "true"}:
        return True
    if quantity in (None, ""):
        return None if policy is None else not tracker
    return not tracker or is_positive(quantity)


def _read_json(files: Files) -> Iterator[Product]:
    """Read the products of `products.json` of a shop's address, or of an answer of the Admin API."""
    name = files.source.name
    for number, item in enumerate(read_json_items(files, name, "products.item"), start=1):
        where = f"{name} product {number}"
        if not isinstance(item, dict) or not item.get("handle"):
            files.add_fault(where, "no product with a handle")
            continue
        yield _convert_item(where, item)


def _convert_item(where: str, item: Mapping[str, Any]) -> Product:
    images = sorted(_list_items(item, "images"), key=lambda image: image.get("position") or 0)
    names = [option.get("name") for option in _list_items(item, "options")]
    tags = item.get("tags") or ()
    values = {
        "title": item.get("title"),
        "description": item.get("body_html"),
        "category": item.get("product_type"),
        "brand": item.get("vendor"),
        "attributes": {"tags": tags if isinstance(tags, str) else ", ".join(map(str, tags))},
    }
    return Product(
        where,
        str(item["handle"]),
        str(item.get("status") or "active")
        if item.get("published_at", True)
        else "hidden in the online store",
        values,
        [image["src"] for image in images if image.get("src")],
        [_convert_variant(where, item, variant, names, images) for variant in _list_items(item, "variants")],
    )


def _list_items(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [item for item in values.get(name) or () if isinstance(item, dict)]


def _convert_variant(
    where: str,
    item: Mapping[str, Any],
    variant: Mapping[str, Any],
    names: Sequence[str | None],
    images: Sequence[Mapping[str, Any]],
) -> Variant:
    options = {
        name: value
        for number, name in enumerate(names, start=1)
        if name and (value := variant.get(f"option{number}")) and value != "Default Title"
    }
    by_id = [image["src"] for image in images if variant.get("id") in (image.get("variant_ids") or ())]
    featured = (variant.get("featured_image") or {}).get("src")
    available = variant.get("available")
    if available is None:
        available = _is_available(
            variant.get("inventory_management"),
            variant.get("inventory_quantity"),
            variant.get("inventory_policy"),
        )
    columns = {
        "price": variant.get("price"),
        "available": available,
        "updated_at": variant.get("updated_at") or item.get("updated_at"),
    }
    sku = str(variant.get("sku") or variant.get("id") or "")
    return Variant(where, sku, options, columns, [featured] if featured else by_id)
