"""The results that customers saw, one row each, and which of them they clicked."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ShownResults:
    """The results of a batch of N searches, R in all.

    Args:
        batch: Columns request_id, time and results of `catalog.request_log.COLUMNS`; results may have product_id only.

    Attributes:
        counts: int64 (N,): results of each search.
        rows, positions: int64 (R,): the search, and the position from 0.
        products: Dictionary array (R,) of product ids.
        codes: int64 (R,): its indices.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        lists = batch["results"]
        self.counts = pc.list_value_length(lists).fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        self.rows = np.repeat(np.arange(batch.num_rows), self.counts)
        starts = np.cumsum(self.counts) - self.counts
        self.positions = np.arange(len(self.rows)) - np.repeat(starts, self.counts)
        self._flat = lists.flatten()
        self.products = pc.struct_field(self._flat, "product_id").fill_null("").dictionary_encode()
        self.codes = self.products.indices.to_numpy().astype(np.int64)

    @property
    def scores(self) -> np.ndarray:
        """float64 (R,); minus infinity where unknown."""
        scores = pc.struct_field(self._flat, "score").cast(pa.float64())
        return np.nan_to_num(scores.to_numpy(zero_copy_only=False), nan=-np.inf)

    @property
    def versions(self) -> np.ndarray:
        """str (R,): of the models that placed them."""
        versions = pc.struct_field(self._flat, "version").fill_null("").dictionary_encode()
        return np.array(versions.dictionary.to_pylist() or [""], str)[versions.indices.to_numpy()]

    def find_clicks(self, clicks: pa.Table, delay: timedelta | None = None) -> np.ndarray:
        """Find the results that events name: bool (R,).

        Args:
            clicks: Columns request_id, product_id and time; those of other searches do not matter.
            delay: After the search; a later event does not count. None for no limit.
        """
        rows = pc.index_in(clicks["request_id"], value_set=self._batch["request_id"])
        matched = clicks.append_column("row", rows).filter(pc.is_valid(rows))
        codes = pc.index_in(matched["product_id"], value_set=self.products.dictionary)
        matched = matched.append_column("code", codes).filter(pc.is_valid(codes))
        if delay is not None:
            times = self._batch["time"].take(matched["row"].combine_chunks())
            delays = pc.subtract(matched["time"], times)
            matched = matched.filter(pc.less_equal(delays, pa.scalar(delay, delays.type)))
        width = len(self.products.dictionary)
        keys = matched["row"].to_numpy().astype(np.int64) * width + matched["code"].to_numpy()
        return np.isin(self.rows * width + self.codes, keys)
