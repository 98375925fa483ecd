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

CONTENT = ("text", "image", "video")
MODALITIES = (*CONTENT, "joint")  # joint: a vector of the text and the pictures together
_MODALITY_FIELDS = {  # the fields that hold each modality
    "text": ("tokens", "ocr"),
    "image": ("images", "galleries", "regions", "has_image", "pictures"),
    "video": ("videos",),
    "joint": ("joint",),
}

TOKEN_STEP = 16  # see `Items.shapes`
_RAGGED = ("galleries", "videos")  # fields of one array an item, or None


@dataclass(frozen=True)
class Items:
    """Products or queries.

    Attributes:
        ids: str, shape (N,).
        splits: str, shape (N,). A product has the split of the query that it answers exactly, else "train".
        segments: str, shape (N,); empty for products.
        tokens: int32, shape (N, T); a row of zeros means no text.
        images: float16, shape (N, D), of the main picture; zeros where there is no picture.
        galleries: object, shape (N,): of the other pictures in order, float16 (P - 1, D) each; None without others.
        regions: float16, shape (N, R, C): features of R parts of the main picture, row by row; (N, 0, 0) if not loaded.
        has_image: bool, shape (N,).
        videos: object, shape (N,): from `fusion.encoders.video.ClipReader`, all of one shape; None without a clip.
        pictures: object, shape (N,): the P fitted pictures, the main one first, uint8 (P, S, S, 3); None without a
            picture, or if not loaded.
        ocr: object, shape (N,): the text on a product's pictures, str; None if it was not read.
        joint: float16, shape (N, J), from `fusion.encoders.joint.JointEncoder`; zeros where there is neither text nor
            picture; (N, 0) without a joint encoder.
    """

    ids: np.ndarray
    splits: np.ndarray
    segments: np.ndarray
    tokens: np.ndarray
    images: np.ndarray
    galleries: np.ndarray
    regions: np.ndarray
    has_image: np.ndarray
    videos: np.ndarray
    pictures: np.ndarray
    ocr: np.ndarray
    joint: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def present(self) -> np.ndarray:
        """Which of `MODALITIES` each item has, bool (N, M)."""
        has_video = np.array([video is not None for video in self.videos], bool)
        return np.stack([self.tokens[:, 0] != 0, self.has_image, has_video, self.joint.any(1)], 1)

    def has_any(self, modalities: Collection[str]) -> np.ndarray:
        """Which items have at least one of these modalities, bool (N,)."""
        return np.any(self.present[:, [name in modalities for name in MODALITIES]], axis=1)

    @property
    def picture_counts(self) -> np.ndarray:
        """Number of pictures of each item, int64 (N,)."""
        others = [0 if gallery is None else len(gallery) for gallery in self.galleries]
        return self.has_image + np.array(others, np.int64)

    def take(self, index: np.ndarray | slice) -> Self:
        """The items at `index` (ints, a mask or a slice)."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def without(self, modality: str, rows: np.ndarray | slice = slice(None)) -> Self:
        """The same items, without one of `MODALITIES` at `rows`."""
        arrays = {name: getattr(self, name).copy() for name in _MODALITY_FIELDS[modality]}
        for array in arrays.values():
            array[rows] = None if array.dtype == object else 0
        return replace(self, **arrays)

    def without_galleries(self) -> Self:
        """The same items with only their main pictures."""
        main = [picture if picture is None else picture[:1] for picture in self.pictures]
        return replace(self, galleries=object_array([None] * len(self)), pictures=object_array(main))

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

    def batch(
        self,
        index: np.ndarray | slice,
        device: torch.device | str = "cpu",
        width: int | None = None,
        pictures: int = 1,
    ) -> dict[str, Tensor]:
        """The items at `index` as input of the model.

        Args:
            index: Ints, a mask or a slice.
            device: Where the batch goes.
            width: Columns of the tokens; None for the longest text.
            pictures: Least number of pictures, P.

        Returns:
            tokens int64 (B, width), images float32 (B, P, D) with P pictures of the largest gallery,
            picture_mask bool (B, P), regions float16 (B, R, C), present bool (B, M); videos, and pictures uint8
            (all pictures, S, S, 3), only of the items that have them; joint float16 (B, J).
        """
        items = self.take(index)
        images, mask = items.pad_galleries(pictures)
        tokens = trim(items.tokens) if width is None else items.tokens[:, :width]
        batch = {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "images": torch.from_numpy(images),
            "picture_mask": torch.from_numpy(mask),
            "regions": torch.from_numpy(items.regions),
            "present": torch.from_numpy(items.present),
            "joint": torch.from_numpy(items.joint),
        }
        for name, join in (("videos", np.stack), ("pictures", np.concatenate)):
            arrays = [array for array in getattr(items, name) if array is not None]
            if arrays:
                batch[name] = torch.from_numpy(join(arrays))
                if torch.device(device).type == "cuda":  # so that the copy runs during computation
                    batch[name] = batch[name].pin_memory()
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def pad_galleries(self, pictures: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Features of all pictures, padded with zeros: float32 (N, P, D); and which pictures exist, bool (N, P).

        P is the size of the largest gallery, `pictures` at least.
        """
        counts = self.picture_counts
        images = np.zeros((len(self), max(pictures, counts.max(initial=1)), self.images.shape[1]), np.float32)
        images[:, 0] = self.images
        for row, gallery in enumerate(self.galleries):
            if gallery is not None:
                images[row, 1 : 1 + len(gallery)] = gallery
        return images, np.arange(images.shape[1]) < counts[:, None]

    def batches(self, device: torch.device | str = "cpu", size: int = 512) -> Iterator[dict[str, Tensor]]:
        """All items in order, `size` at a time, as `batch` returns them."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size), device)

    @property
    def shapes(self) -> np.ndarray:
        """Shape of the arrays that each item needs, int64 (N, 3): tokens, pictures, and clips.

        Tokens are rounded up to a multiple of `TOKEN_STEP`, at most T; pictures to a power of two.
        """
        lengths = np.maximum(1, np.count_nonzero(self.tokens, axis=1))
        widths = np.minimum(-(-lengths // TOKEN_STEP) * TOKEN_STEP, self.tokens.shape[1])
        pictures = 2 ** np.ceil(np.log2(np.maximum(1, self.picture_counts))).astype(np.int64)
        clips = [video is not None for video in self.videos]
        return np.stack([widths, pictures, np.array(clips, np.int64)], 1)

    def equal_batches(
        self, size: int, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Batches in which an item's result depends on the item alone: kernels differ by the shape of their input.

        Each batch has items of equal `shapes` and exactly `size` rows; the last one of a shape repeats its items.

        Yields:
            Positions of the items, int64 (B,), and what `batch` returns for `size` items, these B first.
        """
        shapes, groups = np.unique(self.shapes, axis=0, return_inverse=True)
        for number, (width, pictures, _) in enumerate(shapes.tolist()):
            rows = np.flatnonzero(groups == number)
            for start in range(0, len(rows), size):
                chunk = rows[start : start + size]
                yield chunk, self.batch(np.resize(chunk, size), device, width, pictures)

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
        if any(text is not None for text in self.ocr):
            columns["ocr"] = pa.array(self.ocr, pa.string())
        if self.joint.shape[1]:
            columns["joint"] = to_column(self.joint)
        table = pa.table(columns)
        for name in _RAGGED:
            arrays = getattr(self, name)
            first = next((array for array in arrays if array is not None), None)
            if first is not None:  # as bytes: parquet cannot read nullable lists of fixed size
                metadata = {"dtype": first.dtype.str, "shape": str(first.shape[1:])}
                values = [array if array is None else array.tobytes() for array in arrays]
                field = pa.field(name, pa.binary(), metadata=metadata)
                table = table.append_column(field, pa.array(values, pa.binary()))
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
            if field.name in table.column_names and field.name not in _RAGGED
        }
        columns.setdefault("regions", np.zeros((len(table), 0, 0), np.float16))
        columns.setdefault("ocr", np.full(len(table), None, object))
        columns.setdefault("joint", np.zeros((len(table), 0), np.float16))
        for name in _RAGGED:
            columns[name] = np.full(len(table), None, object)
            if name in table.column_names:
                metadata = table.schema.field(name).metadata
                dtype, shape = metadata[b"dtype"].decode(), literal_eval(metadata[b"shape"].decode())
                for row, data in enumerate(table[name].to_pylist()):
                    columns[name][row] = data and np.frombuffer(data, dtype).reshape(-1, *shape)
        return cls(**columns, pictures=np.full(len(table), None, object))

    def save_pictures(self, path: Path) -> None:
        """Write the pictures of all items in order, uint8 (pictures, S, S, 3): raw pixels, to be mapped into memory."""
        galleries = [pictures for pictures in self.pictures if pictures is not None]
        with path.open("wb") as stream:
            np.save(stream, np.concatenate(galleries) if galleries else np.empty((0, 0, 0, 3), np.uint8))

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
        counts = self.picture_counts
        if len(stored) != counts.sum():
            raise DataError(
                f"{path}: has {len(stored)} pictures, expected {counts.sum()}; run featurize again"
            )
        ends = counts.cumsum()
        pictures = [
            stored[end - count : end] if count else None for end, count in zip(ends, counts, strict=True)
        ]
        return replace(self, pictures=object_array(pictures))

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


def object_array(values: Sequence[np.ndarray | None]) -> np.ndarray:
    """An array of arrays; NumPy would stack those of one shape."""
    array = np.full(len(values), None, object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def trim(tokens: np.ndarray) -> np.ndarray:
    """Cut texts (N, T), each followed by zeros, to the length of the longest; at least one column remains."""
    return tokens[:, : max(1, np.count_nonzero(tokens.any(0)))]
