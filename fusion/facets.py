"""Facets: what a shop's columns state about its products. Most products state only some of them."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusion.encoders.vocabulary import PAD, UNKNOWN, Vocabulary

COLUMNS = ("category", "brand", "color", "material")
CATEGORY = COLUMNS.index("category")
ATTRIBUTES = "attributes"
PASSED_ON = (*COLUMNS, ATTRIBUTES)  # by featurize, beside the products' features
WORDS = 6  # kept of a value's name
VALUES = range(2, 1000)  # of an attribute; one with more of them names products, as a model number does


@dataclass(frozen=True)
class Facets:
    """Values as numbers, F of them to a product.

    Attributes:
        columns: What they are values of: `COLUMNS`, then the keys of the products' attributes, as "attributes.KEY".
        labels: For each column the values themselves, in lower case; number n is at n - 1.
        values: int32 (N, F): the number of the product's value within its column, 0 where it states none.
        names: For each column, int32 (values + 1, WORDS): the tokens that a value is called by, then padding.
    """

    columns: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    values: np.ndarray
    names: tuple[np.ndarray, ...]

    @classmethod
    def none(cls, products: int) -> Self:
        """A shop without these columns."""
        nothing, count = np.full((1, WORDS), PAD, np.int32), len(COLUMNS)
        return cls(COLUMNS, ((),) * count, np.zeros((products, count), np.int32), (nothing,) * count)

    @classmethod
    def load(cls, features: Path, vocabulary: Vocabulary) -> Self:
        """Read the columns that `featurize` passed on beside the products' features.

        A value none of whose words is known counts as not stated. A category is called by the end of its path.
        """
        files = [pq.ParquetFile(path) for path in sorted((features / "products").glob("*.parquet"))]
        table = pa.concat_tables(
            file.read(["ids", *(c for c in PASSED_ON if c in file.schema_arrow.names)]) for file in files
        )
        nothing = pa.nulls(len(table), pa.string())
        columns: dict[str, pa.ChunkedArray | pa.Array] = {
            name: table[name] if name in table.column_names else nothing for name in COLUMNS
        }
        if ATTRIBUTES in table.column_names:
            columns |= _attributes(table[ATTRIBUTES])
        found = [_column(pc.cast(column, pa.string()), vocabulary) for column in columns.values()]
        values, names, labels = zip(*found, strict=True)
        return cls(tuple(columns), labels, np.stack(values, 1), names)

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


def _attributes(maps: pa.ChunkedArray) -> dict[str, pa.Array]:
    """A column for each key that has some, but not too many values; of a key given twice the last one counts."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for row, pairs in enumerate(maps.to_pylist()):
        for key, value in pairs or ():
            found[key][row] = value
    return {
        f"{ATTRIBUTES}.{key}": pa.array([rows.get(row) for row in range(len(maps))], pa.string())
        for key, rows in found.items()
        if len(set(rows.values())) in VALUES
    }


def _column(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values, names and labels, as those of `Facets`."""
    coded = pc.utf8_lower(column)
    coded = (coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded).dictionary_encode()
    labels = tuple(coded.dictionary.to_pylist())
    called = vocabulary.encode([label.split("/")[-1] for label in labels], WORDS)
    called[called == UNKNOWN] = PAD
    names = np.concatenate([np.full((1, WORDS), PAD, np.int32), together(called)])
    values = pc.add(coded.indices, 1).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    return np.where((names[values] == PAD).all(1), 0, values).astype(np.int32), names, labels


def together(tokens: np.ndarray) -> np.ndarray:
    """Each row's tokens in their order, then its padding."""
    return np.take_along_axis(tokens, (tokens == PAD).argsort(1, kind="stable"), 1)
