"""What every import does with the rows of its source: check, decode pictures and clips, write, and say what was left
out."""

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from catalog import store
from catalog.clips import read_frames
from catalog.images import PictureError, decode
from catalog.prices import read_amount, read_currency, read_currency_column
from catalog.reading import FIELD, Fault, Picture
from catalog.schema import GRADES, JUDGED_BY, OPTIONAL_TABLES, PICTURE, SPLITS, TABLES

CHUNK = 20_000  # rows of the source; what a restart repeats at most
THREADS = 16  # pictures and clips that are read, or downloaded, at a time
WINDOW = 512  # rows whose pictures, and frames of clips, are in memory
LARGEST_COUNT = 2**63 - 1  # an int64 holds no more
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
    """A row for one of the tables of `catalog.schema`: texts, numbers, mappings for maps, and a `Picture` each for a
    picture and for a clip."""

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
            if "price" in values and (reason := _add_currency(values, one.values)):
                faults.append(Left(one.table, one.where, key, "currency", reason))
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
        decode_rows = pool.map if MEDIA.keys() & KINDS[table].keys() else map
        (partial / table).mkdir(exist_ok=True)
        path = partial / table / f"{number:05d}.parquet"
        unfinished[path] = path.with_suffix(".partial")
        with pq.ParquetWriter(unfinished[path], TABLES[table], compression="zstd") as writer:
            for start in range(0, len(rows), WINDOW):
                window = list(decode_rows(_decode_row, rows[start : start + WINDOW]))
                whole = [row for row, _ in window if row is not None]
                left += [fault for _, faults in window for fault in faults]
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


def _decode_row(row: Row) -> tuple[dict[str, Any] | None, list[Left]]:
    """A row with the bytes of its picture and the frames of its clip, and which of these cannot be used.

    The row is None where nothing else is in it.
    """
    values, faults = dict(row.values), []
    for column, read in MEDIA.items():
        if column not in values:
            continue
        try:
            values[column] = read(values[column])
        except (ValueError, PictureError) as error:
            del values[column]
            faults.append(Left(row.table, row.where, values[KEYS[row.table][0]], column, str(error)))
    if row.table == "queries" and faults and "text" not in values:
        return None, [fault._replace(column=None) for fault in faults]
    return values, faults


def _read_picture(picture: Picture) -> dict[str, Any]:
    content = picture.read()
    decode(content)
    return {"bytes": content, "path": picture.name}


def _read_clip(clip: Picture) -> list[dict[str, Any]]:
    stem = PurePosixPath(clip.name).stem
    frames = read_frames(clip.read())
    return [{"bytes": frame, "path": f"{stem}-{number}.webp"} for number, frame in enumerate(frames)]


MEDIA: Mapping[str, Callable[[Picture], Any]] = {"image": _read_picture, "video": _read_clip}


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


def _add_currency(values: dict[str, Any], source: Mapping[str, Any]) -> str | None:
    """Take the currency from the text of a price where the source has none beside it.

    Args:
        values: Of a product, as they fit; a currency that contradicts the price is removed.
        source: The same as the source has them.

    Returns:
        Why the price's currency cannot be used, if so.
    """
    if not isinstance(source["price"], str):
        return None
    try:
        code = read_currency(source["price"])
    except ValueError as error:
        return None if "currency" in values else str(error)
    if code and values.setdefault("currency", code) != code:
        return f"'{values.pop('currency')}', but the price is in {code}"
    return None


def _count(value: Any) -> int | None:
    """A whole number: 12, 12.0 (as pandas writes it beside blanks), "12"; None for a blank one.

    Raises:
        ValueError: for any other value.
    """
    text = "" if isinstance(value, float) and math.isnan(value) else str(value).strip()
    if not text:
        return None
    if (
        not re.fullmatch(r"[0-9]{1,19}(\.0*)?", text)
        or (count := int(text.partition(".")[0])) > LARGEST_COUNT
    ):
        raise ValueError(f"'{text[:40]}' is no whole number from 0 on")
    return count


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


def _clip(value: Any) -> Picture:
    if not isinstance(value, Picture):
        raise ValueError(f"a {type(value).__name__}, not the path or address of a clip")
    return value


def _map(value: Any) -> list[tuple[str, str]] | None:
    if not isinstance(value, Mapping):
        raise ValueError(f"a {type(value).__name__}, not names with values")
    pairs = [(_text(name), None if one is None else _text(one)) for name, one in value.items()]
    return [(name, one) for name, one in pairs if name and one] or None


def _kind(field: pa.Field) -> Callable[[Any], Any]:
    named: dict[str, Callable[[Any], Any]] = {
        "split": _among(SPLITS),
        "grade": _grade,
        "judged_by": _among(JUDGED_BY),
        "price": read_amount,
        "currency": read_currency_column,
        "frequency": _count,
        "video": _clip,
    }
    if field.name in named:
        return named[field.name]
    if field.type == PICTURE:
        return _picture
    if pa.types.is_map(field.type):
        return _map
    return _text


# table → column → what makes a value fit, or raises ValueError
KINDS = {table: {field.name: _kind(field) for field in TABLES[table]} for table in KEYS}
