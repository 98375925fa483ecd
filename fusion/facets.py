"""Facets: what a shop's columns state about its products. Most products state only some of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusion.text import PAD, UNKNOWN, Vocabulary

COLUMNS = ("category", "brand", "color", "material")
CATEGORY = COLUMNS.index("category")
VISIBLE = np.isin(COLUMNS, ["category", "color"])  # what a picture shows, whatever the product
WORDS = 4  # kept of a value's name


@dataclass(frozen=True)
class Facets:
    """Values as numbers, F = `len(COLUMNS)` of them.

    Attributes:
        values: int32 (N, F): the number of the product's value within its column, 0 where it states none.
        names: For each column, int32 (values + 1, WORDS): the tokens that a value is called by, then padding.
    """

    values: np.ndarray
    names: tuple[np.ndarray, ...]

    @classmethod
    def none(cls, products: int) -> Self:
        """A shop without these columns."""
        nothing = np.full((1, WORDS), PAD, np.int32)
        return cls(np.zeros((products, len(COLUMNS)), np.int32), (nothing,) * len(COLUMNS))

    @classmethod
    def load(cls, features: Path, vocabulary: Vocabulary) -> Self:
        """Read the columns that `featurize` passed on beside the products' features.

        A value none of whose words is known counts as not stated. A category is called by the end of its path.
        """
        files = [pq.ParquetFile(path) for path in sorted((features / "products").glob("*.parquet"))]
        table = pa.concat_tables(
            file.read(["ids", *(c for c in COLUMNS if c in file.schema_arrow.names)]) for file in files
        )
        found = [_column(table, name, vocabulary) for name in COLUMNS]
        return cls(np.stack([values for values, _ in found], 1), tuple(names for _, names in found))

    def fit(self, asked: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Which products state all that is asked.

        Args:
            asked: int32 (Q, F), values as in `values`; 0 asks for nothing.
            products: int64 (P,), rows.

        Returns:
            bool (Q, P).
        """
        wanted = asked[:, None]
        return ((wanted == 0) | (wanted == self.values[products])).all(2)

    def may_fit(self, asked: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Which products state nothing that contradicts what is asked; none for those who ask for nothing.

        Arguments and result as for `fit`.
        """
        wanted, stated = asked[:, None], self.values[products]
        return ((wanted == 0) | (stated == 0) | (wanted == stated)).all(2) & (wanted != 0).any(2)


def _column(table: pa.Table, name: str, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    if name not in table.column_names:
        empty = Facets.none(len(table))
        return empty.values[:, 0], empty.names[0]
    coded = pc.utf8_lower(table[name].cast(pa.string())).combine_chunks().dictionary_encode()
    called = vocabulary.encode([value.split("/")[-1] for value in coded.dictionary.to_pylist()], WORDS)
    called[called == UNKNOWN] = PAD
    names = np.concatenate([np.full((1, WORDS), PAD, np.int32), together(called)])
    values = pc.add(coded.indices, 1).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    return np.where((names[values] == PAD).all(1), 0, values).astype(np.int32), names


def together(tokens: np.ndarray) -> np.ndarray:
    """Each row's tokens in their order, then its padding."""
    return np.take_along_axis(tokens, (tokens == PAD).argsort(1, kind="stable"), 1)
