"""Ids of queries and products as integer codes into their unique names.

Ids are text. Integers become their decimal digits: 7 in an array and "7" in a file are the same product; "07" is
another one. Integers stay integers as long as possible, which is faster.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitrine_judge.arrays import refuse_masked, to_arrow, to_numpy
from vitrine_judge.errors import JudgeError

SPREAD = 4  # integers are their own codes where the highest is at most SPREAD times their number


def encode_ids(ids: Any, where: str) -> tuple[pa.Array | None, np.ndarray]:
    """Encode the ids of N pairs.

    Args:
        ids: (N,) text or integers: a list, a NumPy array or an Arrow array.
        where: Names the column in errors.

    Returns:
        The unique names (V,) and the index of each id's name (N,); for integers None and the integers.

    Raises:
        JudgeError: ids that are neither all text nor all integers, missing, empty, or with a NUL at their end; or
            unique ids of more than 2 GiB together.
    """
    column = _to_column(ids, where)
    if not len(column):
        return None, np.empty(0, np.int64)
    _check_present(column, where)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise JudgeError(f"{where}: must be all text or all integers, not {column.type}")
    try:
        names, codes = _encode(column, where)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        message = f"{where}: too long ({reason}); all unique ids together may have 2 GiB, give shorter ids"
        raise JudgeError(message) from error
    if names is not None:
        _check_names(names, where)
    return names, codes


def list_names(ids: Any, where: str) -> pa.Array | None:
    """The ids of N pairs as (N,) Arrow text; None for integers, and for more than 2 GiB of text.

    Raises:
        JudgeError: as `encode_ids`.
    """
    column = _to_column(ids, where)
    _check_present(column, where)
    if not isinstance(column, pa.Array) or not pa.types.is_string(column.type):
        return None
    _check_names(column, where)
    return column


def number_ids(names: pa.Array | None, codes: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Give integer ids names, too: the unique ids (V,), maybe with unused ones, and the index of each (N,).

    Args:
        names, codes: What `encode_ids` returns.
    """
    if names is not None or not len(codes):
        return names, codes
    low, high = pc.min_max(to_arrow(codes)).as_py().values()
    if low >= 0 and high <= SPREAD * len(codes):
        return to_arrow(np.arange(high + 1)), codes
    unique, index = np.unique(codes, return_inverse=True)
    return to_arrow(unique), index


def id_text(names: pa.Array | None, code: int) -> str:
    """An id as text, for messages."""
    return str(code if names is None else names[code])


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _to_column(ids: Any, where: str) -> pa.Array | pa.ChunkedArray:
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return ids
    if isinstance(ids, str | bytes | Mapping):
        raise JudgeError(
            f"{where}: expected a column of ids, not {type(ids).__name__}; use from_file or from_dict"
        )
    refuse_masked(ids, where)
    try:
        return pa.array(ids)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise JudgeError(f"{where}: must be all text or all integers ({error})") from error


def _check_present(column: pa.Array | pa.ChunkedArray, where: str) -> None:
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise JudgeError(f"{where}: row {row} has no id; give every row an id")


def _encode(column: pa.Array | pa.ChunkedArray, where: str) -> tuple[pa.Array | None, np.ndarray]:
    """As `encode_ids`, for columns that are not empty."""
    if pa.types.is_dictionary(column.type):
        column = _combine(column)
        if not _is_usable_dictionary(column):
            column = column.dictionary_decode()
    _check_present(column, where)
    if pa.types.is_integer(column.type):
        return None, to_numpy(column)
    if not pa.types.is_dictionary(column.type):
        column = _combine(
            column.dictionary_encode()
        )  # chunks one by one: together they may hold too much text
    return column.dictionary.cast(pa.string()), to_numpy(column.indices)


def _combine(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _is_usable_dictionary(column: pa.Array) -> bool:
    """Whether a dictionary column has unique text names, which can be used as they are."""
    names = column.dictionary
    return not (
        pa.types.is_integer(column.type.value_type) or names.null_count or len(names.unique()) < len(names)
    )


def _check_names(names: pa.Array, where: str) -> None:
    if not to_numpy(pc.binary_length(names)).all() or pc.ends_with(names, "\0").true_count:
        bad = next(name for name in names.to_pylist() if not name or name.endswith("\0"))
        raise JudgeError(f"{where}: {bad!r} is not an id; ids are not empty and do not end in NUL")
