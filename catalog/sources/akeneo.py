"""*Akeneo PIM*: products, product models and categories as CSV.

https://github.com/akeneo/pim-docs/tree/master/import_and_export_data/formats (product, product_model, category)
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from catalog.categories import select_path
from catalog.conversion import Rejection, Row
from catalog.files import Files
from catalog.galleries import get_pictures
from catalog.prices import CODES
from catalog.privacy import looks_personal
from catalog.reading import Record, read_rows, refuse_personal_columns
from catalog.schema import DataError
from catalog.shops import (
    leave_out,
    open_pictures,
    sort_options,
    split_list,
    take_first,
)
from catalog.sources import source

LOCALE = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?_[A-Z]{2}")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".tif", ".tiff", ".bmp", ".heic")
# Attributes of a shop have codes of its choice; these are the usual ones for columns of ours.
TITLES = ("name", "title", "label", "product_name", "variation_name", "erp_name")
DESCRIPTIONS = ("description", "long_description", "short_description")
PRICES = ("price", "list_price", "retail_price", "msrp")
PROPERTIES = {
    "sku",
    "identifier",
    "uuid",
    "code",
    "parent",
    "categories",
    "enabled",
    "family_variant",
    "groups",
}
ASSOCIATED = {"groups", "products", "product_models", "product_uuids"}  # "X_SELL-products"


class Column(NamedTuple):
    """A column: its name, and its attribute, locale, currency and channel where it has them."""

    name: str
    attribute: str
    locale: str
    currency: str
    channel: str


class Choice(NamedTuple):
    """What is read of an attribute with several columns.

    Attributes:
        locales: The locale of texts, if there is one.
        channel: The channel, None for the first one.
        currency: The currency of prices, None for the first one with a price.
    """

    locales: Sequence[str]
    channel: str | None
    currency: str | None

    def includes(self, column: Column) -> bool:
        """Whether a column is read."""
        return (
            (not column.locale or column.locale in self.locales)
            and (not column.channel or self.channel in (None, column.channel))
            and (not column.currency or self.currency in (None, column.currency))
        )


class Tables(NamedTuple):
    """The names of the tables of an export; None where there is none."""

    products: str
    models: str | None
    categories: str | None


@source("akeneo")
def akeneo(
    files: Files,
    *,
    language: str = "en",
    channel: str | None = None,
    currency: str | None = None,
    pictures: Path | None = None,
    personal: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row | Rejection]:
    """Akeneo PIM: products, and product models and categories if the source is a folder or zip.

    A product has the values of its product models, and belongs to the group of the topmost one. Its texts are in one
    locale: of the language if it has a title in it, else of its first title. Disabled products are left out and listed.

    Args:
        files: The CSV of products, or a folder or zip with *product*.csv, *model*.csv and *categories*.csv.
        language: Language or locale of the texts, such as "de" or "de_AT".
        channel: Channel of the values that differ by channel, such as ecommerce; by default the first.
        currency: ISO 4217 code of the prices that are read; by default the first that a product has.
        pictures: Folder or zip of the pictures; by default the folder of the export.
        personal: A column that is allowed although it looks like personal data.
        encoding: Encoding of the CSV; by default detected.
        delimiter: Delimiter of the CSV; by default detected.

    Raises:
        DataError: if a file has another layout.
    """
    tables, style = _find_tables(files), (encoding, delimiter)
    models: dict[str, dict[str, Any]] = {}
    for _, values in _read(files, tables.models, ["code"], style, personal):
        models[str(values["code"])] = values
    tree = _read_categories(files, tables.categories, language, style)
    media = open_pictures(files, pictures)
    columns: list[Column] = []
    for record in _read(files, tables.products, [], style, personal):
        columns = columns or _parse_columns(tables.products, [record.values, *list(models.values())[:1]])
        product_id = take_first(record.values, "sku", "identifier")
        if take_first(record.values, "enabled") == "0":
            yield leave_out(record, product_id, "not published: disabled")
            continue
        lineage = _list_lineage(record.values, models)
        choice = Choice(_order_locales(columns, lineage, language), channel, currency)
        root = take_first(lineage[-1], "code") or take_first(lineage[-1], "parent") or product_id
        gallery = [name for row in lineage for name in _list_pictures(columns, row, choice)]
        more = {"product_id": product_id, "group_id": root, "images": get_pictures(media, gallery)}
        yield Row("products", record.where, {**_product_values(columns, lineage, choice, tree), **more})


def _find_tables(files: Files) -> Tables:
    if files.source.is_file() and not files.zip:
        return Tables(files.source.name, None, None)
    categories, models = files.find("*categories*.csv", "*category*.csv"), files.find("*model*.csv")
    names = [name for name in files.find_all("*product*.csv") if name not in {categories, models}]
    if not names:
        raise DataError(f"{files.source}: no *product*.csv, at the top or one folder down")
    return Tables(names[0], models, categories)


def _read(
    files: Files,
    name: str | None,
    required: Sequence[str],
    style: tuple[str | None, str | None],
    personal: Sequence[str],
) -> Iterator[Record]:
    """Read a table, if there is one, unless an attribute looks personal; a channel such as "mobile" does not matter."""
    if name is None:
        return iter(())
    records = read_rows(files, name, required, (), *style)
    first = next(records, None)
    names = [] if first is None else first.values
    used = {
        name
        for name in names
        if name.partition("-")[0] != name and not looks_personal(name.partition("-")[0])
    }
    records = chain([] if first is None else [first], records)
    return refuse_personal_columns(records, {*PROPERTIES, *TITLES, *DESCRIPTIONS, *used}, personal)


def _read_categories(
    files: Files, name: str | None, language: str, style: tuple[str | None, str | None]
) -> dict[str, list[str]]:
    """Read the tree of categories: code → labels from the top, without the root, which shoppers do not see."""
    parents: dict[str, str] = {}
    labels: dict[str, str] = {}
    for _, values in read_rows(files, name, ["code", "parent"], (), *style) if name else ():
        named = [name for name in values if name.startswith("label-")]
        named.sort(key=lambda name: not _is_of(name.removeprefix("label-"), language))
        parents[values["code"]] = values["parent"]
        labels[values["code"]] = take_first(values, *named) or values["code"]
    return {code: _list_levels(code, parents, labels) for code in parents}


def _list_levels(code: str, parents: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    codes = [code]
    while (parent := parents.get(codes[-1])) in labels and parent not in codes:
        codes.append(str(parent))
    return [labels[code] for code in reversed(codes[:-1] or codes)]


def _is_of(locale: str, language: str) -> bool:
    return locale == language or locale.startswith(f"{language}_")


def _parse_columns(table: str, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Parse the names of the columns with attributes: "name-en_US", "price-EUR", "description-en_US-mobile".

    Raises:
        DataError: if there is no column of a title.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        attribute, *parts = name.split("-")
        if attribute in PROPERTIES or ASSOCIATED & {*parts} or "unit" in parts:
            continue
        locale = next((part for part in parts if LOCALE.fullmatch(part)), "")
        currency = next((part for part in parts if part in CODES), "")
        scope = next((part for part in parts if part not in {locale, currency}), "")
        columns.append(Column(name, attribute, locale, currency, scope))
    if not any(column.attribute in TITLES for column in columns):
        raise DataError(f"{table}: no column {' or '.join(TITLES)}; it has {', '.join(names[:30])}")
    return columns


def _list_lineage(values: dict[str, Any], models: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The values of a product, of its product model, and of that one's."""
    lineage = [values]
    while (model := models.get(take_first(lineage[-1], "parent") or "")) and model not in lineage:
        lineage.append(model)
    return lineage


def _order_locales(
    columns: Sequence[Column], lineage: Sequence[Mapping[str, Any]], language: str
) -> list[str]:
    """The locale of a product's texts: of the language, or else the first one in which it has a title."""
    locales = sorted(
        {column.locale: None for column in columns if column.locale},
        key=lambda name: not _is_of(name, language),
    )
    titled = {
        column.locale
        for column in columns
        for row in lineage
        if column.attribute in TITLES and take_first(row, column.name)
    }
    if "" in titled:
        return locales[:1]
    return [locale for locale in locales if locale in titled][:1]


def _collect_values(
    columns: Sequence[Column], lineage: Sequence[Mapping[str, Any]], choice: Choice
) -> dict[str, tuple[str, Column]]:
    """The value of each attribute that is no picture, with its unit, and its column."""
    values: dict[str, tuple[str, Column]] = {}
    for column in filter(choice.includes, columns):
        row = next((row for row in lineage if take_first(row, column.name)), None)
        if row is None or column.attribute in values or _is_picture(row[column.name]):
            continue
        text = " ".join(filter(None, (take_first(row, column.name), take_first(row, f"{column.name}-unit"))))
        values[column.attribute] = text, column
    return values


def _product_values(
    columns: Sequence[Column],
    lineage: Sequence[Mapping[str, Any]],
    choice: Choice,
    tree: Mapping[str, list[str]],
) -> dict[str, Any]:
    values = _collect_values(columns, lineage, choice)
    texts = {name: text for name, (text, _) in values.items()}
    price = next((values[name] for name in PRICES if name in values), None)
    categories = split_list(",".join(take_first(row, "categories") or "" for row in lineage))
    used = {*TITLES, *DESCRIPTIONS, *PRICES}
    return {
        "title": take_first(texts, *TITLES),
        "description": take_first(texts, *DESCRIPTIONS),
        "category": select_path(tree.get(code, [code]) for code in categories),
        **sort_options({name: text for name, text in texts.items() if name not in used}),
        "price": price and price[0],
        "currency": price and price[1].currency,
        "language": choice.locales[0] if choice.locales else None,
    }


def _is_picture(value: Any) -> bool:
    names = split_list(value)
    return bool(names) and all(name.lower().endswith(PICTURE_SUFFIXES) for name in names)


def _list_pictures(columns: Sequence[Column], row: Mapping[str, Any], choice: Choice) -> list[str]:
    cells = [row.get(column.name) for column in columns if choice.includes(column)]
    return [name for cell in cells if _is_picture(cell) for name in split_list(cell)]
