"""Shows how a table would be imported: its header, the columns that we use, and its first rows."""

from collections.abc import Iterator

from catalog.columns import format_header, format_mapping
from catalog.conversion import MEDIA_READERS, Row, convert_values
from catalog.files import Files
from catalog.tables import COLUMNS, TableFormat, match_table, read_matched

ROWS = 3
MAX_CHARS = 100  # of a value


def preview_table(files: Files, table: str, table_format: TableFormat) -> Iterator[str]:
    """Describe how a table would be imported; nothing is written and no picture is read.

    Args:
        files: The file of the table.
        table: A key of `catalog.tables.COLUMNS`.
        table_format: How to read it.

    Yields:
        Lines: the header, our columns with theirs, the first `ROWS` rows as they would be stored, and options to paste.

    Raises:
        DataError: like `catalog.tables.read_table`; the message shows the header.
    """
    matched = match_table(files, table, table_format)
    yield f"{files.source.name}: {format_header(matched.header)}"
    for ours in COLUMNS[table]:
        if ours in matched.matches:
            yield f"  {ours:<12} = {matched.matches[ours]}"
    used = set(matched.matches.values())
    if others := [theirs for theirs in matched.header if theirs not in used]:
        yield f"  {'attributes' if table == 'products' else 'not used':<12} = {', '.join(others)}"
    records = read_matched(matched, table, table_format.personal)
    for _, (where, values) in zip(range(ROWS), records, strict=False):
        yield where
        media = {column: value for column, value in values.items() if column in MEDIA_READERS and value}
        texts = {column: value for column, value in values.items() if column not in MEDIA_READERS}
        converted, reasons = convert_values(Row(table, where, texts))
        for column, value in {**converted, **media}.items():
            yield f"  {column:<12} : {_shorten(value)}"
        for column, reason in reasons:
            yield f"  {column:<12} : left out, {reason}"
    yield f"options: {format_mapping(table, matched.matches)}"


def _shorten(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
