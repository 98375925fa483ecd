"""Your own catalogue: a table of products, and optional tables of queries and judgements."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from catalog.conversion import CONVERTERS, Row
from catalog.fashion_queries import connected_components
from catalog.files import Files
from catalog.reading import Record, read_rows, refuse_personal_columns
from catalog.schema import TABLES, DataError
from catalog.sources import source
from catalog.splits import assign_splits
from catalog.text import normalise

SUFFIXES = {"images": (".jpg", ".jpeg", ".png", ".webp", ".gif"), "video": (".mp4", ".webm")}


class Format(NamedTuple):
    """How to read the tables.

    Attributes:
        mappings: Table → our column → name of the column in the table.
        personal: Columns that are allowed although they look personal.
        encoding: Encoding of CSV.
        delimiter: Delimiter of CSV.
    """

    mappings: dict[str, dict[str, str]]
    personal: Sequence[str]
    encoding: str | None
    delimiter: str | None


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

    Columns have the names of `catalog.schema`; unknown columns become attributes. Pictures are taken from
    `images`, which contains a path or an address, or else from the files ID.jpg, .png, .webp, .gif. Clips are taken
    from the column `video` (animated GIF or WebP, MP4, WebM), or else from ID.mp4, .webm; up to 16 frames are kept. The
    currency of prices such as "€ 12" or "USD 1,299.00" is kept; that of "$12" is ambiguous: add a column `currency`.
    Queries without a split get one; those that share a text or a cluster get the same.

    Args:
        files: The table of products.
        map: COLUMN=NAME, such as title=name: the name of a column in your table; queries.text=search for other tables.
        pictures: Folder or zip of the pictures and clips; by default the folder of the table.
        queries: A table of queries: query_id, text; optionally image, split, segment, judged_by, frequency, cluster.
        judgements: A table of judgements: query_id, product_id, grade.
        personal: A column that is allowed although it looks like personal data.
        encoding: Encoding of CSV tables, such as cp1252; by default detected.
        delimiter: Delimiter of CSV tables; by default detected.

    Raises:
        DataError: if a table lacks a column, or a mapping names an unknown one.
    """
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the table itself, products.csv, .jsonl or .parquet")
    table_format = Format(_parse_mappings(map), personal, encoding, delimiter)
    media = files.open_other(pictures) if pictures else files
    for where, values in _read_table(files, "products", table_format):
        for column in SUFFIXES:
            name = values.get(column) or _find_by_id(media, column, values.get("product_id"))
            values[column] = _get_media(media, name)
        yield Row("products", where, values)
    if queries:
        yield from _query_rows(_read_table(files.open_other(queries), "queries", table_format), media)
    if judgements:
        for where, values in _read_table(files.open_other(judgements), "judgements", table_format):
            yield Row("judgements", where, values)


def _read_table(files: Files, name: str, table_format: Format) -> Iterator[Record]:
    """Read one of our tables under our column names, unless an unused column looks personal."""
    mapping = table_format.mappings[name]
    optional = [theirs for ours, theirs in mapping.items() if TABLES[name].field(ours).nullable]
    required = [theirs for theirs in mapping.values() if theirs not in optional]
    records = read_rows(
        files, files.source.name, required, optional, table_format.encoding, table_format.delimiter
    )
    used = {*CONVERTERS[name], *mapping.values()}
    for where, values in refuse_personal_columns(records, used, table_format.personal):
        yield Record(where, _rename_columns(values, mapping, name))


def _parse_mappings(pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse the option --map: table → our column → theirs."""
    mappings: dict[str, dict[str, str]] = {name: {} for name in CONVERTERS}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        name, dot, column = ours.rpartition(".")
        name = name if dot else "products"
        if not equals or name not in CONVERTERS or column not in TABLES[name].names:
            columns = ", ".join(CONVERTERS["products"])
            raise DataError(
                f"--map {pair}: not COLUMN=NAME with one of our columns; those of products are {columns}"
            )
        mappings[name][column] = theirs
    return mappings


def _rename_columns(values: Mapping[str, Any], mapping: Mapping[str, str], name: str) -> dict[str, Any]:
    """Rename the columns of a row to ours; unknown columns become attributes of a product."""
    renamed = {ours: values.get(theirs) for ours, theirs in mapping.items()}
    rest = {column: value for column, value in values.items() if column not in mapping.values()}
    renamed |= {
        column: value
        for column, value in rest.items()
        if column in CONVERTERS[name] and column not in renamed
    }
    if name == "products" and "attributes" not in renamed:
        renamed["attributes"] = {
            column: value
            for column, value in rest.items()
            if column not in CONVERTERS[name] and isinstance(value, (str, int, float))
        }
    return renamed


def _find_by_id(media: Files, column: str, product_id: Any) -> str | None:
    """Find a picture or clip by the product's id, if the id is a plain file name."""
    stem = "" if product_id is None else str(product_id)
    if not stem or PurePosixPath(stem).name != stem:
        return None
    return next((name for suffix in SUFFIXES[column] if media.has(name := stem + suffix)), None)


def _get_media(media: Files, name: Any) -> Any:
    """The picture or clip at a path or address; any other value stays, and the conversion rejects it."""
    return media.get_media(name) if name and isinstance(name, str) else name or None


def _query_rows(records: Iterator[Record], media: Files) -> Iterator[Row]:
    """Yield the queries; assigns a split to those that have none."""
    queries = list(records)
    keys = _split_keys([values for _, values in queries])
    splits = assign_splits(
        key for key, (_, values) in zip(keys, queries, strict=True) if not values.get("split")
    )
    for key, (where, values) in zip(keys, queries, strict=True):
        values["split"] = values.get("split") or splits[key]
        values["image"] = _get_media(media, values.get("image"))
        yield Row("queries", where, values)


def _split_keys(queries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The key of each query's split: the first text of the queries that share a text or a cluster with it."""
    texts = [normalise(str(values.get("text") or "")) or str(values.get("query_id")) for values in queries]
    roots = connected_components(
        (("text", text), ("cluster", str(values["cluster"])) if values.get("cluster") else ("text", text))
        for text, values in zip(texts, queries, strict=True)
    )
    first: dict[Any, str] = {}
    for text in sorted(texts):
        first.setdefault(roots["text", text], text)
    return [first[roots["text", text]] for text in texts]
