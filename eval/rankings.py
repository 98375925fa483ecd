"""Judgements and runs: flat arrays inside; TREC, BEIR, parquet and dicts outside.

Ids are text. Integers become their decimal digits, so 7 in an array and "7" in a file are the same product;
"07" is another one. Order of ids is order of code points, so "10" comes before "9".
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from eval.arrays import BLOCK, alphabet, arrow_of, equal_rows, numpy_of, side_by_side, text_of

SPREAD = 4  # integers from 0 on number themselves where the highest is at most so many times as high as they are many
BATCH = 1 << 23  # pairs in memory at a time, where a file has more
ROW_GROUP = 2 * BATCH  # pairs in a part of a parquet file, which a reader takes as one
TAG = "vitrine"  # the last column of a TREC run names the system
PARQUET = b"PAR1"  # how such a file begins
BEIR = ("query-id", "corpus-id", "score")  # the header of its judgements


class JudgeError(ValueError):
    """Bad input to the judge. The message says what is wrong, where, and what to do."""


@dataclass(frozen=True, eq=False)
class _Pairs(ABC):
    """(query, product) → number, for Q queries and N pairs, with V products.

    The pairs of query `i` are `offsets[i]:offsets[i + 1]`. A query without pairs is not in it.

    Attributes:
        queries: (Q,) Arrow text or integers, unique, in any order.
        offsets: (Q + 1,) int64.
        products: (V,) Arrow text or integers, unique, in any order: every product named, and maybe others.
        items: (N,) integers, indices into `products`.
        values: (N,) float64, finite.
    """

    queries: pa.Array
    offsets: np.ndarray
    products: pa.Array
    items: np.ndarray
    values: np.ndarray

    VALUE: ClassVar[str]
    TREC: ClassVar[tuple[str, ...]]

    @classmethod
    def from_arrays(cls, query_ids: Any, item_ids: Any, values: Any) -> Self:
        """From three columns of equal length, in any order: lists, NumPy or Arrow arrays.

        Raises:
            JudgeError: empty, unequal lengths, ids that are neither text nor integers, a pair given twice,
                or a value that is not finite.
        """
        return cls._build(query_ids, item_ids, values, f"{cls.__name__} from arrays")

    @classmethod
    def from_dict(cls, nested: Mapping[Any, Mapping[Any, float]]) -> Self:
        """From {query: {product: value}}; raises as `from_arrays`."""
        return cls._from_nested(nested, f"{cls.__name__} from a dict")

    @classmethod
    def from_pandas(cls, frame: Any) -> Self:
        """From a data frame with the columns of `from_parquet`; raises as `from_table`."""
        return cls.from_table(pa.Table.from_pandas(frame, preserve_index=False), "data frame")

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """From whatever the file holds: parquet, TREC, BEIR judgements, or {query: {product: value}} as JSON.

        A folder is one of BEIR, of which the test judgements are read, or of parquet files.

        Raises:
            JudgeError: as the reader of what was found.
        """
        if path.is_dir():
            beir = path / "qrels" / "test.tsv"
            return cls._from_beir(beir) if beir.exists() else cls.from_parquet(path)
        head = _read(path, 4096).lstrip()
        if head.startswith(PARQUET):
            return cls.from_parquet(path)
        if head.startswith(b"{"):
            return cls._from_json(path)
        if tuple(head.split(b"\n")[0].decode(errors="replace").split()) == BEIR:
            return cls._from_beir(path)
        return cls.from_trec(path)

    @classmethod
    def from_trec(cls, path: Path) -> Self:
        """From a TREC file: "query 0 product grade" or "query Q0 product rank score tag", split at blanks.

        The rank is not read: scores alone order a run.

        Raises:
            JudgeError: an unreadable file or line, or as `from_arrays`.
        """
        text = _read(path).replace(b"\t", b" ").replace(b"\r", b"")
        while b"  " in text:
            text = text.replace(b"  ", b" ")
        text = text.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")
        return cls._from_csv(path, text, " ", cls.TREC, names=cls.TREC)

    @classmethod
    def from_parquet(cls, path: Path) -> Self:
        """From a file with the columns query_id, product_id and grade (judgements) or score (run).

        Raises:
            JudgeError: an unreadable file, a missing column, or as `from_arrays`.
        """
        return cls.from_table(read_table(path, ["query_id", "product_id", cls.VALUE]), str(path))

    @classmethod
    def from_table(cls, table: pa.Table, where: str = "table") -> Self:
        """From an Arrow table with the columns of `from_parquet`; `where` names it in errors."""
        columns = ["query_id", "product_id", cls.VALUE]
        if missing := [name for name in columns if name not in table.column_names]:
            raise JudgeError(f"{where}: column '{missing[0]}' is missing; needed are {', '.join(columns)}")
        query, item, value = (table[name] for name in columns)
        return cls._build(query, item, value, where)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{query: {product: value}}, in the order held."""
        items, values = self.item_ids.tolist(), self.values.tolist()
        bounds = pairwise(self.offsets.tolist())
        return {
            query: dict(zip(items[a:b], values[a:b], strict=True))
            for query, (a, b) in zip(self.query_ids.tolist(), bounds, strict=True)
        }

    def to_parquet(self, path: Path) -> None:
        """Write what `from_parquet` reads."""
        ids = {"query_id": (self.rows, self.queries), "product_id": (self.items, self.products)}
        columns: dict[str, pa.Array] = {
            name: pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), names.cast(pa.string()))
            for name, (index, names) in ids.items()
        }
        # Few row groups, all ids in their dictionaries, nothing compressed further: read several times as fast.
        whole = {"row_group_size": ROW_GROUP, "dictionary_pagesize_limit": 2**30, "compression": "none"}
        table = pa.table(columns | {self.VALUE: pa.array(self.values)})
        pq.write_table(table, path, use_dictionary=list(ids), **whole)

    def to_trec(self, path: Path) -> None:
        """Write what `from_trec` reads; numbers keep every digit.

        Raises:
            JudgeError: for an id with a blank in it, which the format cannot hold.
        """
        for name in (*self.query_ids.tolist(), *np.unique(self.item_ids).tolist()):
            if len(name.split()) != 1:
                raise JudgeError(f"{path}: id {name!r} holds a blank; TREC files cannot, use parquet")
        columns = {
            "query_id": self.query_ids[self.rows].tolist(),
            "product_id": self.item_ids.tolist(),
            self.VALUE: [f"{value:.17g}" for value in self.values.tolist()],
            "rank": self.ranks.tolist(),
            "iteration": ["Q0" if self.VALUE == "score" else "0"] * len(self.items),
            "tag": [TAG] * len(self.items),
        }
        lines = zip(*(columns[name] for name in self.TREC), strict=True)
        path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")

    @cached_property
    def counts(self) -> np.ndarray:
        """(Q,) int64: how many pairs each query has."""
        return np.diff(self.offsets)

    @cached_property
    def query_ids(self) -> np.ndarray:
        """(Q,) str: every query."""
        return text_of(self.queries)

    @property
    def item_ids(self) -> np.ndarray:
        """(N,) str: the product of each pair."""
        return text_of(self.products)[self.items]

    @cached_property
    def rows(self) -> np.ndarray:
        """(N,) int64: the index of each pair's query."""
        return np.repeat(np.arange(len(self.queries)), self.counts)

    @cached_property
    def ranks(self) -> np.ndarray:
        """(N,) int64: each pair's place in its query, from 1."""
        return np.arange(1, len(self.items) + 1) - np.repeat(self.offsets[:-1], self.counts)

    def of(self, query: str) -> slice:
        """Where the pairs of a query are; an empty slice where it has none."""
        at = int(np.argmax(found)) if (found := self.query_ids == query).any() else -1
        return slice(int(self.offsets[at]), int(self.offsets[at + 1])) if at >= 0 else slice(0, 0)

    def only(self, rows: np.ndarray) -> Self:
        """Some queries, by their indices."""
        if np.array_equal(rows, np.arange(len(self.queries))):
            return self
        offsets = np.append(0, np.cumsum(self.counts[rows]))
        own = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], self.counts[rows])
        return type(self)(
            self.queries.take(arrow_of(rows)), offsets, self.products, self.items[own], self.values[own]
        )

    def split(self) -> Iterator[tuple[slice, Self]]:
        """Some queries after the others, and which they are: what the processor's cache holds."""
        ends = np.searchsorted(self.offsets, np.arange(0, len(self.items), BLOCK // 8))
        for start, end in pairwise(np.unique([*ends.tolist(), len(self.queries)]).tolist()):
            first, last = self.offsets[[start, end]].tolist()
            queries, offsets = self.queries[start:end], self.offsets[start : end + 1] - first
            pairs = (self.items[first:last], self.values[first:last])
            yield slice(start, end), type(self)(queries, offsets, self.products, *pairs)

    def find(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The places of pairs in their queries, from 1; 0 where a pair is not there.

        Args:
            rows: (J,) int64, indices into `queries`.
            items: (J,) int64, indices into `products`, or −1 for a product that is not there.

        Returns:
            (J,) int64.
        """
        keys, bits = self._by_product, self._bits
        highest = (items.astype(keys.dtype) << bits) | ((1 << bits) - 1)
        place, counts = self.offsets[rows], self.counts[rows]
        left = int(counts[0]) if (counts == counts[0]).all() else counts
        for _ in range(bits):  # a binary search of all at once
            half = left >> 1
            place += half * (keys.take(place + half) <= highest)
            left = left - half
        key = keys.take(place)
        return np.where(key >> bits == items, (key & ((1 << bits) - 1)) + 1, 0)

    @cached_property
    def _bits(self) -> int:
        """How many bits hold any place within a query, from 0."""
        return int(self.counts.max() - 1).bit_length()

    @cached_property
    def _by_product(self) -> np.ndarray:
        """(N,) integers: each query's pairs by product, each as product and, in the last bits, place from 0."""
        bits = self._bits
        dtype: type = np.int32 if len(self.products) << bits < 2**31 else np.int64
        found: np.ndarray = np.empty(len(self.items), dtype)

        def sort(block: tuple[int, np.ndarray | slice]) -> None:
            count, cells = block
            keys: np.ndarray = self.items[cells].astype(dtype).reshape(-1, count)
            np.left_shift(keys, bits, out=keys)
            np.bitwise_or(keys, np.arange(count, dtype=dtype), out=keys)
            keys.sort(axis=1)
            found[cells] = keys.ravel()

        side_by_side(sort, equal_rows(self.offsets))
        return found

    @classmethod
    def _from_beir(cls, path: Path) -> Self:
        if cls.VALUE != "grade":
            raise JudgeError(f"{path}: these are judgements of BEIR; give a run here")
        return cls._from_csv(path, _read(path), "\t", BEIR, names=None)

    @classmethod
    def _from_json(cls, path: Path) -> Self:
        try:
            nested = json.loads(_read(path))
        except ValueError as error:
            raise JudgeError(f"{path}: not readable as JSON ({error})") from error
        if not all(isinstance(pairs, dict) for pairs in nested.values()):
            raise JudgeError(f"{path}: expected {{query: {{product: {cls.VALUE}}}}}")
        return cls._from_nested(nested, str(path))

    @classmethod
    def _from_nested(cls, nested: Mapping[Any, Mapping[Any, float]], where: str) -> Self:
        names, codes = _coded(list(nested), f"{where}: query ids")
        codes = np.repeat(codes, np.fromiter(map(len, nested.values()), np.int64, len(nested)))
        queries = codes if names is None else pa.DictionaryArray.from_arrays(codes, names)
        items = list(chain.from_iterable(nested.values()))
        values = list(chain.from_iterable(pairs.values() for pairs in nested.values()))
        return cls._build(queries, items, values, where)

    @classmethod
    def _from_csv(
        cls, path: Path, text: bytes, delimiter: str, columns: Sequence[str], names: Sequence[str] | None
    ) -> Self:
        """Read delimited text whose first row is a header unless `names` says what the columns are."""
        query, item, value = (c for c in columns if c not in ("iteration", "rank", "tag"))
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(text),
                pyarrow.csv.ReadOptions(
                    column_names=names, use_threads=False
                ),  # one thread names the bad row
                pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
                pyarrow.csv.ConvertOptions(
                    column_types={query: pa.string(), item: pa.string(), value: pa.float64()},
                    include_columns=[query, item, value],
                    null_values=[],  # a score of "NA" is an error, not a gap
                ),
            )
        except (pa.ArrowException, KeyError) as error:
            raise JudgeError(
                f"{path}: {str(error).strip()}; expected the columns {', '.join(columns)}"
            ) from error
        return cls._build(table[query], table[item], table[value], str(path))

    @classmethod
    def _build(cls, query_ids: Any, item_ids: Any, values: Any, where: str) -> Self:
        def queries() -> tuple[pa.Array | None, np.ndarray, np.ndarray]:
            names, codes = _coded(query_ids, f"{where}: query ids")
            return names, codes, _heads(codes)

        def products() -> tuple[pa.Array, np.ndarray]:
            return _numbered(*_coded(item_ids, f"{where}: product ids"))

        with ThreadPoolExecutor(1) as beside:
            other = beside.submit(products)
            asked, query, heads = queries()
            named, items = other.result()
        try:
            if isinstance(values, pa.Array | pa.ChunkedArray):
                values = numpy_of(values)
            value = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise JudgeError(f"{where}: {cls.VALUE}s must be numbers ({error})") from error
        if value.ndim != 1:
            raise JudgeError(f"{where}: {cls.VALUE}s of shape {value.shape}; give one number per pair")
        if not len(query) == len(items) == len(value):
            raise JudgeError(
                f"{where}: {len(query)} query ids, {len(items)} product ids and {len(value)} {cls.VALUE}s; "
                "the three must be equally many"
            )
        if not len(value):
            raise JudgeError(f"{where}: no {cls.VALUE}s in it; there is nothing to judge")

        def told(row: int) -> str:
            return f"{where}: query '{_named(asked, query[row])}', product '{named[items[row]]}'"

        if not np.isfinite(value.sum()) and not (finite := np.isfinite(value)).all():
            row = int(np.argmin(finite))
            raise JudgeError(f"{told(row)}: the {cls.VALUE} is {value[row]}; it must be a finite number")
        if not _unique(query[heads]):
            order = np.argsort(query, kind="stable")
            query, items, value = query[order], items[order], value[order]
            heads = _heads(query)
        offsets = np.append(heads, len(value))
        within = cls._order(offsets, named, items, value)
        if within is not None:
            items, value = items[within], value[within]
        names, code = _numbered(asked, query[heads])
        pairs = cls(names.take(arrow_of(code)), offsets, named, items, value)
        if (twice := pairs._twice()) is not None:
            raise JudgeError(f"{told(twice)}: given more than once; keep one")
        return pairs

    def _twice(self) -> int | None:
        """A pair that its query has twice."""
        keys, bits = self._by_product, self._bits

        def first(block: tuple[int, np.ndarray | slice]) -> int | None:
            count, cells = block
            flat = keys[cells]
            apart = (flat[1:] ^ flat[:-1]).min(initial=1 << bits)  # across queries too: many times as fast
            if apart >> bits:
                return None
            rows = flat.reshape(-1, count)
            twice = np.argwhere(rows[:, 1:] >> bits == rows[:, :-1] >> bits)
            if not len(twice):
                return None
            row, at = twice[0]
            return int(np.arange(len(keys))[cells][row * count] + (rows[row, at] & ((1 << bits) - 1)))

        return next((at for at in side_by_side(first, equal_rows(self.offsets)) if at is not None), None)

    @staticmethod
    @abstractmethod
    def _order(
        offsets: np.ndarray, products: pa.Array, items: np.ndarray, values: np.ndarray
    ) -> np.ndarray | None:
        """(N,) int64, how pairs are to be ordered within their queries; None where they are in order."""


class Qrels(_Pairs):
    """Judgements: `values` are grades. The pairs of a query stand together."""

    VALUE = "grade"
    TREC = ("query_id", "iteration", "product_id", "grade")

    @classmethod
    def from_beir(cls, path: Path) -> Self:
        """From a tab-separated qrels file of a BEIR folder, with the header query-id, corpus-id, score.

        Raises:
            JudgeError: an unreadable file or line, another header, or as `from_arrays`.
        """
        return cls._from_beir(path)

    @staticmethod
    def _order(
        offsets: np.ndarray, products: pa.Array, items: np.ndarray, values: np.ndarray
    ) -> np.ndarray | None:
        return None


class Run(_Pairs):
    """Rankings: `values` are scores.

    The pairs of a query stand together, by score descending, then product id ascending.
    """

    VALUE = "score"
    TREC = ("query_id", "iteration", "product_id", "rank", "score", "tag")

    @classmethod
    def batches(cls, path: Path) -> Iterator[Self]:
        """As `from_file`; but parquet that memory may not hold comes as several runs, some queries after the others.

        There, more than `BATCH` pairs, those of a query must stand together.

        Raises:
            JudgeError: as for `from_file`, or a query whose pairs do not fit.
        """
        if (
            path.is_dir()
            or not _read(path, 4).startswith(PARQUET)
            or pq.read_metadata(path).num_rows <= BATCH
        ):
            yield cls.from_file(path)
            return
        kept: list[pa.RecordBatch] = []
        for batch in read_batches(path, ["query_id", "product_id", cls.VALUE]):
            kept.append(batch)
            if sum(map(len, kept)) <= BATCH:
                continue
            table = pa.Table.from_batches(kept)
            if not (end := int(_heads(_coded(table["query_id"], f"{path}: query ids")[1])[-1])):
                raise JudgeError(
                    f"{path}: query '{table['query_id'][0]}' has more than {BATCH:,} products; give fewer"
                )
            yield cls.from_table(table[:end], str(path))
            kept = table[end:].to_batches()
        yield cls.from_table(pa.Table.from_batches(kept), str(path))

    @staticmethod
    def _order(
        offsets: np.ndarray, products: pa.Array, items: np.ndarray, values: np.ndarray
    ) -> np.ndarray | None:
        falls = values[1:] < values[:-1]
        falls[offsets[1:-1] - 1] = True
        if falls.all():
            return None
        place, rest = alphabet(products), np.flatnonzero(~falls)
        if ((values[rest] == values[rest + 1]) & (place[items[rest]] < place[items[rest + 1]])).all():
            return None
        order = np.arange(len(values))
        for count, cells in equal_rows(offsets):
            rows = order[cells].reshape(-1, count)
            within = np.lexsort((place[items[rows]], -values[rows]), axis=1)
            order[cells] = np.take_along_axis(rows, within, 1).ravel()
        return order


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file, or those of its columns that it has; text as dictionaries.

    Raises:
        JudgeError: where it cannot be read.
    """
    with _reading(path):
        schema = pq.read_schema(path) if path.is_file() else pq.ParquetDataset(path).schema
        names, text = _chosen(schema, columns)

        def read(name: str) -> pa.ChunkedArray:
            return pq.read_table(path, columns=[name], read_dictionary=text, use_threads=False)[name]

        return pa.table(dict(zip(names, side_by_side(read, names), strict=True)))


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The same of one file, some rows after the others; errors as there."""
    with _reading(path):
        names, text = _chosen(pq.read_schema(path), columns)
        yield from pq.ParquetFile(path, read_dictionary=text, pre_buffer=False).iter_batches(
            BATCH, columns=names
        )


def _chosen(schema: pa.Schema, columns: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The columns to read, and those of them that hold text."""
    have = [field for field in schema if columns is None or field.name in columns]
    return [field.name for field in have], [field.name for field in have if _is_text(field.type)]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise JudgeError(f"{path}: not a readable parquet file ({error}); write it again") from error


def _read(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise JudgeError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _coded(ids: Any, where: str) -> tuple[pa.Array | None, np.ndarray]:
    """Ids of (N,) pairs as unique text (V,) and an index into it for each; integers as they are, with None."""
    try:
        column = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise JudgeError(f"{where}: must be all text or all integers ({error})") from error
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not len(column):
        return None, np.empty(0, np.int64)
    if pa.types.is_dictionary(column.type) and (
        pa.types.is_integer(column.type.value_type)
        or column.dictionary.null_count
        or len(column.dictionary.unique()) < len(column.dictionary)
    ):
        column = column.dictionary_decode()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or _is_text(kind)):
        raise JudgeError(f"{where}: must be all text or all integers, not {column.type}")
    if column.null_count:
        raise JudgeError(f"{where}: row {column.is_null().index(True).as_py()} has none; give every row one")
    if pa.types.is_integer(kind):
        return None, numpy_of(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    names = column.dictionary.cast(pa.string())
    if not numpy_of(pc.binary_length(names)).all() or pc.ends_with(names, "\0").true_count:
        bad = next(name for name in names.to_pylist() if not name or name.endswith("\0"))
        raise JudgeError(f"{where}: {bad!r} is not an id; ids are not empty and do not end in NUL")
    return names, numpy_of(column.indices)


def _numbered(names: pa.Array | None, codes: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """What `_coded` says, with integers as unique ids (V,), maybe more than are named, and an index into them."""
    if names is not None or not len(codes):
        return names, codes
    low, high = pc.min_max(arrow_of(codes)).as_py().values()
    if low >= 0 and high <= SPREAD * len(codes):
        return arrow_of(np.arange(high + 1)), codes
    known, index = np.unique(codes, return_inverse=True)
    return arrow_of(known), index


def _named(names: pa.Array | None, code: int) -> str:
    return str(code if names is None else names[code])


def _heads(query: np.ndarray) -> np.ndarray:
    """Where another query begins than the one before."""
    return np.append(0, 1 + np.flatnonzero(query[1:] != query[:-1]))


def _unique(numbers: np.ndarray) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all()) or len(np.unique(numbers)) == len(numbers)
