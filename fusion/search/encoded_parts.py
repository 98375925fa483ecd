"""Files of encoded products, which outlive a killed build."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.earlier_index import Vectors
from fusion.search.search_index import pack_vectors, unpack_vectors

ROWS = 512  # products in a file: what a killed build loses at most
OCR = "ocr"  # column


class EncodedParts:
    """Products in files of `ROWS`, in the order in which they were added.

    Args:
        folder: Of the files; files of an earlier, equal build are used.
        network: Encodes the products.
        featurizer: Likewise.
    """

    def __init__(self, folder: Path, network: ProductSearchModel, featurizer: Featurizer) -> None:
        self.folder, self.network, self.featurizer = folder, network, featurizer
        self.count = 0
        self._pending: list[dict[str, Any]] = []
        self._read = 0
        self._part: tuple[int, Vectors] = (-1, {})

    def add(self, products: Sequence[dict[str, Any]], last: bool = False) -> None:
        """Add products; encodes them when a file is full, or with `last`."""
        self._pending += products
        while len(self._pending) >= ROWS or (last and self._pending):
            self._write(self._pending[:ROWS])
            self._pending = self._pending[ROWS:]

    def read(self, count: int) -> Vectors:
        """The vectors of the next products."""
        pieces = [self._read_part(-1)]
        while count:
            number, start = divmod(self._read, ROWS)
            end = min(ROWS, start + count)
            pieces.append({name: array[start:end] for name, array in self._read_part(number).items()})
            self._read, count = self._read + end - start, count - end + start
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def read_ocr(self) -> pa.ChunkedArray:
        """The text on the pictures of all products."""
        tables = [
            pq.read_table(self._path(number), columns=[OCR]) for number in range(-(-self.count // ROWS))
        ]
        return pa.chunked_array([chunk for table in tables for chunk in table[OCR].chunks], pa.string())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def _write(self, products: list[dict[str, Any]]) -> None:
        path = self._path(self.count // ROWS)
        self.count += len(products)
        if path.exists():
            return
        items, _ = self.featurizer.featurize_rows("products", products)
        vectors = {"": embed(self.network, items, "product")}
        for name in self.network.config.modalities:
            vectors[name] = embed(self.network, items.without(name), "product").astype(np.float16)
        unfinished = path.with_suffix(".partial")
        columns = {**pack_vectors(vectors), OCR: pa.array(items.ocr, pa.string())}
        pq.write_table(pa.table(columns), unfinished, use_dictionary=False, compression="none")
        unfinished.replace(path)

    def _read_part(self, number: int) -> Vectors:
        """The vectors in one file; of no product for the number -1."""
        if number == -1:
            dim = self.network.config.dim
            without = {name: np.empty((0, dim), np.float16) for name in self.network.config.modalities}
            return {"": np.empty((0, dim), np.float32), **without}
        if self._part[0] != number:
            self._part = number, unpack_vectors(pq.read_table(self._path(number)))
        return self._part[1]
