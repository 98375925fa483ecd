"""Arrays of ids and numbers: convert between NumPy and Arrow without copying, and work in blocks that fit the cache."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitrine_judge.errors import JudgeError

WIDEST = 256  # characters of an id in an array of fixed width
BLOCK = 1 << 19  # numbers per block; a block fits the processor's cache

_Block = TypeVar("_Block")
_Result = TypeVar("_Result")


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Numbers as NumPy, without copying. Arrow's own `to_numpy` imports pandas where it is installed."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        column = column.cast(pa.float64()).fill_null(float("nan"))
    return np.from_dlpack(column) if len(column) else np.empty(0, column.type.to_pandas_dtype())


def to_arrow(numbers: np.ndarray) -> pa.Array:
    """Integers as Arrow, without copying. `pa.array` imports pandas where it is installed."""
    flat = np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def to_text(ids: pa.Array) -> np.ndarray:
    """Ids as NumPy text; as objects if any is longer than `WIDEST`, since each would take the space of the longest."""
    text = ids.cast(pa.string())
    first, sizes = np.frombuffer(text.buffers()[1], np.int32)[text.offset], to_numpy(pc.binary_length(text))
    width, size = int(sizes.max(initial=1)), int(sizes.sum())
    if width > WIDEST:
        return np.array(text.to_pylist(), object)
    letters = np.frombuffer(text.buffers()[2] or b"", np.uint8)[first : first + size]
    if (letters > 127).any():
        return np.array(text.to_pylist(), str)
    characters = np.zeros((len(sizes), width), np.uint32)
    characters[np.arange(width) < sizes[:, None]] = letters
    return characters.view(f"U{width}").ravel()


def refuse_masked(values: Any, where: str) -> None:
    """Raise JudgeError for a NumPy array with masked entries, which NumPy would take for valid ones."""
    is_subclass = isinstance(values, np.ndarray) and type(values) is not np.ndarray
    if is_subclass and np.ma.is_masked(values):  # only here: `np.ma` takes time to import
        row = int(np.flatnonzero(np.ma.getmaskarray(values))[0])
        raise JudgeError(f"{where}: row {row} is masked; remove masked rows")


def text_order(ids: pa.Array) -> np.ndarray:
    """(V,) indices that sort the ids as text."""
    return to_numpy(pc.sort_indices(ids.cast(pa.string())))


def text_ranks(ids: pa.Array) -> np.ndarray:
    """(V,) int64: the position of each id when all are sorted as text."""
    ranks = np.empty(len(ids), np.int64)
    ranks[text_order(ids)] = np.arange(len(ids))
    return ranks


def locate(needles: pa.Array, haystack: pa.Array) -> np.ndarray:
    """Index of each id in a unique `haystack`, −1 where it is missing: int64."""
    if needles.type != haystack.type:
        needles, haystack = needles.cast(pa.string()), haystack.cast(pa.string())
    if len(haystack) <= 2 * len(needles):
        return _index_in(needles, haystack)
    # The smaller side as hash table: several times as fast.
    encoded = needles.dictionary_encode()
    rows = _index_in(haystack, encoded.dictionary)
    places = np.flatnonzero(rows >= 0)
    located = np.full(len(encoded.dictionary), -1)
    located[rows[places]] = places
    return located[to_numpy(encoded.indices)]


def _index_in(needles: pa.Array, haystack: pa.Array) -> np.ndarray:
    indices = pc.index_in(needles, haystack)
    is_present = to_numpy(indices.is_valid().cast(pa.uint8())).view(bool)
    return np.where(is_present, np.frombuffer(indices.buffers()[1], np.int32, len(indices)), np.int64(-1))


def equal_count_blocks(offsets: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """Blocks of queries with equally many pairs: the pairs per query, and the positions of all their pairs.

    Values at these positions have shape (n · count,); reshape them to (n, count). This is much faster than a loop over
    queries, and a block fits the processor's cache.
    """
    counts = np.diff(offsets)
    if (counts == counts[0]).all():
        size = _block_size(int(counts[0]))
        for start in range(0, int(offsets[-1]), size):
            yield int(counts[0]), slice(start, start + size)
        return
    order = np.argsort(counts, kind="stable")
    for rows in np.split(order, 1 + np.flatnonzero(np.diff(counts[order]))):
        count = int(counts[rows[0]])
        cells = (offsets[rows, None] + np.arange(count)).ravel()
        for start in range(0, len(cells), _block_size(count)):
            yield count, cells[start : start + _block_size(count)]


def _block_size(count: int) -> int:
    """About `BLOCK`, as a multiple of `count`."""
    return max(1, BLOCK // count) * count


def map_parallel(function: Callable[[_Block], _Result], blocks: Iterable[_Block]) -> list[_Result]:
    """The function of each block, in as many threads as pyarrow has: NumPy releases the interpreter lock."""
    block_list = list(blocks)
    if len(block_list) == 1:
        return [function(block_list[0])]
    from concurrent.futures import ThreadPoolExecutor  # takes time, and small inputs do not need it

    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        return list(pool.map(function, block_list))
