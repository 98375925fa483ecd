"""Arrays of ids and numbers: between NumPy and Arrow without copying; in blocks that the processor's cache holds."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK = 1 << 19  # numbers worked on at a time: what the processor's cache holds

_Block = TypeVar("_Block")
_Made = TypeVar("_Made")


def numpy_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Numbers without copying them, and without importing pandas, which `to_numpy` does where there is one."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        column = column.cast(pa.float64()).fill_null(float("nan"))
    return np.from_dlpack(column) if len(column) else np.empty(0, column.type.to_pandas_dtype())


def arrow_of(numbers: np.ndarray) -> pa.Array:
    """Integers without copying them, and without importing pandas, which `pa.array` does where there is one."""
    flat = np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def text_of(ids: pa.Array) -> np.ndarray:
    """Ids as NumPy text."""
    text = ids.cast(pa.string())
    first, sizes = np.frombuffer(text.buffers()[1], np.int32)[text.offset], numpy_of(pc.binary_length(text))
    wide, size = int(sizes.max(initial=1)), int(sizes.sum())
    letters = np.frombuffer(text.buffers()[2] or b"", np.uint8)[first : first + size]
    if (letters > 127).any():
        return np.array(text.to_pylist(), str)
    found = np.zeros((len(sizes), wide), np.uint32)
    found[np.arange(wide) < sizes[:, None]] = letters
    return found.view(f"U{wide}").ravel()


def alphabetical(ids: pa.Array) -> np.ndarray:
    """(V,) indices of ids in the order of their text."""
    return numpy_of(pc.sort_indices(ids.cast(pa.string())))


def alphabet(ids: pa.Array) -> np.ndarray:
    """(V,) int64: the place of each id among all in the order of their text."""
    place = np.empty(len(ids), np.int64)
    place[alphabetical(ids)] = np.arange(len(ids))
    return place


def locate(needles: pa.Array, haystack: pa.Array) -> np.ndarray:
    """Index of each id in a unique `haystack`, −1 where it is not there: int64."""
    if needles.type != haystack.type:
        needles, haystack = needles.cast(pa.string()), haystack.cast(pa.string())
    found = pc.index_in(needles, haystack)
    there = numpy_of(found.is_valid().cast(pa.uint8())).view(bool)
    return np.where(there, np.frombuffer(found.buffers()[1], np.int32, len(found)), np.int64(-1))


def equal_rows(offsets: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """Blocks of queries with equally many pairs: so many as each has, and where all their pairs are.

    What is taken from there is (n · count,), to be looked at as (n, count): much faster than query by query, and not
    more at a time than the processor's cache holds.
    """
    counts = np.diff(offsets)
    if (counts == counts[0]).all():
        size = _whole(int(counts[0]))
        for start in range(0, int(offsets[-1]), size):
            yield int(counts[0]), slice(start, start + size)
        return
    order = np.argsort(counts, kind="stable")
    for rows in np.split(order, 1 + np.flatnonzero(np.diff(counts[order]))):
        count = int(counts[rows[0]])
        cells = (offsets[rows, None] + np.arange(count)).ravel()
        for start in range(0, len(cells), _whole(count)):
            yield count, cells[start : start + _whole(count)]


def _whole(count: int) -> int:
    """About `BLOCK`, in whole rows of `count`."""
    return max(1, BLOCK // count) * count


def side_by_side(work: Callable[[_Block], _Made], blocks: Iterable[_Block]) -> list[_Made]:
    """What comes of each block, on all cores: NumPy lets go of the interpreter while it works."""
    several = list(blocks)
    if len(several) == 1:
        return [work(several[0])]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(work, several))
