"""Reads the tables of a shop under our column names, whatever its columns are named."""

import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from catalog.attributes import SEPARATOR
from catalog.columns import SYNONYMS, format_header, match_columns
from catalog.files import Files
from catalog.privacy import SAMPLE_ROWS
from catalog.reading import Record, read_rows, refuse_personal_columns
from catalog.schema import TABLES, DataError

# The columns of each table. The queries of judgements may be known by their text only.
COLUMNS: Mapping[str, Sequence[str]] = {
    "products": TABLES["products"].names,
    "queries": TABLES["queries"].names,
    "judgements": (*TABLES["judgements"].names, "query"),
    "log": tuple(SYNONYMS["log"]),
}
REQUIRED = {"products": ("product_id", "title"), "judgements": ("product_id", "grade")}
NESTED = frozenset(("attributes", "image", "images", "video"))  # columns that keep their mappings
MAIN_KEYS = ("value", "amount", "name", "label")  # of a mapping: the value of the column itself
WITH_LISTS = NESTED | {"category"}  # columns that keep their lists


class TableFormat(NamedTuple):
    """How to read tables.

    Attributes:
        mappings: Table → our column → name of the column in the table.
        personal: Columns that are allowed although they look personal.
        encoding: Encoding of text.
        delimiter: Delimiter of CSV.
        header: Columns of a CSV of products that has no header.
    """

    mappings: Mapping[str, Mapping[str, str]]
    personal: Sequence[str] = ()
    encoding: str | None = None
    delimiter: str | None = None
    header: Sequence[str] = ()


class MatchedTable(NamedTuple):
    """A table whose columns are known.

    Attributes:
        header: Names of its columns; of JSON, those of the first rows.
        matches: Our column → its name in the header.
        records: Its rows, under its names.
    """

    header: Sequence[str]
    matches: Mapping[str, str]
    records: Iterator[Record]


def parse_mappings(pairs: Sequence[str], default: str = "products") -> dict[str, dict[str, str]]:
    """Parse the options --map.

    Args:
        pairs: COLUMN=NAME or TABLE.COLUMN=NAME.
        default: The table of pairs that name none.

    Returns:
        Table → our column → name in the table.

    Raises:
        DataError: if a pair is not of this form, or names no column of ours.
    """
    mappings: dict[str, dict[str, str]] = {name: {} for name in COLUMNS}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        name, dot, column = ours.rpartition(".")
        name = name if dot else default
        if not equals or column not in COLUMNS.get(name, ()):
            raise DataError(
                f"--map {pair}: not COLUMN=NAME with one of our columns; those of {default} are "
                f"{', '.join(COLUMNS[default])}"
            )
        mappings[name][column] = theirs
    return mappings


def match_table(files: Files, table: str, table_format: TableFormat) -> MatchedTable:
    """Open a table, and find our columns in it.

    Args:
        files: The file of the table.
        table: A key of `COLUMNS`.
        table_format: How to read it.

    Raises:
        DataError: if it cannot be read, has no rows, or a column is missing or ambiguous.
    """
    name = files.source.name
    header = table_format.header if table == "products" else ()
    rows = read_rows(
        files, name, encoding=table_format.encoding, delimiter=table_format.delimiter, header=header
    )
    records = map(_flatten_row, rows)
    sample = list(itertools.islice(records, SAMPLE_ROWS))
    names = list(dict.fromkeys(name for record in sample for name in record.values))
    if not sample and table == "products":
        raise DataError(_describe_empty(files, name))
    mapping = dict(table_format.mappings.get(table, {}))
    is_json = name not in files.headers
    late = {
        ours: theirs
        for ours, theirs in mapping.items()
        if is_json and sample and theirs not in names and ours not in REQUIRED.get(table, ())
    }
    for ours, theirs in late.items():
        print(f"warning: {name}: none of the first {len(sample):,} rows has {theirs}", file=sys.stderr)
        del mapping[ours]
    matches = match_columns(
        name, table, names or files.headers.get(name, ()), COLUMNS[table], mapping, REQUIRED.get(table, ())
    )
    _refuse_duplicates(files, name, matches)
    return MatchedTable(names, matches | late, itertools.chain(sample, records))


def _describe_empty(files: Files, name: str) -> str:
    header = files.headers.get(name)
    reasons = f"; {files.faults[0].where}: {files.faults[0].reason}" if files.faults else ""
    columns = f"; the header is {format_header(header)}" if header else ""
    return f"{name}: no rows that can be read{columns}{reasons}; see it with --dry-run, or give --delimiter or --header"


def _refuse_duplicates(files: Files, name: str, matches: Mapping[str, str]) -> None:
    header = files.headers.get(name, ())
    if duplicate := next((theirs for theirs in matches.values() if list(header).count(theirs) > 1), None):
        raise DataError(f"{name}: two columns are named '{duplicate}'; rename one")


def read_table(files: Files, table: str, table_format: TableFormat) -> Iterator[Record]:
    """Read a table under our column names; other columns of products become attributes.

    Raises:
        DataError: like `match_table`; or if an unused column looks personal.
    """
    matched = match_table(files, table, table_format)
    yield from read_matched(matched, table, table_format.personal)


def read_matched(matched: MatchedTable, table: str, personal: Sequence[str]) -> Iterator[Record]:
    """Read the rows of a matched table under our column names; see `read_table`."""
    used = {*COLUMNS[table], *matched.matches.values()}
    ours_by_name = {theirs: ours for ours, theirs in matched.matches.items()}
    for where, values in refuse_personal_columns(matched.records, used, personal):
        yield Record(where, _rename_columns(values, ours_by_name, table))


def _flatten_row(record: Record) -> Record:
    """Give the values of a mapping their own columns, such as price.currency; rows of CSV have none."""
    if not any(isinstance(value, dict) for value in record.values.values()):
        return record
    values: dict[str, Any] = {}
    for column, value in record.values.items():
        values |= {column: value} if column in NESTED else dict(_flatten(column, value))
    return Record(record.where, values)


def _flatten(column: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield column, value
        return
    main = next((key for key in MAIN_KEYS if key in value and not isinstance(value[key], dict)), None)
    for key, item in value.items():
        yield from _flatten(column if key == main else f"{column}.{key}", item)


def _rename_columns(values: Mapping[str, Any], ours_by_name: Mapping[str, str], table: str) -> dict[str, Any]:
    """Rename the columns of a row to ours; unknown columns become attributes of a product."""
    renamed: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for column, value in values.items():
        ours = ours_by_name.get(column)
        if ours is None and column in COLUMNS[table] and column not in ours_by_name.values():
            ours = column  # of JSON: not in the first rows
        if ours is None:
            rest[column] = value
        else:
            renamed[ours] = _join_list(ours, value) if isinstance(value, list) else value
    if table == "products":
        renamed["attributes"] = _merge_attributes(renamed.get("attributes"), rest)
    return renamed


def _join_list(ours: str, values: list[Any]) -> Any:
    """Join the texts of a list; lists of pictures, attributes and levels of a category stay, and of objects too."""
    if ours in WITH_LISTS or any(isinstance(value, dict | list) for value in values):
        return values
    return SEPARATOR.join(str(value) for value in values if value is not None)


def _merge_attributes(attributes: Any, rest: dict[str, Any]) -> Any:
    """Add unknown columns to the attributes; JSON in a column of a CSV is read."""
    if isinstance(attributes, str) and re.match(r"\s*[\[{]", attributes):
        try:
            attributes = json.loads(attributes)
        except (ValueError, RecursionError):
            return attributes  # the conversion rejects it
    if attributes is None or attributes == "":
        return rest
    if isinstance(attributes, dict):
        return attributes | {name: value for name, value in rest.items() if name not in attributes}
    return [*attributes, *rest.items()] if isinstance(attributes, list) else attributes
