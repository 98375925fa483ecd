"""From texts and encoded pictures to `Items`: the same code for a catalogue of millions and for one query."""

import filecmp
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tqdm import tqdm

from catalog import store
from catalog.images import PictureError, decode, fit
from catalog.schema import TEXT_COLUMNS, product_text
from fusion.encoders.image import ImageEncoder
from fusion.encoders.video import Clips
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items

BATCH = 32  # pictures per forward pass; larger batches fall out of a CPU's cache
_QUERY_TEXTS = ("query_id", "text", "split", "segment")
COLUMNS = {
    "products": ("product_id", *TEXT_COLUMNS, "image", "video"),
    "queries": (*_QUERY_TEXTS, "image"),
}
NO_SIDES: Mapping[str, str] = {}
ENCODER = "encoder.safetensors"
FILES = ("vocabulary.json", ENCODER, "clips.safetensors", "featurizer.json")


class Featurizer:
    """A vocabulary, a frozen image encoder, and what reads clips.

    Args:
        vocabulary: Of the training texts.
        encoder: Moved to the GPU where there is one.
        clips: Likewise.
        image_size: Pixels; the square a picture is fitted into.
        max_tokens: Words kept of a text.
    """

    def __init__(
        self, vocabulary: Vocabulary, encoder: ImageEncoder, clips: Clips, image_size: int, max_tokens: int
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vocabulary = vocabulary
        self.encoder, self.clips = encoder.to(self.device), clips.to(self.device)
        self.image_size, self.max_tokens = image_size, max_tokens
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def save(self, folder: Path) -> None:
        """Write `FILES`."""
        self.vocabulary.save(folder / "vocabulary.json")
        self.encoder.save(folder / ENCODER)
        self.clips.save(folder / "clips.safetensors")
        settings = {
            "encoder": [self.encoder.name, self.encoder.grid, dict(self.encoder.settings)],
            "clips": [self.clips.name, self.clips.frames],
            "image_size": self.image_size,
            "max_tokens": self.max_tokens,
        }
        (folder / "featurizer.json").write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`; needs no hub and no package of weights."""
        settings = json.loads((folder / "featurizer.json").read_text())
        encoder = ImageEncoder.load(folder / ENCODER, *settings.pop("encoder"))
        name, frames = settings.pop("clips")
        clips = Clips.load(name, frames, folder / "clips.safetensors")
        return cls(Vocabulary.load(folder / "vocabulary.json"), encoder, clips, **settings)

    def rows(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        sides: Mapping[str, str] = NO_SIDES,
        keep: bool = False,
    ) -> tuple[Items, dict[int, str]]:
        """Featurize N rows of a table.

        Args:
            table: "products" or "queries".
            rows: With the columns of `COLUMNS`; a picture is a struct as in `catalog.schema.PICTURE`.
            sides: Split by product id, "train" where absent; queries have one of their own.
            keep: Whether the items keep their pictures.

        Returns:
            The items, and why some pictures or clips are broken, by position; those count as missing.
        """
        pictures = [row["image"] and row["image"]["bytes"] for row in rows]
        images, regions, kept, broken = self._images(pictures, keep)
        videos, broken_videos = self._videos([row.get("video") for row in rows])
        if table == "products":
            ids, texts = [row["product_id"] for row in rows], [product_text(row) for row in rows]
            splits, segments = [sides.get(i, "train") for i in ids], [""] * len(rows)
        else:
            ids, texts, splits, segments = ([row[name] or "" for row in rows] for name in _QUERY_TEXTS)
        has_image = [picture is not None and i not in broken for i, picture in enumerate(pictures)]
        items = Items(
            ids=np.array(ids, object),
            splits=np.array(splits, object),
            segments=np.array(segments, object),
            tokens=self.vocabulary.encode(texts, self.max_tokens),
            images=images,
            regions=regions,
            has_image=np.array(has_image, bool),
            videos=videos,
            pictures=kept,
        )
        return items, broken_videos | broken

    def table(self, data: Path, table: str) -> Items:
        """Featurize a whole table of a data set."""
        batches = tqdm(store.batches(data, table, COLUMNS[table]), f"featurize {table}", unit="batch")
        none, _ = self.rows(table, [])  # a table may be empty
        return Items.concatenate([none, *(self.rows(table, batch.to_pylist())[0] for batch in batches)])

    @torch.inference_mode()
    def encode(self, pictures: Sequence[np.ndarray], padded: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """One batch through the image encoder.

        Args:
            pictures: P of them, uint8 (S, S, 3).
            padded: What P is filled up to: a CPU's kernels are prepared anew, at length, for each shape.

        Returns:
            Features of each, float16 (P, D), and of its regions, float16 (P, R, C).
        """
        stacked = np.zeros((max(padded, len(pictures)), self.image_size, self.image_size, 3), np.uint8)
        stacked[: len(pictures)] = pictures
        pooled, parts = self.encoder(torch.from_numpy(stacked).to(self.device))
        return pooled[: len(pictures)].half().cpu().numpy(), parts[: len(pictures)].half().cpu().numpy()

    def encode_again(self, items: Items) -> Items:
        """The same items with features of the pictures that were kept of them."""
        images, regions = items.images.copy(), items.regions.copy()
        rows = np.flatnonzero(items.has_image)
        for start in tqdm(range(0, len(rows), BATCH), "encode pictures", unit="batch"):
            some = rows[start : start + BATCH]
            images[some], parts = self.encode(items.pictures[some].tolist(), BATCH)
            if regions.size:  # they may not have been asked for
                regions[some] = parts
        return replace(items, images=images, regions=regions)

    def _images(
        self, pictures: Sequence[bytes | None], keep: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]:
        """Features, float16 (N, D) and (N, R, C), zero where there is no picture; `Items.pictures`; what is broken."""
        given = [i for i, data in enumerate(pictures) if data is not None]
        decoded = self.pool.map(self._decode, (pictures[i] for i in given))  # runs ahead of the encoder
        broken: dict[int, str] = {}
        usable: list[tuple[int, np.ndarray]] = []
        out = np.zeros((len(pictures), self.encoder.width), np.float16)
        parts = np.zeros((len(pictures), self.encoder.grid**2, self.encoder.region_width), np.float16)
        kept = np.full(len(pictures), None, object)

        def encode() -> None:
            if usable:
                rows, stack = zip(*usable, strict=True)
                out[[*rows]], parts[[*rows]] = self.encode(stack, min(BATCH, len(given)))
                usable.clear()

        for i, picture in zip(given, decoded, strict=True):
            if isinstance(picture, PictureError):
                broken[i] = str(picture)
                continue
            usable.append((i, picture))
            if keep:
                kept[i] = picture
            if len(usable) == BATCH:
                encode()
        encode()
        return out, parts, kept, broken

    def _videos(self, clips: Sequence[list[dict[str, Any]] | None]) -> tuple[np.ndarray, dict[int, str]]:
        """As `Items.videos`, and what is broken; a clip without frames is none."""
        given = [i for i, frames in enumerate(clips) if frames]
        read = self.pool.map(self._read, ([frame["bytes"] for frame in clips[i] or ()] for i in given))
        out = np.full(len(clips), None, object)
        usable, broken = [], {}
        for i, clip in zip(given, read, strict=True):
            if isinstance(clip, PictureError):
                broken[i] = str(clip)
            else:
                usable.append((i, clip))
        for start in range(0, len(usable), BATCH):
            rows, stack = zip(*usable[start : start + BATCH], strict=True)
            out[list(rows)] = [*self.clips(np.stack(stack))]
        return out, broken

    def _read(self, frames: list[bytes]) -> np.ndarray | PictureError:
        try:
            return self.clips.read(frames)
        except PictureError as error:
            return error

    def _decode(self, data: bytes) -> np.ndarray | PictureError:
        try:
            return fit(decode(data), self.image_size)
        except PictureError as error:
            return error


def load_items(features: Path, table: str, model: Path, regions: bool = False) -> Items:
    """One table of a features folder as a model takes it: where training tuned its image encoder, with that one's
    features, made of the pictures that were kept.

    Args:
        features: What `featurize` wrote.
        table: "products" or "queries".
        model: What `train` wrote.
        regions: Whether the features of regions are wanted.

    Raises:
        DataError: where there are none, or pictures are needed and were not kept.
    """
    tuned = not filecmp.cmp(features / ENCODER, model / ENCODER, shallow=False)
    items = Items.load(features, table, regions, pictures=tuned)
    return Featurizer.load(model).encode_again(items) if tuned else items
