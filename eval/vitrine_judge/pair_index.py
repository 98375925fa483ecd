"""An index of (query, product) pairs: find the position of many products in their queries at once."""

import numpy as np

from vitrine_judge.arrays import equal_count_blocks, map_parallel


class PairIndex:
    """The pairs of each query, sorted by product.

    Each pair is one integer key: the product in the high bits, its position in its query (from 0) in the low `bits`.

    Attributes:
        offsets: (Q + 1,) int64; the pairs of query `i` are `offsets[i]:offsets[i + 1]`.
        counts: (Q,) int64, the pairs of each query.
        bits: How many bits hold any position.
        keys: (N,) integers, ascending within each query.
    """

    def __init__(self, offsets: np.ndarray, product_index: np.ndarray, products: int) -> None:
        """Sort the pairs.

        Args:
            offsets: As in the attributes.
            product_index: (N,) integers from 0 to `products` − 1, unique within a query or not.
            products: The number of products.
        """
        self.offsets = offsets
        self.counts = np.diff(offsets)
        self.bits = int(self.counts.max() - 1).bit_length()
        self.keys = self._sort_keys(product_index, products)

    def find_ranks(self, query_index: np.ndarray, product_index: np.ndarray) -> np.ndarray:
        """The rank of pairs in their queries, from 1; 0 where a pair is missing.

        Args:
            query_index: (J,) int64, the query of each pair.
            product_index: (J,) int64, the product of each pair, or −1 for an unknown product.

        Returns:
            (J,) int64.
        """
        keys, bits = self.keys, self.bits
        highest = (product_index.astype(keys.dtype) << bits) | self._position_mask
        place, counts = self.offsets[query_index], self.counts[query_index]
        left = int(counts[0]) if (counts == counts[0]).all() else counts
        for _ in range(bits):  # a binary search for all pairs at once
            half = left >> 1
            place += half * (keys.take(place + half) <= highest)
            left = left - half
        key = keys.take(place)
        return np.where(key >> bits == product_index, (key & self._position_mask) + 1, 0)

    def find_duplicate(self) -> int | None:
        """The position (from 0, among all pairs) of a pair that its query holds twice; None where there is none."""
        positions = map_parallel(self._find_duplicate_in, equal_count_blocks(self.offsets))
        return next((position for position in positions if position is not None), None)

    @property
    def _position_mask(self) -> int:
        return (1 << self.bits) - 1

    def _sort_keys(self, product_index: np.ndarray, products: int) -> np.ndarray:
        dtype: type = np.int32 if products << self.bits < 2**31 else np.int64
        sorted_keys: np.ndarray = np.empty(len(product_index), dtype)

        def sort_block(block: tuple[int, np.ndarray | slice]) -> None:
            count, cells = block
            keys: np.ndarray = product_index[cells].astype(dtype).reshape(-1, count)
            np.left_shift(keys, self.bits, out=keys)
            np.bitwise_or(keys, np.arange(count, dtype=dtype), out=keys)
            keys.sort(axis=1)
            sorted_keys[cells] = keys.ravel()

        map_parallel(sort_block, equal_count_blocks(self.offsets))
        return sorted_keys

    def _find_duplicate_in(self, block: tuple[int, np.ndarray | slice]) -> int | None:
        count, cells = block
        keys = self.keys[cells]
        # Also compares the last key of a query with the first of the next: many times as fast as query by query.
        smallest_change = (keys[1:] ^ keys[:-1]).min(initial=1 << self.bits)
        if smallest_change >> self.bits:
            return None
        rows = keys.reshape(-1, count)
        duplicates = np.argwhere(rows[:, 1:] >> self.bits == rows[:, :-1] >> self.bits)
        if not len(duplicates):
            return None
        row, column = duplicates[0]
        start = np.arange(len(self.keys))[cells][row * count]
        return int(start + (rows[row, column] & self._position_mask))


def value_order(offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) int64: the order of pairs by value descending within each query; equal values stay in their order.

    Args:
        offsets: (Q + 1,) int64, where the pairs of each query begin and end.
        values: (N,) float64.
    """
    order = np.arange(len(values))

    def sort_block(block: tuple[int, np.ndarray | slice]) -> None:
        count, cells = block
        rows = order[cells].reshape(-1, count)
        columns = np.argsort(-values[cells].reshape(-1, count), axis=1, kind="stable")
        order[cells] = np.take_along_axis(rows, columns, 1).ravel()

    map_parallel(sort_block, equal_count_blocks(offsets))
    return order
