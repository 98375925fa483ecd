"""Writes the rows of any source as a data set: checks values, decodes media, and lists what is left out."""

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from catalog import store
from catalog.attributes import flatten_attributes, get_pair
from catalog.categories import join_levels, split_category
from catalog.clips import read_frames
from catalog.files import Fault, Media
from catalog.images import PictureError, decode
from catalog.prices import read_currency, read_currency_column, read_price
from catalog.progress import show_progress
from catalog.reading import MAX_FIELD_CHARS
from catalog.schema import GRADES, JUDGED_BY, OPTIONAL_TABLES, PICTURE, SPLITS, TABLES, DataError
from catalog.text import clean

CHUNK_ROWS = 20_000  # rows of the source per chunk; a restart repeats at most one chunk
THREADS = 16  # pictures and clips that are read or downloaded in parallel
WINDOW_ROWS = 512  # rows whose pictures and frames are in memory
BATCH_ROWS = 8  # rows whose pictures a thread reads one after the other
EXAMPLES = 3  # values of a group of rejections that the summary shows
PRICE_COLUMNS = ("price", "max_price")  # converted after the currency, which decides what separators mean
LARGEST_COUNT = 2**63 - 1  # int64
FLAGS = {
    **dict.fromkeys(
        ("true", "yes", "y", "1", "in stock", "instock", "available", "backorder", "preorder"), True
    ),
    **dict.fromkeys(
        ("false", "no", "n", "0", "out of stock", "outofstock", "sold out", "unavailable"), False
    ),
}
KEY_COLUMNS = {
    "products": ("product_id",),
    "queries": ("query_id",),
    "judgements": ("query_id", "product_id"),
}
REQUIRED = {table: [field.name for field in TABLES[table] if not field.nullable] for table in KEY_COLUMNS}
# Columns whose texts are compared letter by letter, and are not for reading: they are not cleaned.
CODES = frozenset({"product_id", "query_id", "group_id", "cluster"})
REJECTED_SCHEMA = pa.schema(
    [
        ("table", pa.string()),  # null: an unreadable row of the source
        ("where", pa.string()),  # file and line
        ("id", pa.string()),
        ("column", pa.string()),  # null: the whole row is left out
        ("reason", pa.string()),
    ]
)


class Row(NamedTuple):
    """A row for a table of `catalog.schema`: texts, numbers, mappings, and `Media` for pictures and clips."""

    table: str
    where: str
    values: Mapping[str, Any]


class Rejection(NamedTuple):
    """A row or value that is left out; fields as in `REJECTED_SCHEMA`."""

    table: str | None
    where: str
    id: str | None
    column: str | None
    reason: str


class EmptyDataError(DataError):
    """No row of products can be used."""


class ReasonGroup(NamedTuple):
    """Rejections for the same reason.

    Attributes:
        size: Number of rejections.
        where: The first place.
        values: The first different values.
    """

    size: int
    where: str
    values: tuple[str, ...]


class _Progress:
    """Number of finished chunks and rows per table, stored in a file so that an import can be resumed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        state: dict[str, Any] = {"chunks": 0, "counts": {}}
        if path.exists():
            state = json.loads(path.read_text())
        self.chunks: int = state["chunks"]
        self.counts: Counter[str] = Counter(state["counts"])

    def finish_chunk(self, number: int, counts: Counter[str]) -> None:
        self.chunks = number + 1
        self.counts += counts
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"chunks": self.chunks, "counts": self.counts}))
        partial.replace(self.path)


def convert(
    name: str, rows: Iterable[Row | Rejection], faults: list[Fault], out: Path, provenance: Mapping[str, Any]
) -> dict[str, int]:
    """Write a data set; rows and values that cannot be used are left out and listed in `rejected.parquet`.

    A row is left out if its key is a duplicate, a required value is missing, or it judges an unknown query or product.
    Of other invalid values, only the value is left out. A killed import resumes at its last chunk when it is called
    with the same arguments.

    Args:
        name: Name of the format, for messages.
        rows: Products, then queries, then judgements, and rows that the source leaves out; the same in each call.
        faults: Unreadable rows of the source, added while `rows` are read; emptied after each chunk.
        out: The new data set; see `catalog.schema`.
        provenance: Source and options of the rows, as JSON values.

    Returns:
        Number of rows by table, and number of rejections as "rejected".

    Raises:
        DataError: if the folder cannot be written, or the source cannot be read.
        EmptyDataError: if no row of products can be used; then nothing is left behind.
    """
    stream = iter(rows)
    first = list(itertools.islice(stream, 1))  # a source with a wrong layout fails before anything is written
    with store.atomic_dir(out) as partial:
        store.resume_if_same(partial, provenance)
        progress = _Progress(partial / "progress.json")
        checker = _RowChecker()
        with ThreadPoolExecutor(THREADS) as pool, show_progress(desc=name, unit="row") as bar:
            for number, chunk in enumerate(_split_into_chunks(itertools.chain(first, stream))):
                unread = [Rejection(None, fault.where, None, None, fault.reason) for fault in faults]
                faults.clear()
                checked = [*unread, *checker.check(chunk)]
                if number >= progress.chunks:
                    progress.finish_chunk(number, _write_chunk(partial, number, checked, pool))
                bar.update(len(chunk))
        reasons = _merge_rejected(partial)
        if not progress.counts["products"] and any(key.startswith(("products", "source")) for key in reasons):
            store.clear_dir(partial)
            partial.rmdir()
            raise EmptyDataError(
                f"{name}: no usable row of products; {'; '.join(_format_groups(reasons, 3))}"
            )
        _add_empty_tables(partial)
        for path in (progress.path, partial / "made_from.json"):
            path.unlink(missing_ok=True)
    _print_summary(name, progress.counts, reasons, out)
    return {**dict.fromkeys((*KEY_COLUMNS, "rejected"), 0), **progress.counts}


def _split_into_chunks(stream: Iterator[Row | Rejection]) -> Iterator[list[Row | Rejection]]:
    """Split rows into chunks; the last is shorter and can be empty, because faults can follow the last row."""
    while len(chunk := list(itertools.islice(stream, CHUNK_ROWS))) == CHUNK_ROWS:
        yield chunk
    yield chunk


class _RowChecker:
    """Checks rows: types of values, required values, unique keys, and judgements of known queries and products."""

    def __init__(self) -> None:
        self.keys: dict[str, set[Any]] = {table: set() for table in KEY_COLUMNS}

    def check(self, chunk: Iterable[Row | Rejection]) -> Iterator[Row | Rejection]:
        """Convert the values of rows to the types of the schema; yields usable rows and rejections."""
        for row in chunk:
            if isinstance(row, Rejection):
                yield row
                continue
            key = " ".join(str(row.values.get(column, "")) for column in KEY_COLUMNS[row.table])[:200]
            values, reasons = convert_values(row)
            if (reason := self._reject(row.table, values, reasons)) is not None:
                yield Rejection(row.table, row.where, key, None, reason)
                continue
            for column, reason in reasons:
                yield Rejection(row.table, row.where, key, column, reason)
            yield Row(row.table, row.where, values)

    def _reject(
        self, table: str, values: Mapping[str, Any], reasons: Sequence[tuple[str, str]]
    ) -> str | None:
        """Explain why a row cannot be used; None if it can. See `convert_values` for the arguments."""
        for name in REQUIRED[table]:
            if name not in values:
                reason = next((reason for column, reason in reasons if column == name), None)
                return f"{name}: {reason}" if reason else f"no {name}"
        if table == "queries" and "text" not in values and "image" not in values:
            return "neither text nor picture"
        if table == "judgements":
            for column, target in (("query_id", "queries"), ("product_id", "products")):
                if values[column] not in self.keys[target]:
                    return f"{column} {values[column][:100]} is not in {target}"
        columns = [values[column] for column in KEY_COLUMNS[table]]
        key = tuple(columns) if len(columns) > 1 else columns[0]
        if key in self.keys[table]:
            return "duplicate"
        self.keys[table].add(key)
        return None


def convert_values(row: Row) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Convert the values of a row; returns the valid values, and pairs of column and reason for the invalid ones."""
    values: dict[str, Any] = {}
    reasons: list[tuple[str, str]] = []
    converters = CONVERTERS[row.table]
    for column, value in row.values.items():
        if value is None or column not in converters or column in PRICE_COLUMNS:
            continue
        try:
            if (converted := converters[column](value)) is not None:
                values[column] = converted
        except (ValueError, TypeError, OverflowError) as error:
            reasons.append((column, str(error)))
    if row.table == "products" and row.values.get("price") is not None:
        reasons += _add_price(values, row.values)
    return values, reasons


def _write_chunk(
    partial: Path, number: int, checked: list[Row | Rejection], pool: ThreadPoolExecutor
) -> Counter[str]:
    """Write one file per table that has rows in the chunk; files get their final names at the end."""
    counts: Counter[str] = Counter()
    rejections = [item for item in checked if isinstance(item, Rejection)]
    unfinished: dict[Path, Path] = {}
    for table in KEY_COLUMNS:
        rows = [item for item in checked if isinstance(item, Row) and item.table == table]
        if rows:
            path = _chunk_path(partial / table, number)
            unfinished[path] = path.with_suffix(".partial")
            counts[table], more = _write_rows(unfinished[path], table, rows, pool)
            rejections += more
    if rejections:
        path = _chunk_path(partial / "rejected", number)
        unfinished[path] = path.with_suffix(".partial")
        rejected = pa.Table.from_pylist([item._asdict() for item in rejections], schema=REJECTED_SCHEMA)
        pq.write_table(rejected, unfinished[path])
    for path, unfinished_path in unfinished.items():
        unfinished_path.replace(path)
    counts["rejected"] = len(rejections)
    return counts


def _chunk_path(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    return folder / f"{number:05d}.parquet"


def _write_rows(
    path: Path, table: str, rows: list[Row], pool: ThreadPoolExecutor
) -> tuple[int, list[Rejection]]:
    """Write the rows of one table with their media; returns the number of written rows, and the rejections."""
    count = 0
    rejections: list[Rejection] = []
    with pq.ParquetWriter(path, TABLES[table], compression="zstd") as writer:
        for start in range(0, len(rows), WINDOW_ROWS):
            window = _decode_rows(table, rows[start : start + WINDOW_ROWS], pool)
            usable = [values for values, _ in window if values is not None]
            rejections += [rejection for _, items in window for rejection in items]
            if usable:
                writer.write_table(pa.Table.from_pylist(usable, schema=TABLES[table]))
            count += len(usable)
    return count, rejections


def _decode_rows(
    table: str, rows: Sequence[Row], pool: ThreadPoolExecutor
) -> list[tuple[dict[str, Any] | None, list[Rejection]]]:
    """Read the media of rows, see `_decode_row`; in batches, because a task costs as much as a small picture."""
    if not MEDIA_READERS.keys() & CONVERTERS[table].keys():
        return [_decode_row(row) for row in rows]
    batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    return [
        result
        for results in pool.map(lambda batch: [*map(_decode_row, batch)], batches)
        for result in results
    ]


def _decode_row(row: Row) -> tuple[dict[str, Any] | None, list[Rejection]]:
    """Read the pictures and the clip of a row; returns its values without the unusable ones, and the rejections.

    The values are None if a query has nothing else.
    """
    values, rejections = dict(row.values), []
    key = values[KEY_COLUMNS[row.table][0]]
    for column in [column for column in MEDIA_READERS if column in values]:
        content, reasons = MEDIA_READERS[column](values.pop(column))
        if content:
            values[column] = content
        rejections += [Rejection(row.table, row.where, key, column, reason) for reason in reasons]
    if row.table == "queries" and rejections and "text" not in values:
        return None, [rejection._replace(column=None) for rejection in rejections]
    return values, rejections


def _read_pictures(pictures: Sequence[Media]) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the usable pictures of a product, in order; and the reasons why others are not usable."""
    contents, reasons = [], []
    for number, picture in enumerate(pictures, start=1):
        content, problems = _read_picture(picture)
        contents += [content] if content else []
        reasons += [f"picture {number}: {problem}" if len(pictures) > 1 else problem for problem in problems]
    return contents, reasons


def _read_picture(picture: Media) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        content = picture.read()
        decode(content)
    except (ValueError, PictureError) as error:
        return None, [str(error)]
    return {"bytes": content, "path": picture.name}, []


def _read_clip(clip: Media) -> tuple[list[dict[str, Any]], list[str]]:
    stem = PurePosixPath(clip.name).stem
    try:
        frames = read_frames(clip.read())
    except (ValueError, PictureError) as error:
        return [], [str(error)]
    return [{"bytes": frame, "path": f"{stem}-{number}.webp"} for number, frame in enumerate(frames)], []


# Column → function that returns the content of the usable media of a value, and why others are not usable.
MEDIA_READERS: Mapping[str, Callable[[Any], tuple[Any, list[str]]]] = {
    "image": _read_picture,
    "images": _read_pictures,
    "video": _read_clip,
}


def _add_empty_tables(partial: Path) -> None:
    for table in TABLES.keys() - OPTIONAL_TABLES:
        if not list((partial / table).glob("*.parquet")):
            pq.write_table(TABLES[table].empty_table(), _chunk_path(partial / table, 0))


def _merge_rejected(partial: Path) -> dict[str, ReasonGroup]:
    """Merge the rejections of all chunks into one file, and group them by their reasons."""
    groups: dict[str, ReasonGroup] = {}
    parts = sorted((partial / "rejected").glob("*.parquet"))
    if parts:
        with pq.ParquetWriter(partial / "rejected.parquet", REJECTED_SCHEMA, compression="zstd") as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch)
                    for rejected in batch.to_pylist():
                        _add_to_group(groups, rejected)
        for part in parts:
            part.unlink()
        (partial / "rejected").rmdir()
    return groups


def _add_to_group(groups: dict[str, ReasonGroup], rejected: Mapping[str, Any]) -> None:
    """Add a rejection to the group of its table, column and reason."""
    reason, value = split_reason(rejected["reason"])
    key = f"{rejected['table'] or 'source'}, {rejected['column'] or 'row'}: {reason}"
    group = groups.get(key) or ReasonGroup(0, rejected["where"], ())
    is_new = value and value not in group.values and len(group.values) < EXAMPLES
    values = (*group.values, value) if is_new else group.values
    groups[key] = ReasonGroup(group.size + 1, group.where, values)


def split_reason(reason: str) -> tuple[str, str]:
    """Split a reason into one without its value, so that equal reasons can be counted, and the value.

    Addresses are grouped by server: "https://a.test/x.jpg: the server answered 404" gives "a.test: the server …".
    """
    if match := re.fullmatch(r"(?:picture \d+: )?(https?://([^/?#\s]+).*?): ([^:]*)", reason, re.IGNORECASE):
        return f"{match[2]}: {match[3]}", match[1]
    if match := re.fullmatch(r"(?:picture \d+: )?(\S.*): (no such file)", reason):
        return match[2], match[1]
    match = re.search(r"'([^']{2,})'", reason)
    general = reason.replace(match[0], "'…'", 1) if match else reason
    return re.sub(r"[0-9][0-9,]*", "N", general)[:100], match[1][:60] if match else ""


def _format_groups(groups: Mapping[str, ReasonGroup], most: int) -> Iterator[str]:
    """Describe the largest groups: count, reason, first place and first values."""
    for key, group in sorted(groups.items(), key=lambda item: -item[1].size)[:most]:
        values = f": {', '.join(group.values)}" if group.values else ""
        yield f"{group.size:,} × {key} (first {group.where}{values})"


def _print_summary(
    name: str, counts: Mapping[str, int], groups: Mapping[str, ReasonGroup], out: Path
) -> None:
    tables = ", ".join(f"{counts.get(table, 0):,} {table}" for table in KEY_COLUMNS)
    print(f"{name}: {tables}", file=sys.stderr)
    if groups:
        count = sum(group.size for group in groups.values())
        print(f"{name}: left out {count:,}, listed in {out / 'rejected.parquet'}:", file=sys.stderr)
    for line in _format_groups(groups, 10):
        print(f"  {line}", file=sys.stderr)


def _convert_text(value: Any) -> str | None:
    """Convert to text; None if blank.

    Raises:
        ValueError: if it is too long, not decodable, or not a text.
    """
    if isinstance(value, (dict, list, bytes)):
        raise ValueError(f"a {type(value).__name__}, not a text")
    if isinstance(value, float) and math.isnan(value):
        return None
    text = str(value).strip()
    if len(text) > MAX_FIELD_CHARS:
        raise ValueError(f"{len(text):,} characters; the limit is {MAX_FIELD_CHARS:,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("bytes that are invalid in the file's encoding; give --encoding") from error
    return text or None


def _convert_clean_text(value: Any) -> str | None:
    """Convert to text and clean it, see `catalog.text`; errors are those of `_convert_text`."""
    text = _convert_text(value)
    return None if text is None else clean(text) or None


def _add_price(values: dict[str, Any], source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Add the price, its range and its currency, which can be in the text of the price or in a column.

    Args:
        values: Converted values of a product; loses a currency that contradicts the price, and a `max_price` that is
            not above it.
        source: The values as they are in the source.

    Yields:
        Column and reason of what is left out.
    """
    for column in PRICE_COLUMNS:
        try:
            price = read_price(
                source.get(column) if source.get(column) is not None else "", values.get("currency")
            )
        except (ValueError, TypeError, OverflowError) as error:
            yield column, str(error)
            continue
        if price and column == "price":
            values |= {"price": price.lowest, "max_price": price.highest}
        elif price:
            values["max_price"] = price.highest or price.lowest
    if values.get("max_price") is None or values["max_price"] <= values.get("price", math.inf):
        values.pop("max_price", None)
    if "price" in values and isinstance(source["price"], str):
        yield from _check_currency(values, source["price"])


def _check_currency(values: dict[str, Any], price: str) -> Iterator[tuple[str, str]]:
    """Take the currency from the text of the price if there is none, and leave it out if they contradict."""
    try:
        code = read_currency(price)
    except ValueError as error:
        if "currency" not in values:
            yield "currency", str(error)
        return
    if code and values.setdefault("currency", code) != code:
        yield "currency", f"'{values.pop('currency')}', but the price is in {code}"


def _convert_category(value: Any) -> str | None:
    """Convert to a path: a text as shops write it, or the names of its levels."""
    levels = value if isinstance(value, (list, tuple)) else split_category(_convert_clean_text(value) or "")
    return join_levels(text for level in levels if (text := _convert_clean_text(level)))


def _convert_count(value: Any) -> int | None:
    """Convert to a whole number: 12, 12.0 (as pandas writes it next to blanks), "12"; None if blank.

    Raises:
        ValueError: if it is not a whole number.
    """
    text = "" if isinstance(value, float) and math.isnan(value) else str(value).strip()
    if not text:
        return None
    if (
        not re.fullmatch(r"[0-9]{1,19}(\.0*)?", text)
        or (count := int(text.partition(".")[0])) > LARGEST_COUNT
    ):
        raise ValueError(f"'{text[:40]}' is not a whole number of 0 or more")
    return count


def _convert_grade(value: Any) -> int:
    if str(value).strip() not in {str(grade) for grade in GRADES}:
        raise ValueError(f"'{str(value)[:20]}' is not one of {', '.join(map(str, GRADES))}")
    return int(value)


def _convert_flag(value: Any) -> bool | None:
    """Convert to true or false: a boolean, or one of `FLAGS` in any case; None if blank.

    Raises:
        ValueError: if it is none of these.
    """
    text = " ".join(str(value).casefold().replace("_", " ").split())
    if text and text not in FLAGS:
        raise ValueError(f"'{str(value)[:40]}' is not one of {', '.join(FLAGS)}")
    return FLAGS[text] if text else None


def _convert_language(value: Any) -> str | None:
    """Convert to an ISO 639-1 code: "de", "de-AT", "de_AT.UTF-8"; None if blank.

    Raises:
        ValueError: if it is no code of a language.
    """
    text = str(value).strip()
    code = re.split(r"[-_.]", text)[0].lower()
    if text and not re.fullmatch(r"[a-z]{2,3}", code):
        raise ValueError(f"'{text[:40]}' is not the code of a language, such as en or de")
    return code or None


def _convert_moment(value: Any) -> datetime | None:
    """Convert to a moment: a datetime, or ISO 8601; UTC where there is no time zone. None if blank.

    Raises:
        ValueError: if it is neither.
    """
    text = str(value).strip()
    if not text:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _choice_converter(names: Iterable[str]) -> Callable[[Any], str]:
    allowed = tuple(names)

    def convert_choice(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"'{str(value)[:20]}' is not one of {', '.join(allowed)}")
        return str(value)

    return convert_choice


def _check_picture(value: Any) -> Media:
    if not isinstance(value, Media):
        raise ValueError(f"a {type(value).__name__}, not a picture")
    return value


def _check_pictures(value: Any) -> list[Media]:
    """Check the pictures of a product; a value that is no list is its only picture."""
    return [_check_picture(picture) for picture in (value if isinstance(value, list) else [value])]


def _check_clip(value: Any) -> Media:
    if not isinstance(value, Media):
        raise ValueError(f"a {type(value).__name__}, not the path or address of a clip")
    return value


def _convert_map(value: Any) -> list[tuple[str, str]] | None:
    """Convert names with values to texts; a mapping, or pairs as parquet stores them. See `flatten_attributes`."""
    pairs = [get_pair(item) or item for item in value] if isinstance(value, list) else value
    if not isinstance(pairs, Mapping) and not (
        isinstance(pairs, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs)
    ):
        raise ValueError(f"a {type(value).__name__}, not names with values")
    texts = (
        (_convert_clean_text(name), _convert_clean_text(item)) for name, item in flatten_attributes(pairs)
    )
    return [(name, text) for name, text in texts if name and text] or None


def _get_converter(field: pa.Field) -> Callable[[Any], Any]:
    by_name: dict[str, Callable[[Any], Any]] = {
        "split": _choice_converter(SPLITS),
        "grade": _convert_grade,
        "judged_by": _choice_converter(JUDGED_BY),
        "category": _convert_category,
        "currency": read_currency_column,
        "frequency": _convert_count,
        "images": _check_pictures,
        "video": _check_clip,
        "available": _convert_flag,
        "language": _convert_language,
        "updated_at": _convert_moment,
    }
    if field.name in by_name:
        return by_name[field.name]
    if field.type == PICTURE:
        return _check_picture
    if pa.types.is_map(field.type):
        return _convert_map
    return _convert_text if field.name in CODES else _convert_clean_text


# table → column → function that converts a value, or raises ValueError
CONVERTERS = {table: {field.name: _get_converter(field) for field in TABLES[table]} for table in KEY_COLUMNS}
