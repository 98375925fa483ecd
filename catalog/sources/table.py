"""Your own catalogue: a table of products, and of queries and judgements if you have them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from catalog.conversion import KINDS, Row
from catalog.reading import Files, Record, rows, screened
from catalog.schema import TABLES, DataError
from catalog.sources import source
from catalog.splits import split
from catalog.text import normalise

ENDINGS = {"image": (".jpg", ".jpeg", ".png", ".webp", ".gif"), "video": (".mp4", ".webm")}


@source("table")
def table(
    files: Files,
    *,
    map: Sequence[str] = (),  # noqa: A002 - the name of the option
    pictures: Path | None = None,
    queries: Path | None = None,
    judgements: Path | None = None,
    personal: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Row]:
    """Your own products.csv, .jsonl or .parquet, with pictures and clips in a column, a folder or a zip.

    Columns are taken by the names of `catalog.schema`; unknown ones become attributes. Pictures are found by the column
    `image`, which holds a path or an address, or else by the product's id: ID.jpg, .png, .webp, .gif. Clips are found
    by the column `video` (animated GIF or WebP, MP4, WebM), or else by ID.mp4, .webm; up to 16 frames are kept. The
    currency of prices such as "€ 12" or "USD 1,299.00" is kept; that of "$12" is not known: give a column `currency`.

    Args:
        files: The table of products.
        map: COLUMN=NAME, such as title=name: what a column is called there; queries.text=search for other tables.
        pictures: Folder or zip that paths of pictures and clips are in; by default that of the table.
        queries: A table of queries: query_id, text; image, split, segment, judged_by, frequency, if there are any.
        judgements: A table of judgements: query_id, product_id, grade.
        personal: A column that may be there though it looks like personal data.
        encoding: Of tables in CSV, such as cp1252; by default told from their beginning.
        delimiter: Of tables in CSV; by default told from their first line.

    Raises:
        DataError: where a table lacks a column, or a mapping names one that is not there.
    """
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the table itself, products.csv, .jsonl or .parquet")
    names = _mappings(map)
    style = {"encoding": encoding, "delimiter": delimiter}
    stored = files.beside(pictures) if pictures else files
    for one in _rows(files, "products", names, personal, style):
        own = _named(one.values, names["products"], "products")
        for column in ENDINGS:
            own[column] = _stored(stored, own.get(column) or _by_id(stored, column, own.get("product_id")))
        yield Row("products", one.where, own)
    if queries:
        read = _rows(files.beside(queries), "queries", names, personal, style)
        yield from _queries(read, stored, names["queries"])
    if judgements:
        for one in _rows(files.beside(judgements), "judgements", names, personal, style):
            yield Row("judgements", one.where, _named(one.values, names["judgements"], "judgements"))


def _rows(
    files: Files,
    place: str,
    names: dict[str, dict[str, str]],
    personal: Sequence[str],
    style: Mapping[str, Any],
) -> Iterator[Record]:
    """The rows of one of our tables, unless a column that we have no use for looks personal."""
    mapping = names[place]
    optional = [theirs for ours, theirs in mapping.items() if TABLES[place].field(ours).nullable]
    needed = [theirs for theirs in mapping.values() if theirs not in optional]
    read = rows(files, files.source.name, needed, optional, **style)
    return screened(read, {*KINDS[place], *mapping.values()}, personal)


def _mappings(pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    """Table → our column → theirs."""
    found: dict[str, dict[str, str]] = {name: {} for name in KINDS}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        place, dot, column = ours.rpartition(".")
        place = place if dot else "products"
        if not equals or place not in KINDS or column not in TABLES[place].names:
            known = ", ".join(KINDS["products"])
            raise DataError(
                f"--map {pair}: not COLUMN=NAME with one of our columns; those of products are {known}"
            )
        found[place][column] = theirs
    return found


def _named(values: dict[str, Any], mapping: dict[str, str], place: str) -> dict[str, Any]:
    """A row under our names; what has none of them becomes an attribute of a product."""
    own = {ours: values.get(theirs) for ours, theirs in mapping.items()}
    rest = {name: value for name, value in values.items() if name not in mapping.values()}
    own |= {name: value for name, value in rest.items() if name in KINDS[place] and name not in own}
    if place == "products" and "attributes" not in own:
        own["attributes"] = {
            name: value
            for name, value in rest.items()
            if name not in KINDS[place] and isinstance(value, (str, int, float))
        }
    return own


def _by_id(stored: Files, column: str, product_id: Any) -> str | None:
    """A picture or clip by a product's id, if that is a plain name."""
    stem = "" if product_id is None else str(product_id)
    if not stem or PurePosixPath(stem).name != stem:
        return None
    return next((name for ending in ENDINGS[column] if stored.has(name := stem + ending)), None)


def _stored(stored: Files, place: Any) -> Any:
    """The picture or clip at a path or address; what is neither is left for the conversion to refuse."""
    return stored.picture(place) if place and isinstance(place, str) else place or None


def _queries(read: Iterator[Record], stored: Files, mapping: dict[str, str]) -> Iterator[Row]:
    found = [(one.where, _named(one.values, mapping, "queries")) for one in read]
    splits = split(_key(own) for _, own in found if not own.get("split"))
    for where, own in found:
        own["split"] = own.get("split") or splits[_key(own)]
        own["image"] = _stored(stored, own.get("image"))
        yield Row("queries", where, own)


def _key(own: dict[str, Any]) -> str:
    return normalise(str(own.get("text") or "")) or str(own.get("query_id"))
