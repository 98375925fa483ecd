"""Rankings and judgements as text: TREC files, tables with a header, and JSON.

- TREC: "query 0 product grade", "query product grade" or "query Q0 product rank score [tag]"; blanks and tabs separate
  the columns, or tabs alone. The rest of a line after the score is the tag. Lines that begin with "#" are comments.
- A table has commas or tabs between its columns, and a header with the names of `FileLayout.headers`.
- JSON is {query: {product: number}}, or one object per line with the names of such a header.

Arrow parses what is regular. What it refuses is parsed line by line, which knows the line of an error.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from vitrine_judge.compressed_files import decode_text
from vitrine_judge.errors import JudgeError
from vitrine_judge.layouts import HEADER_NAMES, FileLayout, PairColumns

UNREAD_COLUMNS = ("iteration", "rank", "tag")  # of TREC files
COMMENT = re.compile(rb"^[ \t]*#[^\r\n]*", re.MULTILINE)
FIRST_LINE = re.compile(rb"[^\s][^\r\n]*")
FLAT_OBJECT = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*[^\s{\[]')  # its first value is a scalar

Row = tuple[Any, Any, float]  # the ids of a query and of a product, and their number


def is_nested_json(content: bytes) -> bool:
    """Whether this is {query: {product: number}}."""
    return content.lstrip()[:1] == b"{" and not FLAT_OBJECT.match(content)


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON; `where` names the file in errors.

    Raises:
        JudgeError: what is not JSON, an object with a key twice, or a number that is not finite.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise JudgeError(f"{where}: holds {name}; give finite numbers")

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise JudgeError(f"{where}: key '{twice}' occurs twice in an object; remove one of them")
        return fields

    text = decode_text(content, where)
    try:
        return json.loads(text, object_pairs_hook=to_dict, parse_constant=refuse_constant)
    except JudgeError:
        raise
    except (ValueError, RecursionError) as error:
        raise JudgeError(f"{where}: not readable as JSON ({error})") from error


def parse_text(content: bytes, layout: FileLayout, where: str) -> PairColumns:
    """Parse lines of JSON, a table, or a TREC file; raises as the parser of that format."""
    if content.lstrip()[:1] == b"{":
        return _columns_of_rows(_json_rows(content, layout, where))
    if len(HEADER_NAMES & set(_split_header(content)[1])) > 1:
        return parse_delimited(content, layout, where)
    return parse_trec(content, layout, where)


def parse_trec(content: bytes, layout: FileLayout, where: str) -> PairColumns:
    """Parse a TREC file; `where` names it in errors.

    Raises:
        JudgeError: a line that does not have the columns of the layout, or not as many as the first line.
    """
    if b"#" in content:
        content = COMMENT.sub(b"", content)
    fields, has_tabs = _split_first_line(content, layout)
    if not fields:
        raise JudgeError(f"{where}: holds no {layout.value}s; there is nothing to judge")
    columns = layout.trec_columns(len(fields))
    if columns is None:
        raise JudgeError(
            f"{where}: the first line has {len(fields)} columns; expected {' '.join(layout.trec)}, the same without "
            f"{' and '.join(sorted(set(layout.trec) - set(layout.short_trec)))}, or a header with the names "
            f"{', '.join(layout.headers[0])}"
        )
    names = [name for name in columns if name not in UNREAD_COLUMNS]
    for text in _regular_texts(content, has_tabs) if len(fields) == len(columns) else ():
        if pairs := _parse_regular(text, "\t" if has_tabs else " ", columns, names):
            return pairs
    return _columns_of_rows(_trec_rows(content, columns, has_tabs, where))


def parse_delimited(content: bytes, layout: FileLayout, where: str) -> PairColumns:
    """Parse a table of text with a header; `where` names it in errors.

    Raises:
        JudgeError: an unknown header, or a line that does not have its columns.
    """
    delimiter, header = _split_header(content)
    names = layout.choose_columns(header, where)
    pairs = _parse_regular(content, delimiter, None, names)
    return pairs or _columns_of_rows(_table_rows(content, delimiter, header, names, where))


def _parse_regular(
    content: bytes, delimiter: str, columns: Sequence[str] | None, names: Sequence[str]
) -> PairColumns | None:
    """The columns `names` of delimited text; None where lines do not have the same columns, ids and numbers in them.

    Args:
        content: The text.
        delimiter: What stands between columns; only commas can stand in quotes.
        columns: The names of all columns; None where the first line has them.
        names: The names of the columns of query, product and number.
    """
    query, product, value = names
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            pyarrow.csv.ReadOptions(column_names=columns),
            pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char='"' if delimiter == "," else False),
            pyarrow.csv.ConvertOptions(
                column_types={query: pa.string(), product: pa.string(), value: pa.float64()},
                include_columns=names,
                null_values=[],  # a score of "NA" is an error, not a missing value
            ),
        )
    except (pa.ArrowException, KeyError):
        return None  # the parser of lines accepts more, and its errors name the line
    if not len(table) or any(not pc.min(pc.binary_length(table[name])).as_py() for name in (query, product)):
        return None
    return PairColumns(table[query], table[product], table[value])


def _split_first_line(content: bytes, layout: FileLayout) -> tuple[list[bytes], bool]:
    """The columns of the first line of a TREC file, and whether tabs alone separate them."""
    line = _first_line(content)
    by_tabs = line.split(b"\t")
    return (by_tabs, True) if len(by_tabs) >= len(layout.short_trec) else (line.split(), False)


def _regular_texts(content: bytes, has_tabs: bool) -> Iterator[bytes]:
    """TREC lines with one separator between columns, if they already have it, or with one blank each."""
    if has_tabs:
        if b" \t" not in content and b"\t " not in content:
            yield content
        return
    if b"\t" not in content:
        yield content
    content = content.replace(b"\t", b" ").replace(b"\r\n", b"\n")
    while b"  " in content:
        content = content.replace(b"  ", b" ")
    yield content.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")


def _split_header(content: bytes) -> tuple[str, list[str]]:
    """The delimiter of a table of text and the names in its first line."""
    line = _first_line(content).decode(errors="replace")
    delimiter = "\t" if "\t" in line else ","
    return delimiter, [name.strip('"') for name in line.split(delimiter)]


def _first_line(content: bytes) -> bytes:
    """The first line that is not blank."""
    match = FIRST_LINE.search(content)
    return match.group() if match else b""


def _trec_rows(content: bytes, columns: Sequence[str], has_tabs: bool, where: str) -> Iterator[Row]:
    decode_text(content, where)  # raises for what is not text
    query, product, value = (place for place, name in enumerate(columns) if name not in UNREAD_COLUMNS)
    for line, text in enumerate(content.splitlines(), 1):
        if not text.strip():
            continue
        is_tabbed = has_tabs and b"\t" in text
        fields = [field.strip() for field in text.split(b"\t")] if is_tabbed else text.split()
        # the tag can have several words
        if len(fields) != len(columns) and not (columns[-1] == "tag" and len(fields) > len(columns)):
            expected = f"{len(columns)}: {', '.join(columns)}"
            raise JudgeError(
                f"{where}: line {line}: {len(fields)} columns, but the first line has {expected}"
            )
        place = f"{where}: line {line}"
        yield fields[query].decode(), fields[product].decode(), _parse_number(fields[value].decode(), place)


def _table_rows(
    content: bytes, delimiter: str, header: Sequence[str], names: Sequence[str], where: str
) -> Iterator[Row]:
    query, product, value = map(header.index, names)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    text = io.StringIO(decode_text(content, where), newline="")
    lines = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for fields in lines:
            if not fields or fields == header:
                continue
            if len(fields) != len(header):
                message = f"{len(fields)} columns, but the header has {len(header)}"
                raise JudgeError(f"{where}: line {lines.line_num}: {message}")
            number = _parse_number(fields[value], f"{where}: line {lines.line_num}")
            yield fields[query], fields[product], number
    except csv.Error as error:
        raise JudgeError(f"{where}: line {lines.line_num}: {error}") from error


def _json_rows(content: bytes, layout: FileLayout, where: str) -> Iterator[Row]:
    for line, text in enumerate(content.split(b"\n"), 1):
        if not text.strip():
            continue
        place = f"{where}: line {line}"
        fields = parse_json(text, place)
        if not isinstance(fields, dict):
            raise JudgeError(f"{place}: expected an object with the columns {', '.join(layout.headers[0])}")
        query, product, value = (fields[name] for name in layout.choose_columns(fields, place))
        if not isinstance(value, int | float):
            raise JudgeError(f"{place}: {value!r} is not a number")
        yield query, product, value


def _columns_of_rows(rows: Iterable[Row]) -> PairColumns:
    columns = PairColumns([], [], [])
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
    return columns


def _parse_number(text: str, where: str) -> float:
    try:
        if "_" not in text:  # Python's digit separator
            return float(text)
    except ValueError:
        pass  # the error below says more
    raise JudgeError(f"{where}: '{text}' is not a number")
