"""What the exports of shops have in common: variants of a product, lists in a column, galleries, options, sales."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from catalog.conversion import Rejection
from catalog.files import Files
from catalog.prices import read_price
from catalog.reading import Record

# Names of options and attributes that are columns of ours, case-folded; in the languages of most shops.
OPTION_COLUMNS = {
    **dict.fromkeys(
        ("color", "colour", "colors", "main color", "farbe", "couleur", "colore", "kleur", "cor", "kolor", "barva",
         "färg", "farge", "farve", "väri", "renk", "цвет", "колір", "色", "颜色", "顏色", "カラー", "색상", "màu",
         "màu sắc", "warna", "اللون", "रंग", "สี"),
        "color",
    ),
    **dict.fromkeys(
        ("material", "materials", "fabric", "matière", "matériau", "materiale", "materiaal", "tessuto", "tejido",
         "tecido", "materiał", "materiál", "malzeme", "материал", "матеріал", "材质", "材質", "素材", "소재",
         "chất liệu", "bahan", "المادة", "सामग्री", "วัสดุ"),
        "material",
    ),
    **dict.fromkeys(
        ("brand", "manufacturer", "marke", "hersteller", "marque", "marca", "merk", "бренд", "品牌"), "brand"
    ),
}  # fmt: skip
MOMENTS = ("%Y-%m-%d", "%m/%d/%y", "%m/%d/%Y", "%m/%d/%y, %I:%M %p", "%m/%d/%Y, %I:%M %p")


def fold_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fold the names of columns: lower case, without remarks in brackets (but for taxes), "*" and "#"."""
    return {_fold_name(name): value for name, value in values.items()}


def _fold_name(name: str) -> str:
    return re.sub(r"\s*(\((?!tax)[^()]*\)|[*#])", "", name).strip().casefold()


def take_first(values: Mapping[str, Any], *names: str) -> str | None:
    """The first of several columns that has a value, as text."""
    return next((text for name in names if (text := str(values.get(name) or "").strip())), None)


def split_list(text: Any, separators: str = ",") -> list[str]:
    r"""Split a list in a column; "\" before a separator makes it part of a value. Blank values are left out."""
    parts = re.split(rf"(?<!\\)[{re.escape(separators)}]", str(text or ""))
    return [
        value for part in parts if (value := re.sub(rf"\\(?=[{re.escape(separators)}])", "", part).strip())
    ]


def open_pictures(files: Files, pictures: Path | None) -> Files:
    """The files of the pictures: those of an option, else those of the export."""
    return files.open_other(pictures) if pictures else files


def merge_galleries(first: Sequence[str], shared: Sequence[str], others: Iterable[str] = ()) -> list[str]:
    """The gallery of a variant: its pictures, then those of the product that are not of other variants.

    Args:
        first: The variant's pictures.
        shared: The product's pictures.
        others: The pictures of all variants.
    """
    excluded = {*others} - {*first}
    return list(dict.fromkeys([*first, *(name for name in shared if name not in excluded)]))


def sort_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Sort options and attributes into our columns; all of them stay attributes, too.

    Args:
        options: Name → value.

    Returns:
        The columns color, material and brand where an option has their name in any language, and attributes.
    """
    options = {name.strip(): value for name, value in options.items() if name and str(value or "").strip()}
    columns = {
        OPTION_COLUMNS[key]: str(value)
        for name, value in options.items()
        if (key := " ".join(name.casefold().replace("_", " ").split())) in OPTION_COLUMNS
    }
    return {**columns, "attributes": options}


def parse_moment(text: Any) -> datetime | None:
    """Parse a date or a moment in ISO 8601 or as shops in the USA write it; None if it is neither, or blank."""
    text = str(text or "").strip()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = next((parsed for style in MOMENTS if (parsed := _parse_style(text, style))), None)  # type: ignore[assignment]
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _parse_style(text: str, style: str) -> datetime | None:
    try:
        return datetime.strptime(text, style).replace(tzinfo=UTC)
    except ValueError:
        return None


def select_price(price: Any, sale: Any, start: Any, end: Any, day: date) -> Any:
    """The price that holds: that of a sale if there is a lower one, and it runs on a day.

    Args:
        price: The usual price, as written.
        sale: The price of a sale, as written; blank or 0 for none.
        start: First day of the sale, or blank.
        end: Last day of the sale, or blank.
        day: When the export was written.
    """
    first, last = parse_moment(start), parse_moment(end)
    if (first and first.date() > day) or (last and last.date() < day):
        return price
    try:
        reduced = read_price(sale) if sale not in (None, "") else None
    except ValueError:
        return price
    return sale if reduced and reduced.lowest > 0 else price


def is_positive(quantity: Any) -> bool:
    """Whether a quantity, as written, is above 0; False if it is no number."""
    try:
        return float(str(quantity).replace(",", ".")) > 0
    except ValueError:
        return False


def leave_out(record: Record, product_id: str | None, reason: str) -> Rejection:
    """List a row as left out on purpose: drafts, disabled products."""
    return Rejection("products", record.where, product_id, None, reason)


def read_ahead(files: Files, records: Iterable[Record]) -> Iterator[Record]:
    """Pass the records of a first reading through; only the second one lists the unreadable rows."""
    count = len(files.faults)
    for record in records:
        yield record
        del files.faults[count:]
    del files.faults[count:]
