"""Products and queries as arrays: what `featurize` writes and everything after it reads."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from catalog.schema import DataError

MODALITIES = ("text", "image")
_FIELDS = {"text": ("tokens",), "image": ("images", "regions", "has_image")}  # that hold each


@dataclass(frozen=True)
class Items:
    """Products or queries.

    Attributes:
        ids: str, shape (N,).
        splits: str, shape (N,). A product is on the side of the query that it answers exactly, else on "train".
        segments: str, shape (N,); empty for products.
        tokens: int32, shape (N, T); a row of zeros means no text.
        images: float16, shape (N, D); zeros where there is no picture.
        regions: float16, shape (N, R, C): features of R parts of the picture, row by row; (N, 0, 0) if not loaded.
        has_image: bool, shape (N,).
    """

    ids: np.ndarray
    splits: np.ndarray
    segments: np.ndarray
    tokens: np.ndarray
    images: np.ndarray
    regions: np.ndarray
    has_image: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def present(self) -> np.ndarray:
        """Which of `MODALITIES` each has, bool (N, M)."""
        return np.stack([self.tokens[:, 0] != 0, self.has_image], 1)

    def take(self, index: np.ndarray) -> Self:
        """The items at `index` (ints or a mask)."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def without(self, modality: str, rows: np.ndarray | slice = slice(None)) -> Self:
        """The same, but that the items at `rows` lack one of `MODALITIES`."""
        changed = {name: getattr(self, name).copy() for name in _FIELDS[modality]}
        for array in changed.values():
            array[rows] = 0
        return replace(self, **changed)

    @classmethod
    def concatenate(cls, several: Sequence[Self]) -> Self:
        """Items one after the other; shorter texts are padded."""
        width = max(items.tokens.shape[1] for items in several)
        tokens = [np.pad(items.tokens, ((0, 0), (0, width - items.tokens.shape[1]))) for items in several]
        columns = {
            field.name: np.concatenate([getattr(items, field.name) for items in several])
            for field in fields(cls)
            if field.name != "tokens"
        }
        return cls(**columns, tokens=np.concatenate(tokens))

    def batch(self, index: np.ndarray | slice, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """As the model takes it.

        Returns:
            tokens int64 (B, T), images float32 (B, D), regions float16 (B, R, C), has_text and has_image bool (B,).
        """
        tokens = torch.from_numpy(self.tokens[index].astype(np.int64))
        batch = {
            "tokens": tokens,
            "images": torch.from_numpy(self.images[index].astype(np.float32)),
            "regions": torch.from_numpy(self.regions[index]),
            "has_text": tokens[:, 0] != 0,
            "has_image": torch.from_numpy(self.has_image[index]),
        }
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def to_table(self) -> pa.Table:
        """One row an item."""

        def rows(array: np.ndarray, kind: pa.DataType) -> pa.Array:
            column = pa.array(array.reshape(-1), kind)
            for size in array.shape[:0:-1]:
                column = pa.FixedSizeListArray.from_arrays(column, size)
            return column

        return pa.table(
            {
                "ids": pa.array(self.ids, pa.string()),
                "splits": pa.array(self.splits, pa.string()),
                "segments": pa.array(self.segments, pa.string()),
                "tokens": rows(self.tokens, pa.int32()),
                "images": rows(self.images, pa.float16()),
                "regions": rows(self.regions, pa.float16()),
                "has_image": pa.array(self.has_image),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The inverse of `to_table`."""

        def column(name: str) -> np.ndarray:
            if name not in table.column_names:
                return np.zeros((len(table), 0, 0), np.float16)
            array, shape = table[name].combine_chunks(), [len(table)]
            while pa.types.is_fixed_size_list(array.type):
                shape.append(array.type.list_size)
                array = array.flatten()
            return array.to_numpy(zero_copy_only=False).reshape(shape)

        return cls(**{field.name: column(field.name) for field in fields(cls)})

    @classmethod
    def load(cls, features: Path, table: str, regions: bool = False) -> Self:
        """All files of one table of a features folder; the features of regions only on demand, as they are large.

        Raises:
            DataError: where there are none.
        """
        found = sorted((features / table).glob("*.parquet"))
        if not found:
            raise DataError(f"{features / table}: no features here; run the featurize stage")
        wanted = [field.name for field in fields(cls) if regions or field.name != "regions"]
        return cls.from_table(pa.concat_tables(pq.read_table(path, columns=wanted) for path in found))
