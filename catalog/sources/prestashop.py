"""*PrestaShop*: products, and their combinations, as CSV in the layout of its import.

https://github.com/PrestaShop/PrestaShop/tree/develop/docs/csv_import (products_import.csv, combinations_import.csv)
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from catalog.categories import select_path
from catalog.conversion import Rejection, Row
from catalog.files import Files
from catalog.galleries import get_pictures, split_names
from catalog.prices import read_amount
from catalog.reading import Record, read_rows
from catalog.schema import DataError
from catalog.shops import (
    fold_names,
    is_positive,
    leave_out,
    merge_galleries,
    open_pictures,
    parse_moment,
    sort_options,
    split_list,
    take_first,
)
from catalog.sources import source

PRICES = ("price tax included", "price (tax incl.)", "price tax excluded", "price (tax excl.)", "price")
ROOTS = {"home", "root"}  # of each shop's tree


@source("prestashop")
def prestashop(
    files: Files,
    *,
    currency: str | None = None,
    pictures: Path | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row | Rejection]:
    """PrestaShop: products, and combinations.csv if the source is a folder or zip; a row for each combination.

    Products that are not active or have the visibility "none" are left out and listed.

    Args:
        files: The CSV of products, or a folder or zip with products*.csv and combinations*.csv.
        currency: ISO 4217 code of the prices, which the export does not contain.
        pictures: Folder or zip of the pictures, if they are not addresses.
        encoding: Encoding of the CSV; by default detected.
        delimiter: Delimiter of the CSV; by default detected.

    Raises:
        DataError: if a file has another layout.
    """
    is_file = files.source.is_file() and not files.zip
    name = files.source.name if is_file else files.require("products*.csv", "product*.csv")
    combined = None if is_file else files.find("combinations*.csv", "combination*.csv")
    combinations: dict[str, list[Record]] = {}
    for record in _read(files, combined, encoding, delimiter) if combined else ():
        combinations.setdefault(
            take_first(record.values, "product id", "product reference") or "", []
        ).append(record)
    media, day = open_pictures(files, pictures), files.get_date(name)
    for record in _read(files, name, encoding, delimiter):
        product_id = take_first(record.values, "product id", "id") or take_first(record.values, "reference")
        if reason := _explain_hidden(record.values):
            yield leave_out(record, product_id, reason)
            continue
        values = _product_values(record.values, day) | {"group_id": product_id, "currency": currency}
        keys = (product_id, take_first(record.values, "reference"))
        variants = next((combinations[key] for key in keys if key in combinations), [])
        gallery = split_names(take_first(record.values, "image urls", "image"))
        if not variants:
            images = get_pictures(media, gallery)
            yield Row("products", record.where, {**values, "product_id": product_id, "images": images})
        for number, variant in enumerate(variants, start=1):
            columns, names = _combination_values(variant.values, values, gallery)
            columns["product_id"] = take_first(variant.values, "reference") or f"{product_id}-{number}"
            yield Row("products", variant.where, {**values, **columns, "images": get_pictures(media, names)})


def _read(files: Files, name: str, encoding: str | None, delimiter: str | None) -> Iterator[Record]:
    for where, values in read_rows(files, name, (), (), encoding, delimiter):
        folded = fold_names(values)
        if not {"name", "attribute"} & folded.keys():
            raise DataError(f"{where}: no column Name; it has {', '.join(list(values)[:20])}")
        yield Record(where, folded)


def _explain_hidden(values: Mapping[str, Any]) -> str | None:
    """Explain why shoppers do not find a product; None if they do."""
    if take_first(values, "active", "status", "enabled") == "0":
        return "not published: not active"
    return "not published: visibility none" if take_first(values, "visibility") == "none" else None


def _product_values(values: Mapping[str, Any], day: date) -> dict[str, Any]:
    features = _parse_features(values.get("feature")) | {"tags": ", ".join(split_list(values.get("tags")))}
    texts = [take_first(values, name) for name in ("summary", "short description", "description")]
    columns = sort_options(features | {"condition": take_first(values, "condition")})
    return {
        "title": values.get("name"),
        "description": "\n".join(text for text in texts if text),
        "category": _select_category(split_list(take_first(values, "categories", "category"))),
        **columns,
        "brand": take_first(values, "manufacturer", "brand") or columns.get("brand"),
        "price": _reduce_price(values, day),
        "available": _is_available(values),
        "updated_at": parse_moment(values.get("date updated")),
    }


def _select_category(categories: Sequence[str]) -> list[str]:
    """Categories are names or paths such as "Clothes/Men"; the first one is the default category."""
    paths = [
        [name for name in category.split("/") if name.strip().casefold() not in ROOTS]
        for category in categories
    ]
    return select_path(paths)


def _parse_features(text: Any) -> dict[str, str]:
    """Parse "Name:Value:Position,Name:Value"; several values of a name are joined."""
    features: dict[str, str] = {}
    for feature in split_list(text):
        name, _, rest = feature.partition(":")
        value = re.sub(r"(:\d*)+$", "", rest).strip()
        features[name.strip()] = ", ".join(filter(None, (features.get(name.strip()), value)))
    return features


def _reduce_price(values: Mapping[str, Any], day: date) -> Any:
    """The price, less a discount that runs on a day; with taxes where both prices are there."""
    price = take_first(
        values, "price tax included", "price (tax incl.)", "price tax excluded", "price (tax excl.)", "price"
    )
    amount, percent = take_first(values, "discount amount"), take_first(values, "discount percent")
    first, last = parse_moment(values.get("discount from")), parse_moment(values.get("discount to"))
    if not (amount or percent) or (first and first.date() > day) or (last and last.date() < day):
        return price
    try:
        full = read_amount(price or "") or 0
        reduced = full - (read_amount(amount or "") or 0) - full * (read_amount(percent or "") or 0) / 100
    except ValueError:  # the conversion lists the price
        return price
    return round(reduced, 6) if reduced > 0 else price


def _is_available(values: Mapping[str, Any]) -> bool | None:
    """Whether a product can be ordered: offered, and in stock or sold when out of stock; None if unknown."""
    if take_first(values, "available for order") == "0":
        return False
    quantity = take_first(values, "quantity")
    if take_first(values, "out of stock action") == "1":  # orders are allowed
        return True
    return None if quantity is None else is_positive(quantity)


def _combination_values(
    values: Mapping[str, Any], product: Mapping[str, Any], gallery: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The columns of a combination that differ from its product's, and the addresses of its pictures."""
    names = [name.split(":")[0] for name in split_list(values.get("attribute"))]
    choices = [re.sub(r":\d*$", "", choice) for choice in split_list(values.get("value"))]
    options = sort_options({**product["attributes"], **dict(zip(names, choices, strict=False))})
    options.pop("brand", None)
    position = take_first(values, "image position") or ""
    by_position = (
        gallery[int(position) - 1 : int(position)] if position.isdecimal() and position != "0" else []
    )
    pictures = merge_galleries(split_names(values.get("image urls")) or by_position, gallery)
    columns = {**options, "price": _add_impact(product["price"], values.get("impact on price"))}
    available = _is_available(values)
    return columns | ({} if available is None else {"available": available}), pictures


def _add_impact(price: Any, impact: Any) -> Any:
    """The price of a combination: that of its product, and what the combination adds or takes off."""
    text = str(impact or "").strip()
    try:
        change = read_amount(text.removeprefix("-")) or 0
        return round((read_amount(price or "") or 0) + (-change if text.startswith("-") else change), 6)
    except ValueError:  # the conversion lists the price
        return price
