"""Products and queries as arrays: what `featurize` writes and everything after it reads."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from catalog.schema import DataError


@dataclass(frozen=True)
class Items:
    """Products or queries.

    Attributes:
        ids: str, shape (N,).
        splits: str, shape (N,). A product is on the side of the query that it answers exactly, else on "train".
        segments: str, shape (N,); empty for products.
        tokens: int32, shape (N, T); a row of zeros means no text.
        images: float16, shape (N, D); zeros where there is no picture.
        has_image: bool, shape (N,).
    """

    ids: np.ndarray
    splits: np.ndarray
    segments: np.ndarray
    tokens: np.ndarray
    images: np.ndarray
    has_image: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray) -> Self:
        """The items at `index` (ints or a mask)."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

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
        """As the model takes it: tokens int64 (B, T), images float32 (B, D), has_text and has_image bool (B,)."""
        tokens = torch.from_numpy(self.tokens[index].astype(np.int64))
        batch = {
            "tokens": tokens,
            "images": torch.from_numpy(self.images[index].astype(np.float32)),
            "has_text": tokens[:, 0] != 0,
            "has_image": torch.from_numpy(self.has_image[index]),
        }
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def to_table(self) -> pa.Table:
        """One row an item."""

        def rows(array: np.ndarray, kind: pa.DataType) -> pa.Array:
            return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1), kind), array.shape[1])

        return pa.table(
            {
                "ids": pa.array(self.ids, pa.string()),
                "splits": pa.array(self.splits, pa.string()),
                "segments": pa.array(self.segments, pa.string()),
                "tokens": rows(self.tokens, pa.int32()),
                "images": rows(self.images, pa.float16()),
                "has_image": pa.array(self.has_image),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The inverse of `to_table`."""

        def column(name: str) -> np.ndarray:
            array = table[name].combine_chunks()
            if pa.types.is_fixed_size_list(array.type):
                return np.asarray(array.flatten()).reshape(-1, array.type.list_size)
            return array.to_numpy(zero_copy_only=False)

        return cls(**{field.name: column(field.name) for field in fields(cls)})

    @classmethod
    def load(cls, features: Path, table: str) -> Self:
        """All files of one table of a features folder.

        Raises:
            DataError: where there are none.
        """
        found = sorted((features / table).glob("*.parquet"))
        if not found:
            raise DataError(f"{features / table}: no features here; run the featurize stage")
        return cls.from_table(pa.concat_tables(pq.read_table(path) for path in found))
