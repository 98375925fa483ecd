"""Facets: the values of a catalogue's columns, such as colour and brand. Most products have only some of them."""

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
FACET_COLUMNS = (*COLUMNS, ATTRIBUTES)  # that featurize copies to the products' features
NAME_TOKENS = 12  # the first tokens of a value's name
ATTRIBUTE_VALUES = range(2, 1000)  # allowed counts; an attribute with more values identifies single products


@dataclass(frozen=True)
class Facets:
    """The values of all products as numbers, F for each product.

    Attributes:
        columns: The names of the F columns: `COLUMNS`, then the keys of the products' attributes, as "attributes.KEY".
        labels: For each column its values, in lower case; number n is at n - 1.
        values: int32 (N, F): the number of the product's value within its column, 0 for no value.
        names: For each column, int32 (values + 1, NAME_TOKENS): the tokens of each value's name, then padding.
    """

    columns: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    values: np.ndarray
    names: tuple[np.ndarray, ...]

    @classmethod
    def empty(cls, products: int) -> Self:
        """Facets of a catalogue without these columns."""
        no_names, count = np.full((1, NAME_TOKENS), PAD, np.int32), len(COLUMNS)
        return cls(COLUMNS, ((),) * count, np.zeros((products, count), np.int32), (no_names,) * count)

    @classmethod
    def load(cls, features: Path, vocabulary: Vocabulary) -> Self:
        """Read the columns that `featurize` copied to the products' features.

        A value of only unknown words counts as no value. The name of a category is the end of its path.
        """
        files = [pq.ParquetFile(path) for path in sorted((features / "products").glob("*.parquet"))]
        table = pa.concat_tables(
            file.read(["ids", *(c for c in FACET_COLUMNS if c in file.schema_arrow.names)]) for file in files
        )
        no_values = pa.nulls(len(table), pa.string())
        columns: dict[str, pa.ChunkedArray | pa.Array] = {
            name: table[name] if name in table.column_names else no_values for name in COLUMNS
        }
        if ATTRIBUTES in table.column_names:
            columns |= _attribute_columns(table[ATTRIBUTES])
        encoded = [_encode_column(pc.cast(column, pa.string()), vocabulary) for column in columns.values()]
        values, names, labels = zip(*encoded, strict=True)
        return cls(tuple(columns), labels, np.stack(values, 1), names)

    def matches(self, queries: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Which products have all values of a query.

        Args:
            queries: int32 (Q, F), values as in `values`; 0 accepts any value.
            products: int64 (P,), rows.

        Returns:
            bool (Q, P).
        """
        query_values = queries[:, None]
        return ((query_values == 0) | (query_values == self.values[products])).all(2)

    def may_match(self, queries: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Which products have no value that contradicts a query; none for a query without values.

        Arguments and result as for `matches`.
        """
        query_values, product_values = queries[:, None], self.values[products]
        compatible = (query_values == 0) | (product_values == 0) | (query_values == product_values)
        return compatible.all(2) & (query_values != 0).any(2)


def _attribute_columns(maps: pa.ChunkedArray) -> dict[str, pa.Array]:
    """A column for each key whose number of values is allowed. Of a repeated key the last value counts."""
    values_by_key: dict[str, dict[int, str]] = defaultdict(dict)
    for row, pairs in enumerate(maps.to_pylist()):
        for key, value in pairs or ():
            values_by_key[key][row] = value
    return {
        f"{ATTRIBUTES}.{key}": pa.array([rows.get(row) for row in range(len(maps))], pa.string())
        for key, rows in values_by_key.items()
        if len(set(rows.values())) in ATTRIBUTE_VALUES
    }


def _encode_column(
    column: pa.ChunkedArray | pa.Array, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values, names and labels of a column, as in `Facets`."""
    coded = pc.utf8_lower(column)
    coded = (coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded).dictionary_encode()
    labels = tuple(coded.dictionary.to_pylist())
    name_tokens = vocabulary.encode([label.split("/")[-1] for label in labels], NAME_TOKENS)
    name_tokens[name_tokens == UNKNOWN] = PAD
    names = np.concatenate([np.full((1, NAME_TOKENS), PAD, np.int32), move_padding_last(name_tokens)])
    values = pc.add(coded.indices, 1).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    return np.where((names[values] == PAD).all(1), 0, values).astype(np.int32), names, labels


def move_padding_last(tokens: np.ndarray) -> np.ndarray:
    """Move each row's padding behind its tokens, which keep their order."""
    return np.take_along_axis(tokens, (tokens == PAD).argsort(1, kind="stable"), 1)
