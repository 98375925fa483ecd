"""Judgements and runs: flat arrays inside; TREC, BEIR, parquet and dicts outside.

Ids are text; see `vitrine_judge.id_codes`. They are sorted by code points, so "10" comes before "9".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa

from vitrine_judge import ranking_files
from vitrine_judge.arrays import (
    BLOCK,
    locate,
    map_parallel,
    refuse_masked,
    text_ranks,
    to_arrow,
    to_numpy,
    to_text,
)
from vitrine_judge.errors import JudgeError
from vitrine_judge.id_codes import encode_ids, id_text, list_names, number_ids
from vitrine_judge.layouts import JUDGEMENTS, RUN, FileLayout, PairColumns
from vitrine_judge.pair_index import PairIndex, value_order


@dataclass(frozen=True, eq=False)
class Pairs:
    """(query, product) → number, for Q queries and N pairs, with V products.

    The pairs of query `i` are `offsets[i]:offsets[i + 1]`. Queries without pairs are left out.

    Attributes:
        queries: (Q,) Arrow text or integers, unique, in any order.
        offsets: (Q + 1,) int64.
        products: (V,) Arrow text or integers, in any order: all products of the pairs, and maybe others.
        product_index: (N,) integers, indices into `products`.
        values: (N,) float64, finite.
        is_coded: Whether `products` are unique. To find the unique ones of many takes half of the time of scoring.
    """

    queries: pa.Array
    offsets: np.ndarray
    products: pa.Array
    product_index: np.ndarray
    values: np.ndarray
    is_coded: bool = True

    LAYOUT: ClassVar[FileLayout]
    SORTED: ClassVar[bool]  # whether the pairs of a query are sorted by value

    @classmethod
    def from_arrays(cls, query_ids: Any, product_ids: Any, values: Any) -> Self:
        """From three columns of equal length, in any order: lists, NumPy or Arrow arrays.

        Raises:
            JudgeError: empty, unequal lengths, ids that are neither text nor integers, a duplicate pair, or a value
                that is not finite.
        """
        return cls._build(PairColumns(query_ids, product_ids, values), f"{cls.__name__} from arrays")

    @classmethod
    def from_dict(cls, nested: Mapping[Any, Mapping[Any, float]]) -> Self:
        """From {query: {product: value}}; raises as `from_arrays`."""
        where = f"{cls.__name__} from a dict"
        return cls._build(ranking_files.columns_of_nested(nested, where), where, has_duplicates=False)

    @classmethod
    def from_pandas(cls, frame: Any) -> Self:
        """From a data frame with the columns of `from_parquet`; raises as `from_table`."""
        return cls.from_table(pa.Table.from_pandas(frame, preserve_index=False), "data frame")

    @classmethod
    def from_table(cls, table: pa.Table, where: str = "table") -> Self:
        """From an Arrow table with the columns of `from_parquet`; `where` names it in errors.

        Raises:
            JudgeError: a missing column, or as `from_arrays`.
        """
        return cls._build(ranking_files.columns_of_table(table, cls.LAYOUT, where), where)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """From a file of any format: parquet, TREC, BEIR judgements, or {query: {product: value}} as JSON.

        A folder is a BEIR data set, of which the test judgements are read, or holds parquet files.

        Raises:
            JudgeError: as the reader of that format.
        """
        return cls._build(ranking_files.read_pairs(path, cls.LAYOUT), str(path))

    @classmethod
    def from_trec(cls, path: Path) -> Self:
        """From a TREC file: "query 0 product grade" or "query Q0 product rank score tag", separated by blanks.

        The rank is not read: only scores order a run.

        Raises:
            JudgeError: an unreadable file or line, or as `from_arrays`.
        """
        return cls._build(ranking_files.read_trec(path, cls.LAYOUT), str(path))

    @classmethod
    def from_parquet(cls, path: Path) -> Self:
        """From a file with the columns query_id, product_id and grade (judgements) or score (run).

        Raises:
            JudgeError: an unreadable file, a missing column, or as `from_arrays`.
        """
        return cls._build(ranking_files.read_parquet(path, cls.LAYOUT), str(path))

    @classmethod
    def require(cls, value: Any) -> Self:
        """The value itself.

        Raises:
            JudgeError: another type.
        """
        if not isinstance(value, cls):
            readers = {dict: "from_dict", str: "from_file", pa.Table: "from_table"}
            reader = readers.get(type(value), "from_dict, from_arrays or from_file")
            raise JudgeError(
                f"expected {cls.__name__}, not {type(value).__name__}; use {cls.__name__}.{reader}"
            )
        return value

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{query: {product: value}}, in the order of the pairs."""
        product_ids, values = self.product_ids.tolist(), self.values.tolist()
        bounds = pairwise(self.offsets.tolist())
        return {
            query: dict(zip(product_ids[start:end], values[start:end], strict=True))
            for query, (start, end) in zip(self.query_ids.tolist(), bounds, strict=True)
        }

    def to_parquet(self, path: Path) -> None:
        """Write what `from_parquet` reads."""
        query_ids, product_ids = (
            pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), names.cast(pa.string()))
            for index, names in ((self.query_index, self.queries), (self.product_index, self.products))
        )
        ranking_files.write_parquet(path, self.LAYOUT, query_ids, product_ids, self.values)

    def to_trec(self, path: Path) -> None:
        """Write what `from_trec` reads; numbers keep all digits.

        Raises:
            JudgeError: an id that holds a blank, which the format cannot express.
        """
        query_ids = self.query_ids[self.query_index].tolist()
        columns = PairColumns(query_ids, self.product_ids.tolist(), self.values.tolist())
        ranking_files.write_trec(path, self.LAYOUT, columns, self.ranks.tolist())

    @cached_property
    def counts(self) -> np.ndarray:
        """(Q,) int64: the number of pairs of each query."""
        return np.diff(self.offsets)

    @cached_property
    def query_ids(self) -> np.ndarray:
        """(Q,) str: the id of each query."""
        return to_text(self.queries)

    @property
    def product_ids(self) -> np.ndarray:
        """(N,) str: the product of each pair."""
        return to_text(self.products)[self.product_index]

    @cached_property
    def query_index(self) -> np.ndarray:
        """(N,) int64: the query of each pair, an index into `queries`."""
        return np.repeat(np.arange(len(self.queries)), self.counts)

    @cached_property
    def ranks(self) -> np.ndarray:
        """(N,) int64: the position of each pair in its query, from 1."""
        return np.arange(1, len(self.values) + 1) - np.repeat(self.offsets[:-1], self.counts)

    @cached_property
    def _index(self) -> PairIndex:
        return PairIndex(self.offsets, self.product_index, len(self.products))

    def index_products(self, products: pa.Array) -> tuple[PairIndex, np.ndarray]:
        """An index of the pairs, to find the ranks of (V,) unique products, and their numbers there, (V,) int64."""
        if self.is_coded:
            return self._index, locate(products, self.products)
        codes = locate(self.products, products)[self.product_index]
        return PairIndex(self.offsets, codes, len(products)), np.arange(len(products))

    def pairs_of(self, query_id: str) -> slice:
        """The positions of a query's pairs; an empty slice for an unknown query."""
        matches = np.flatnonzero(self.query_ids == query_id)
        if not len(matches):
            return slice(0, 0)
        row = int(matches[0])
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def select(self, rows: np.ndarray) -> Self:
        """Only some queries, given as (n,) indices into `queries`."""
        if np.array_equal(rows, np.arange(len(self.queries))):
            return self
        counts = self.counts[rows]
        offsets = np.append(0, np.cumsum(counts))
        pairs = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        queries = self.queries.take(to_arrow(rows))
        columns = (self.product_index[pairs], self.values[pairs])
        return type(self)(queries, offsets, self.products, *columns, self.is_coded)

    def split(self) -> Iterator[tuple[slice, Self]]:
        """Parts of some queries each that fit the processor's cache, with the positions of their queries."""
        ends = np.searchsorted(self.offsets, np.arange(0, len(self.values), BLOCK // 8))
        for start, end in pairwise(dict.fromkeys([*ends.tolist(), len(self.queries)])):  # ascending
            first, last = self.offsets[[start, end]].tolist()
            queries, offsets = self.queries[start:end], self.offsets[start : end + 1] - first
            columns = (self.product_index[first:last], self.values[first:last])
            yield slice(start, end), type(self)(queries, offsets, self.products, *columns, self.is_coded)

    @classmethod
    def _build(cls, columns: PairColumns, where: str, has_duplicates: bool = True) -> Self:
        """Check N pairs in any order and group them by query.

        Args:
            columns: The pairs.
            where: Names their source in errors.
            has_duplicates: Whether a query may hold a product twice, which is an error.
        """
        coded = _encode_columns(columns, cls.LAYOUT.value, where, has_duplicates or not cls.SORTED)
        _check_finite(coded, cls.LAYOUT.value, where)
        coded = _group_by_query(coded)
        offsets = np.append(coded.starts, len(coded.values))
        if cls.SORTED:
            coded = _sort_by_value(coded, offsets)
        names, rows = number_ids(coded.query_names, coded.query_codes[coded.starts])
        queries = names.take(to_arrow(rows))
        pairs = cls(queries, offsets, coded.products, coded.product_index, coded.values, coded.is_coded)
        if has_duplicates and (duplicate := pairs._index.find_duplicate()) is not None:
            raise JudgeError(f"{coded.describe(duplicate, where)}: duplicate pair; remove one of them")
        return pairs


class Qrels(Pairs):
    """Judgements: `values` are grades. The pairs of a query are contiguous."""

    LAYOUT = JUDGEMENTS
    SORTED = False

    @classmethod
    def from_beir(cls, path: Path) -> Self:
        """From a tab-separated qrels file of a BEIR folder, with the header query-id, corpus-id, score.

        Raises:
            JudgeError: an unreadable file or line, another header, or as `from_arrays`.
        """
        return cls._build(ranking_files.read_beir(path, cls.LAYOUT), str(path))


class Run(Pairs):
    """Rankings: `values` are scores.

    The pairs of a query are contiguous, sorted by score descending, then product id ascending.
    """

    LAYOUT = RUN
    SORTED = True

    @classmethod
    def batches(cls, path: Path) -> Iterator[Self]:
        """As `from_file`, but parquet files that may not fit into memory give several runs of some queries each.

        In files of more than `vitrine_judge.ranking_files.BATCH` pairs, those of a query must be contiguous.

        Raises:
            JudgeError: as for `from_file`, or a query whose pairs do not fit.
        """
        if not ranking_files.is_large_parquet(path):
            yield cls.from_file(path)
            return
        for columns in ranking_files.read_query_batches(path, cls.LAYOUT):
            yield cls._build(columns, str(path))


def as_runs(run: Run | Iterable[Run]) -> Iterator[Run]:
    """A run, or runs of some queries each, such as `Run.batches`.

    Raises:
        JudgeError: anything else.
    """
    is_data = isinstance(run, str | bytes | Mapping) or not isinstance(run, Iterable)
    parts: Any = [run] if is_data else run
    return map(Run.require, parts)


class _CodedPairs(NamedTuple):
    """N pairs with integers for ids.

    Attributes:
        query_names, query_codes: As `encode_ids` returns them; codes are (N,).
        starts: Where the query differs from that of the pair before, and 0.
        products, product_index, values, is_coded: As in `Pairs`.
    """

    query_names: pa.Array | None
    query_codes: np.ndarray
    starts: np.ndarray
    products: pa.Array
    product_index: np.ndarray
    values: np.ndarray
    is_coded: bool

    def take(self, order: np.ndarray) -> "_CodedPairs":
        """The pairs in another order, within their queries."""
        return self._replace(product_index=self.product_index[order], values=self.values[order])

    def describe(self, row: int, where: str) -> str:
        """A pair, for messages."""
        query = id_text(self.query_names, self.query_codes[row])
        return f"{where}: query '{query}', product '{self.products[self.product_index[row]]}'"


def _encode_columns(columns: PairColumns, value_name: str, where: str, code_products: bool) -> _CodedPairs:
    """Encode the ids; unless `code_products`, text ids of products stay as they are."""
    _check_lengths(columns, value_name, where)

    def encode_queries() -> tuple[pa.Array | None, np.ndarray]:
        return encode_ids(columns.query_ids, f"{where}: query ids")

    def encode_products() -> tuple[pa.Array, np.ndarray, bool]:
        source = f"{where}: product ids"
        names = None if code_products else list_names(columns.product_ids, source)
        if names is None:
            return *number_ids(*encode_ids(columns.product_ids, source)), True
        return names, np.arange(len(names)), False

    def encode_values() -> np.ndarray:
        return _to_values(columns, value_name, where)

    encoders: list[Callable[[], Any]] = [encode_queries, encode_products, encode_values]
    call_all = map_parallel if len(columns.values) > BLOCK // 4 else map
    (query_names, query_codes), (products, product_index, is_coded), values = call_all(
        lambda encode: encode(), encoders
    )
    starts = _query_starts(query_codes)
    return _CodedPairs(query_names, query_codes, starts, products, product_index, values, is_coded)


def _check_lengths(columns: PairColumns, value_name: str, where: str) -> None:
    try:
        queries, products, values = map(len, columns)
    except TypeError as error:
        raise JudgeError(f"{where}: expected three columns of equal length ({error})") from error
    if not queries == products == values:
        raise JudgeError(
            f"{where}: {queries} query ids, {products} product ids and {values} {value_name}s; the three must have the "
            "same length"
        )
    if not values:
        raise JudgeError(f"{where}: holds no {value_name}s; there is nothing to judge")


def _to_values(columns: PairColumns, value_name: str, where: str) -> np.ndarray:
    """Numbers as (N,) float64."""
    values = columns.values
    refuse_masked(values, f"{where}: {value_name}s")
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _arrow_numbers(values, f"{where}: {value_name}s")
    try:
        numbers = np.asarray(values)
    except ValueError as error:
        raise JudgeError(f"{where}: {value_name}s must be numbers ({error})") from error
    if numbers.ndim != 1:
        raise JudgeError(f"{where}: {value_name}s of shape {numbers.shape}; give one number per pair")
    if numbers.dtype.kind not in "biuf":
        for row, value in enumerate(values):
            if not _is_number(value):
                pair = f"query '{columns.query_ids[row]}', product '{columns.product_ids[row]}'"
                raise JudgeError(f"{where}: {pair}: the {value_name} {value!r} is not a number")
    return numbers.astype(np.float64, copy=False)


def _is_number(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _arrow_numbers(values: pa.Array | pa.ChunkedArray, where: str) -> np.ndarray:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    types = pa.types
    if not any(
        is_kind(kind) for is_kind in (types.is_floating, types.is_integer, types.is_decimal, types.is_boolean)
    ):
        raise JudgeError(f"{where} must be numbers, not {kind}")
    return to_numpy(values.cast(pa.float64(), safe=False))


def _check_finite(pairs: _CodedPairs, value_name: str, where: str) -> None:
    if np.isfinite(pairs.values.sum()) or (is_finite := np.isfinite(pairs.values)).all():
        return
    row = int(np.argmin(is_finite))
    raise JudgeError(
        f"{pairs.describe(row, where)}: the {value_name} is {pairs.values[row]}; it must be a finite number"
    )


def _group_by_query(pairs: _CodedPairs) -> _CodedPairs:
    """The pairs with those of each query contiguous; unchanged where they already are."""
    codes = pairs.query_codes[pairs.starts]
    if (codes[1:] > codes[:-1]).all() or len(np.unique(codes)) == len(codes):
        return pairs
    order = np.argsort(pairs.query_codes, kind="stable")
    query_codes = pairs.query_codes[order]
    return pairs._replace(
        query_codes=query_codes,
        starts=_query_starts(query_codes),
        product_index=pairs.product_index[order],
        values=pairs.values[order],
    )


def _sort_by_value(pairs: _CodedPairs, offsets: np.ndarray) -> _CodedPairs:
    """The pairs of each query by value descending, then product id ascending."""
    is_start = np.zeros(len(pairs.values), bool)
    is_start[offsets[:-1]] = True
    if not (is_start[1:] | (pairs.values[1:] <= pairs.values[:-1])).all():
        pairs = pairs.take(value_order(offsets, pairs.values))
    is_tie = ~is_start[1:] & (pairs.values[1:] == pairs.values[:-1])
    return pairs.take(_tie_order(pairs, is_tie)) if is_tie.any() else pairs


def _tie_order(pairs: _CodedPairs, is_tie: np.ndarray) -> np.ndarray:
    """(N,) int64: the order of pairs in which those of equal values are by product id.

    Args:
        pairs: In the order of their values.
        is_tie: bool (N − 1,), whether the value of a pair is that of the next.
    """
    order = np.arange(len(pairs.values))
    members = np.flatnonzero(np.append(is_tie, False) | np.append(False, is_tie))
    names = pairs.products.cast(pa.string()).take(to_arrow(pairs.product_index[members])).dictionary_encode()
    groups = np.append(0, np.cumsum(~is_tie))[members]
    keys = groups * len(names.dictionary) + text_ranks(names.dictionary)[to_numpy(names.indices)]
    order[members] = members[np.argsort(keys)]
    return order


def _query_starts(query_codes: np.ndarray) -> np.ndarray:
    """The positions at which the query differs from that of the pair before, and 0."""
    return np.append(0, 1 + np.flatnonzero(query_codes[1:] != query_codes[:-1]))
