"""What an earlier index of the same model gives to a new one: vectors, lists and tokens of unchanged products."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.search.catalogue_tokens import NO_ROW, CatalogueTokens
from fusion.search.lexical_index import TOKENS_FILE, load_tokens
from fusion.search.marker import IndexMarker
from fusion.search.search_index import (
    CONTENT,
    GROUP_ROWS,
    IVF_FILE,
    LEXICAL_FOLDER,
    PRODUCTS_FILE,
    VECTOR,
    unpack_vectors,
)
from fusion.search.vector_index import SCORE_TOLERANCE, IVFIndex, top_k

CHECKS_FILE = "checks.json"
SAMPLE = 1000  # products that are searched by their vectors
Vectors = dict[str, np.ndarray]  # "" and modalities → (N, dim), see `SearchIndex`


class EarlierIndex:
    """An index in a folder, of which one part at a time is in memory.

    Args:
        folder: Of `SearchIndex.save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, IndexMarker.load(folder)
        self.products = pq.ParquetFile(folder / PRODUCTS_FILE)
        self._groups: dict[int, Vectors] = {}

    def __len__(self) -> int:
        return int(self.products.metadata.num_rows)

    @cached_property
    def product_ids(self) -> pa.ChunkedArray:
        """The ids of its products, string (N,)."""
        return self.products.read(["product_id"])["product_id"]

    @cached_property
    def content(self) -> dict[bytes, int]:
        """The hash of a product's content → its row; of no product where the index has no hashes."""
        if CONTENT not in self.products.schema_arrow.names:
            return {}
        hashes = self.products.read([CONTENT])[CONTENT].to_pylist()
        return {content: row for row, content in enumerate(hashes)}

    def find(self, hashes: Sequence[bytes]) -> np.ndarray:
        """The row of a product with that content, int64 (N,); `NO_ROW` where there is none."""
        return np.array([self.content.get(content, NO_ROW) for content in hashes], np.int64)

    @cached_property
    def ivf(self) -> IVFIndex | None:
        """Its approximate index."""
        path = self.folder / IVF_FILE
        return IVFIndex.load(path) if path.exists() else None

    def load_tokens(self) -> CatalogueTokens | None:
        """The tokens of its products."""
        folder = self.folder / LEXICAL_FOLDER
        return load_tokens(folder) if (folder / TOKENS_FILE).exists() else None

    @cached_property
    def self_recall(self) -> float:
        """Its self-search recall: of checks.json, or measured where the stage `index` wrote it."""
        path = self.folder / CHECKS_FILE
        if path.exists():
            return float(json.loads(path.read_text())["self_recall"])
        vectors = np.empty((len(self), self.marker.dim), np.float32)  # of the table there would be two copies
        for group in range(self.products.num_row_groups):
            start = group * GROUP_ROWS
            content = self.products.read_row_group(group, [VECTOR])
            vectors[start : start + GROUP_ROWS] = unpack_vectors(content)[""]
        return measure_self_recall(vectors, self.ivf)

    def read_vectors(self, rows: np.ndarray) -> Vectors:
        """The vectors of products.

        Args:
            rows: int64 (N,).
        """
        groups, places = np.divmod(rows, GROUP_ROWS)
        vectors = {
            name: np.empty((len(rows), self.marker.dim), array.dtype)
            for name, array in self._read_group(0).items()
        }
        for group in np.unique(groups).tolist():
            selected = groups == group
            for name, array in self._read_group(group).items():
                vectors[name][selected] = array[places[selected]]
        return vectors

    def forget(self, rows: np.ndarray) -> None:
        """Free what `read_vectors` does not need any more; `rows` are those that it still has to read."""
        needed = {0, *np.unique(rows // GROUP_ROWS).tolist()}
        self._groups = {group: vectors for group, vectors in self._groups.items() if group in needed}

    def _read_group(self, group: int) -> Vectors:
        if group not in self._groups:
            names = [name for name in self.products.schema_arrow.names if name.startswith(VECTOR)]
            self._groups[group] = unpack_vectors(self.products.read_row_group(group, names))
        return self._groups[group]


def measure_self_recall(vectors: np.ndarray, ivf: IVFIndex | None) -> float:
    """Search a sample of products by their own vectors: the share that comes first, or equals the first in score.

    Args:
        vectors: float32 (P, dim).
        ivf: The approximate index that is served; None where search is exact.

    Returns:
        0 where a vector is not finite: no search works then.
    """
    if not np.isfinite(vectors.sum()):
        return 0.0
    norms = np.linalg.norm(vectors[:: max(1, len(vectors) // SAMPLE)], axis=1)
    sample = vectors[:: max(1, len(vectors) // SAMPLE)][norms != 0]  # zero: no modality, never a result
    if not len(sample):
        return 1.0
    _, scores = (ivf.top_k if ivf else top_k)(sample, vectors, 1)
    own_scores = (sample * sample).sum(1)
    return float((np.abs(scores[:, 0] - own_scores) <= SCORE_TOLERANCE).mean())
