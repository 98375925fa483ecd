"""Products and queries as arrays: what `featurize` writes and everything after it reads."""

from ast import literal_eval
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from catalog.schema import DataError

MODALITIES = ("text", "image", "video")
_MODALITY_FIELDS = {  # the fields that hold each modality
    "text": ("tokens",),
    "image": ("images", "regions", "has_image", "pictures"),
    "video": ("videos",),
}


@dataclass(frozen=True)
class Items:
    """Products or queries.

    Attributes:
        ids: str, shape (N,).
        splits: str, shape (N,). A product has the split of the query that it answers exactly, else "train".
        segments: str, shape (N,); empty for products.
        tokens: int32, shape (N, T); a row of zeros means no text.
        images: float16, shape (N, D); zeros where there is no picture.
        regions: float16, shape (N, R, C): features of R parts of the picture, row by row; (N, 0, 0) if not loaded.
        has_image: bool, shape (N,).
        videos: object, shape (N,): from `fusion.encoders.video.ClipReader`, all of one shape; None without a clip.
        pictures: object, shape (N,): the fitted picture, uint8 (S, S, 3); None without a picture, or if not loaded.
    """

    ids: np.ndarray
    splits: np.ndarray
    segments: np.ndarray
    tokens: np.ndarray
    images: np.ndarray
    regions: np.ndarray
    has_image: np.ndarray
    videos: np.ndarray
    pictures: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def present(self) -> np.ndarray:
        """Which of `MODALITIES` each item has, bool (N, M)."""
        has_video = np.array([video is not None for video in self.videos], bool)
        return np.stack([self.tokens[:, 0] != 0, self.has_image, has_video], 1)

    def has_any(self, modalities: Collection[str]) -> np.ndarray:
        """Which items have at least one of these modalities, bool (N,)."""
        return np.any(self.present[:, [name in modalities for name in MODALITIES]], axis=1)

    def take(self, index: np.ndarray | slice) -> Self:
        """The items at `index` (ints, a mask or a slice)."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def without(self, modality: str, rows: np.ndarray | slice = slice(None)) -> Self:
        """The same items, without one of `MODALITIES` at `rows`."""
        arrays = {name: getattr(self, name).copy() for name in _MODALITY_FIELDS[modality]}
        for array in arrays.values():
            array[rows] = None if array.dtype == object else 0
        return replace(self, **arrays)

    @classmethod
    def concatenate(cls, shards: Sequence[Self]) -> Self:
        """Items one after the other; shorter texts are padded."""
        width = max(items.tokens.shape[1] for items in shards)
        tokens = [np.pad(items.tokens, ((0, 0), (0, width - items.tokens.shape[1]))) for items in shards]
        columns = {
            field.name: np.concatenate([getattr(items, field.name) for items in shards])
            for field in fields(cls)
            if field.name != "tokens"
        }
        return cls(**columns, tokens=np.concatenate(tokens))

    def batch(self, index: np.ndarray | slice, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The items at `index` as input of the model.

        Returns:
            tokens int64 (B, longest text), images float32 (B, D), regions float16 (B, R, C), present bool (B, M);
            videos, and pictures uint8 (P, S, S, 3), only of the items that have them.
        """
        batch = {
            "tokens": torch.from_numpy(trim(self.tokens[index]).astype(np.int64)),
            "images": torch.from_numpy(self.images[index].astype(np.float32)),
            "regions": torch.from_numpy(self.regions[index]),
            "present": torch.from_numpy(self.present[index]),
        }
        for name in ("videos", "pictures"):
            arrays = [array for array in getattr(self, name)[index] if array is not None]
            if arrays:
                batch[name] = torch.from_numpy(np.stack(arrays))
                if torch.device(device).type == "cuda":  # so that the copy runs during computation
                    batch[name] = batch[name].pin_memory()
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def batches(self, device: torch.device | str = "cpu", size: int = 512) -> Iterator[dict[str, Tensor]]:
        """All items in order, `size` at a time, as `batch` returns them."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size), device)

    def to_table(self) -> pa.Table:
        """One row an item. `save_pictures` writes the pictures."""

        def to_column(array: np.ndarray) -> pa.Array:
            column = pa.array(array.reshape(-1))
            for size in array.shape[:0:-1]:
                column = pa.FixedSizeListArray.from_arrays(column, size)
            return column

        columns = {
            "ids": pa.array(self.ids, pa.string()),
            "splits": pa.array(self.splits, pa.string()),
            "segments": pa.array(self.segments, pa.string()),
            "tokens": to_column(self.tokens),
            "images": to_column(self.images),
            "regions": to_column(self.regions),
            "has_image": pa.array(self.has_image),
        }
        table = pa.table(columns)
        video = next((video for video in self.videos if video is not None), None)
        if video is not None:  # as bytes: parquet cannot read nullable lists of fixed size
            metadata = {"dtype": video.dtype.str, "shape": str(video.shape)}
            field = pa.field("videos", pa.binary(), metadata=metadata)
            column = pa.array(
                [video if video is None else video.tobytes() for video in self.videos], pa.binary()
            )
            table = table.append_column(field, column)
        return table

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The inverse of `to_table`; missing columns are empty."""

        def to_array(column: pa.Array) -> np.ndarray:
            shape = [len(column)]
            while pa.types.is_fixed_size_list(column.type):
                shape.append(column.type.list_size)
                column = column.flatten()
            return column.to_numpy(zero_copy_only=False).reshape(shape)

        columns = {
            field.name: to_array(table[field.name].combine_chunks())
            for field in fields(cls)
            if field.name in table.column_names and field.name != "videos"
        }
        columns.setdefault("regions", np.zeros((len(table), 0, 0), np.float16))
        videos = np.full(len(table), None, object)
        if "videos" in table.column_names:
            metadata = table.schema.field("videos").metadata
            dtype, shape = metadata[b"dtype"].decode(), literal_eval(metadata[b"shape"].decode())
            for row, data in enumerate(table["videos"].to_pylist()):
                videos[row] = data and np.frombuffer(data, dtype).reshape(shape)
        return cls(**columns, videos=videos, pictures=np.full(len(table), None, object))

    def save_pictures(self, path: Path) -> None:
        """Write the pictures in order, uint8 (P, S, S, 3): raw pixels, to be mapped into memory."""
        with path.open("wb") as stream:
            np.save(stream, np.array([picture for picture in self.pictures if picture is not None], np.uint8))

    def with_pictures(self, path: Path) -> Self:
        """The same items with the pictures that `save_pictures` wrote. Each is read from disk when it is used.

        Raises:
            DataError: if the file is missing, or its number of pictures differs from the items'.
        """
        if not path.exists():
            raise DataError(
                f"{path}: featurize kept no pictures; set featurize.keep_pictures: true and run featurize again"
            )
        stored = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        pictures = np.full(len(self), None, object)
        if len(stored) != self.has_image.sum():
            raise DataError(
                f"{path}: has {len(stored)} pictures, expected {self.has_image.sum()}; run featurize again"
            )
        for row, picture in zip(np.flatnonzero(self.has_image), stored, strict=True):
            pictures[row] = picture
        return replace(self, pictures=pictures)

    @classmethod
    def load(cls, features: Path, table: str, regions: bool = False, pictures: bool = False) -> Self:
        """All files of one table of a features folder.

        Args:
            features: What `featurize` wrote.
            table: "products" or "queries".
            regions: Whether to load the features of regions, which are large.
            pictures: Whether to load the pictures.

        Raises:
            DataError: if there are no features or, where requested, no pictures.
        """
        paths = sorted((features / table).glob("*.parquet"))
        if not paths:
            raise DataError(f"{features / table}: no features here; run the featurize stage")
        names = {field.name for field in fields(cls) if regions or field.name != "regions"}
        files = (pq.ParquetFile(path) for path in paths)
        tables = (file.read([name for name in file.schema_arrow.names if name in names]) for file in files)
        shards = [cls.from_table(table) for table in tables]
        if pictures:
            shards = [
                shard.with_pictures(path.with_suffix(".npy"))
                for shard, path in zip(shards, paths, strict=True)
            ]
        return cls.concatenate(shards)


def trim(tokens: np.ndarray) -> np.ndarray:
    """Cut texts (N, T), each followed by zeros, to the length of the longest; at least one column remains."""
    return tokens[:, : max(1, np.count_nonzero(tokens.any(0)))]
