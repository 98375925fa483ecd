"""What every import does with the rows of its source: check, look at pictures, write, and say what was left out."""

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from catalog import store
from catalog.images import PictureError, decode
from catalog.reading import FIELD, Fault, Picture
from catalog.schema import GRADES, JUDGED_BY, OPTIONAL_TABLES, PICTURE, SPLITS, TABLES

CHUNK = 20_000  # rows of the source; what a restart repeats at most
THREADS = 16  # pictures that are read, or downloaded, at a time
WINDOW = 512  # rows whose pictures are in memory
KEYS = {"products": ("product_id",), "queries": ("query_id",), "judgements": ("query_id", "product_id")}
REJECTED = pa.schema(
    [
        ("table", pa.string()),  # null: a row of the source that cannot be read
        ("where", pa.string()),  # file and line
        ("id", pa.string()),
        ("column", pa.string()),  # null: the whole row
        ("reason", pa.string()),
    ]
)


class Row(NamedTuple):
    """A row for one of the tables of `catalog.schema`; texts, numbers, a `Picture`, mappings for maps."""

    table: str
    where: str
    values: Mapping[str, Any]


class Left(NamedTuple):
    """What was left out: a row of `REJECTED`."""

    table: str | None
    where: str
    id: str | None
    column: str | None
    reason: str


def convert(
    name: str, rows: Iterable[Row], faults: list[Fault], out: Path, made_from: Mapping[str, Any]
) -> dict[str, int]:
    """Write a data set; rows and values that cannot be used are left out and listed in `rejected.parquet`.

    A row whose key was seen before, whose required value is missing, or that judges what is not there is left out; of
    other values at fault, only the value. Killed and called again with the same arguments, it goes on from its last
    chunk of rows.

    Args:
        name: Of the format, for messages.
        rows: Products first, then queries, then judgements; the same rows each time.
        faults: Rows of the source that cannot be read, noted while `rows` are taken; emptied.
        out: Gets the data set; see `catalog.schema`.
        made_from: What the rows come from; plain JSON values.

    Returns:
        Rows written by table, and those left out as "rejected".

    Raises:
        DataError: where the folder cannot be written, or the source cannot be read.
    """
    stream = iter(rows)
    first = list(itertools.islice(stream, 1))  # a source of another layout says so before anything is written
    with store.whole(out) as partial:
        store.go_on(partial, made_from)
        progress = partial / "progress.json"
        done: dict[str, Any] = (
            json.loads(progress.read_text()) if progress.exists() else {"chunks": 0, "counts": {}}
        )
        counts: Counter[str] = Counter(done["counts"])
        seen = _Seen()
        with ThreadPoolExecutor(THREADS) as pool, tqdm(desc=name, unit="row", disable=None) as bar:
            for number, chunk in enumerate(_chunks(itertools.chain(first, stream))):
                unread = [Left(None, fault.where, None, None, fault.reason) for fault in faults]
                faults.clear()
                kept = [*unread, *seen.check(chunk)]
                if number >= done["chunks"]:
                    counts += _write(partial, number, kept, pool)
                    _replace(progress, json.dumps({"chunks": number + 1, "counts": counts}))
                bar.update(len(chunk))
        for one in TABLES.keys() - OPTIONAL_TABLES:
            if not list((partial / one).glob("*.parquet")):
                (partial / one).mkdir(exist_ok=True)
                pq.write_table(TABLES[one].empty_table(), partial / one / "00000.parquet")
        reasons = _gather_rejected(partial)
        for rest in (progress, partial / "made_from.json"):
            rest.unlink(missing_ok=True)
    _tell(name, counts, reasons, out)
    return {**dict.fromkeys((*KEYS, "rejected"), 0), **counts}


def _chunks(stream: Iterator[Row]) -> Iterator[list[Row]]:
    """The last one is short, and may be empty: faults may stand behind the last row."""
    while len(chunk := list(itertools.islice(stream, CHUNK))) == CHUNK:
        yield chunk
    yield chunk


class _Seen:
    """Which keys there are, so that each is there once and judgements are of what is there."""

    def __init__(self) -> None:
        self.keys: dict[str, set[Any]] = {table: set() for table in KEYS}

    def check(self, chunk: Iterable[Row]) -> Iterator[Row | Left]:
        """The rows with values as the schema has them, and what is left out of them."""
        for one in chunk:
            values: dict[str, Any] = {}
            faults: list[Left] = []
            kind = KINDS[one.table]
            key = " ".join(str(one.values.get(column, "")) for column in KEYS[one.table])[:200]
            for column, value in one.values.items():
                if value is None or column not in kind:
                    continue
                try:
                    if (fits := kind[column](value)) is not None:
                        values[column] = fits
                except (ValueError, TypeError, OverflowError) as error:
                    faults.append(Left(one.table, one.where, key, column, str(error)))
            if (whole := self._why_not(one.table, values, faults)) is not None:
                yield Left(one.table, one.where, key, None, whole)
                continue
            yield from faults
            yield Row(one.table, one.where, values)

    def _why_not(self, table: str, values: Mapping[str, Any], faults: list[Left]) -> str | None:
        """Why a row cannot be used; None where it can."""
        for field in TABLES[table]:
            if not field.nullable and field.name not in values:
                told = [fault.reason for fault in faults if fault.column == field.name]
                return f"{field.name}: {told[0]}" if told else f"no {field.name}"
        if table == "queries" and "text" not in values and "image" not in values:
            return "neither text nor picture"
        key = tuple(values[column] for column in KEYS[table])
        if table == "judgements":
            for column, place in (("query_id", "queries"), ("product_id", "products")):
                if values[column] not in self.keys[place]:
                    return f"{column} {values[column][:100]} is not in {place}"
        one = key if len(key) > 1 else key[0]
        if one in self.keys[table]:
            return "seen before"
        self.keys[table].add(one)
        return None


def _write(partial: Path, number: int, kept: list[Row | Left], pool: ThreadPoolExecutor) -> Counter[str]:
    """One file a table, or none where the chunk has no rows for it."""
    counts: Counter[str] = Counter()
    left = [one for one in kept if isinstance(one, Left)]
    unfinished: dict[Path, Path] = {}
    for table in KEYS:
        rows = [one for one in kept if isinstance(one, Row) and one.table == table]
        if not rows:
            continue
        look = pool.map if "image" in KINDS[table] else map
        (partial / table).mkdir(exist_ok=True)
        path = partial / table / f"{number:05d}.parquet"
        unfinished[path] = path.with_suffix(".partial")
        with pq.ParquetWriter(unfinished[path], TABLES[table], compression="zstd") as writer:
            for start in range(0, len(rows), WINDOW):
                window = list(look(_seen_through, rows[start : start + WINDOW]))
                whole = [row for row, _ in window if row is not None]
                left += [fault for _, fault in window if fault is not None]
                if whole:
                    writer.write_table(pa.Table.from_pylist(whole, schema=TABLES[table]))
                counts[table] += len(whole)
    if left:
        (partial / "rejected").mkdir(exist_ok=True)
        path = partial / "rejected" / f"{number:05d}.parquet"
        unfinished[path] = path.with_suffix(".partial")
        pq.write_table(
            pa.Table.from_pylist([one._asdict() for one in left], schema=REJECTED), unfinished[path]
        )
    for path, part in unfinished.items():
        part.replace(path)
    counts["rejected"] = len(left)
    return counts


def _seen_through(row: Row) -> tuple[dict[str, Any] | None, Left | None]:
    """A row with the bytes of its picture, if that is one."""
    picture = row.values.get("image")
    if picture is None:
        return dict(row.values), None
    key = row.values[KEYS[row.table][0]]
    try:
        content = picture.read()
        decode(content)
    except (ValueError, PictureError) as error:
        alone = {column: value for column, value in row.values.items() if column != "image"}
        left = Left(row.table, row.where, key, "image", str(error))
        if row.table == "queries" and "text" not in alone:
            return None, left._replace(column=None)
        return alone, left
    return {**row.values, "image": {"bytes": content, "path": picture.name}}, None


def _gather_rejected(partial: Path) -> Counter[str]:
    """All that was left out in one file, and how often each reason occurs."""
    reasons: Counter[str] = Counter()
    parts = sorted((partial / "rejected").glob("*.parquet"))
    if parts:
        with pq.ParquetWriter(partial / "rejected.parquet", REJECTED, compression="zstd") as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch)
                    for row in batch.select(["table", "column", "reason"]).to_pylist():
                        what = f"{row['table'] or 'source'}, {row['column'] or 'row'}"
                        reasons[f"{what}: {re.sub(r'[0-9][0-9,]*', 'N', row['reason'])[:80]}"] += 1
        for part in parts:
            part.unlink()
        (partial / "rejected").rmdir()
    return reasons


def _tell(name: str, counts: Mapping[str, int], reasons: Counter[str], out: Path) -> None:
    said = ", ".join(f"{counts.get(table, 0):,} {table}" for table in KEYS)
    print(f"{name}: {said}", file=sys.stderr)
    if reasons:
        print(
            f"{name}: left out {sum(reasons.values()):,}, listed in {out / 'rejected.parquet'}:",
            file=sys.stderr,
        )
    for reason, count in reasons.most_common(10):
        print(f"  {count:,} × {reason}", file=sys.stderr)


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _text(value: Any) -> str | None:
    """A text, or None for a blank one.

    Raises:
        ValueError: where it is too long, holds bytes of another encoding, or is no text.
    """
    if isinstance(value, (dict, list, bytes)):
        raise ValueError(f"a {type(value).__name__}, not a text")
    text = str(value).strip()
    if isinstance(value, float) and math.isnan(value):
        return None
    if len(text) > FIELD:
        raise ValueError(f"{len(text):,} characters; the limit is {FIELD:,}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("bytes that are not of the file's encoding; give --encoding") from error
    return text or None


def number(value: Any) -> float | None:
    """A price as shops write it: 12.5, "12,50", "1.299,00 €", "$1,299.00"; None for a blank one.

    Raises:
        ValueError: where there is no number in it, or several.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None if math.isnan(value) else float(value)
    text = str(value).strip()
    if not text:
        return None
    found = re.fullmatch(r"[^\d.,+-]*([+-]?\d[\d.,' \u00a0\u202f]*)[^\d.,]*", text[:100])
    if not found:
        raise ValueError(f"'{text[:40]}' is no price")
    digits = re.sub(r"[' \u00a0\u202f]", "", found[1])
    comma, point = digits.rfind(","), digits.rfind(".")
    decimal = "," if comma > point else "."
    if min(comma, point) < 0 <= max(comma, point):  # 1,299 and 1.299.000 are thousands, 12,5 is not
        mark = digits[max(comma, point)]
        if digits.count(mark) > 1 or (mark == "," and re.search(r",\d{3}$", digits)):
            decimal = "." if mark == "," else ","
    return float(digits.replace("," if decimal == "." else ".", "").replace(decimal, "."))


def _grade(value: Any) -> int:
    if str(value).strip() not in {str(grade) for grade in GRADES}:
        raise ValueError(f"'{str(value)[:20]}' is none of {', '.join(map(str, GRADES))}")
    return int(value)


def _among(names: Iterable[str]) -> Callable[[Any], str]:
    allowed = tuple(names)

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"'{str(value)[:20]}' is none of {', '.join(allowed)}")
        return str(value)

    return check


def _picture(value: Any) -> Picture:
    if not isinstance(value, Picture):
        raise ValueError(f"a {type(value).__name__}, not a picture")
    return value


def _map(value: Any) -> list[tuple[str, str]] | None:
    if not isinstance(value, Mapping):
        raise ValueError(f"a {type(value).__name__}, not names with values")
    pairs = [(_text(name), None if one is None else _text(one)) for name, one in value.items()]
    return [(name, one) for name, one in pairs if name and one] or None


def _kind(field: pa.Field) -> Callable[[Any], Any]:
    named = {"split": _among(SPLITS), "grade": _grade, "judged_by": _among(JUDGED_BY)}
    if field.name in named:
        return named[field.name]
    if field.type == PICTURE:
        return _picture
    if pa.types.is_map(field.type):
        return _map
    return number if pa.types.is_floating(field.type) else _text


# table → column → what makes a value fit, or raises ValueError; clips have no importer yet
KINDS = {
    table: {field.name: _kind(field) for field in TABLES[table] if not pa.types.is_list(field.type)}
    for table in KEYS
}
