"""Reads delimited tables (CSV, TSV) as programs export them; damage costs the row that it is in."""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO

from catalog.files import Fault
from catalog.reading.layout import HEAD_LINES, detect_layout, name_columns, number_duplicates
from catalog.reading.records import MAX_FIELD_CHARS, MAX_LINE_CHARS, Header, Record


class Lines:
    """The lines of a text with their numbers; lines can be returned, to be read a second time."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._returned: deque[str] = deque()
        self.number = 0  # of the last line
        self.record: list[str] = []  # lines since `begin_record`

    def __iter__(self) -> Iterator[str]:
        while line := self._next():
            self.number += 1
            self.record.append(line)
            yield line

    def _next(self) -> str:
        """The next line, "" at the end; a line that is too long is cut."""
        if self._returned:
            return self._returned.popleft()
        line = rest = self._text.readline(MAX_LINE_CHARS)
        while len(rest) == MAX_LINE_CHARS and not rest.endswith("\n"):
            rest = self._text.readline(MAX_LINE_CHARS)
        return line

    def begin_record(self) -> None:
        """Forget the lines so far."""
        self.record.clear()

    def give_back(self, count: int) -> None:
        """Return all but the first `count` lines of the record."""
        lines = self.record[count:]
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)
        del self.record[count:]


def read_delimited(
    text: IO[str], name: str, delimiter: str | None = None, header: Sequence[str] = ()
) -> Iterator[Header | Record | Fault]:
    """Read the header, then rows, and faults for rows that cannot be read.

    Args:
        text: The table.
        name: Its name, for messages.
        delimiter: The delimiter; by default detected.
        header: Names of the columns of a table without a header.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = Lines(text)
    layout = detect_layout(list(islice(lines, HEAD_LINES)), delimiter)
    lines.give_back(layout.skipped)
    names = list(header)
    if not header:
        lines.begin_record()
        fields = next(csv.reader(lines, delimiter=layout.delimiter), [])
        names = name_columns(fields, layout.delimiter)
    yield Header(names)
    yield from _read_rows(lines, name, number_duplicates(names), layout.delimiter)


def _read_rows(lines: Lines, name: str, columns: Sequence[str], delimiter: str) -> Iterator[Record | Fault]:
    """Read the rows. Strict parsing notices a stray quote at the next quote; then only its line is left out."""
    width = len(columns)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_record()
        error = None
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as csv_error:
            error = csv_error
        where = f"{name} line {lines.number - len(lines.record) + 1}"
        if len(fields) == width:
            if any(fields):
                yield Record(where, dict(zip(columns, fields, strict=True)))
        elif error or any(fields):
            mended = _mend(lines, fields, columns, delimiter)
            if mended is None:
                yield Fault(where, _explain(lines.record[0], fields, error, columns, delimiter))
            else:
                yield Record(where, dict(zip(columns, mended, strict=True)))
            reader = csv.reader(lines, delimiter=delimiter, strict=True)


def _mend(lines: Lines, fields: list[str], columns: Sequence[str], delimiter: str) -> list[str] | None:
    """The values of a row with delimiters at its end, or with quotes after a backslash; None if it has neither.

    Without a result, all lines but the first are returned to `lines`.
    """
    width = len(columns)
    if len(fields) > width and not any(fields[width:]):
        return fields[:width]
    if any("\\" in line for line in lines.record):
        lines.give_back(0)
        try:
            fields = next(csv.reader(lines, delimiter=delimiter, strict=True, escapechar="\\"))
        except csv.Error:
            fields = []
        if len(fields) == width:
            return fields
    lines.give_back(1)
    return None


def _explain(
    line: str, fields: Sequence[str], error: csv.Error | None, columns: Sequence[str], delimiter: str
) -> str:
    """Explain why a row cannot be read.

    Args:
        line: Its first line.
        fields: Its values; none if they cannot be parsed.
        error: Why they cannot be parsed.
        columns: The columns of the table.
        delimiter: Their delimiter.
    """
    if error and "limit" in str(error) and len(line) > MAX_FIELD_CHARS:
        return str(error)
    if not error and len(fields) == len(next(csv.reader([line], delimiter=delimiter))):
        reason = f"{len(fields)} values, but the header has {len(columns)}"
        column = _find_split_column(fields, columns) if len(fields) > len(columns) else None
        return (
            f"{reason}; column {column} seems to contain {delimiter!r}: put it in quotes"
            if column
            else reason
        )
    position = len(next(csv.reader([line], delimiter=delimiter))) - 1
    column = columns[position] if position < len(columns) else columns[-1]
    return f'a stray quote, probably in column {column}; write "" for a quote inside of quotes'


def _find_split_column(fields: Sequence[str], columns: Sequence[str]) -> str | None:
    """Find the column that contains the delimiter: a text that goes on with a blank, an address, a decimal comma."""
    pairs = [(column, *fields[at : at + 2]) for at, column in enumerate(columns)]
    return next(
        (
            column
            for is_split in (_is_text, _is_address, _is_decimal)
            for column, value, following in pairs
            if is_split(value, following)
        ),
        None,
    )


def _is_address(value: str, _: str) -> bool:
    return bool(re.match(r"\s*https?://", value, re.IGNORECASE))


def _is_text(value: str, following: str) -> bool:
    return bool(value) and following[:1] == " "


def _is_decimal(value: str, following: str) -> bool:
    return bool(re.fullmatch(r"\s*\d+\s*", value) and re.fullmatch(r"\d\d?\s*\D?", following))
