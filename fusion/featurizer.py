"""From texts and encoded pictures to `Items`: the same code for a whole catalogue and for a single query."""

import filecmp
import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from catalog import store
from catalog.images import PictureError, decode
from catalog.progress import show_progress
from catalog.schema import TEXT_COLUMNS, Picture, list_pictures, product_text
from catalog.threads import cpu_count
from fusion.encoders.adapters import load_adapters
from fusion.encoders.image import ImageEncoder
from fusion.encoders.joint import JointEncoder
from fusion.encoders.ocr import SIDE, open_reader
from fusion.encoders.runtime import open_session
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items, object_array

BATCH = 32  # pictures per forward pass; larger batches exceed the cache of a CPU
CLIPS = 4  # clips per forward pass on a CPU
GPU_BATCH = 256  # likewise; smaller batches leave a GPU idle
_QUERY_TEXTS = ("query_id", "text", "split", "segment")
COLUMNS = {
    "products": ("product_id", *TEXT_COLUMNS, "images", "video"),
    "queries": (*_QUERY_TEXTS, "image"),
}
NO_SIDES: Mapping[str, str] = {}
NO_PROMPTS: Mapping[str, str] = {}
ROLES = {"products": "product", "queries": "query"}
ENCODER, SETTINGS = "encoder.safetensors", "featurizer.json"
FILES = ("vocabulary.json", ENCODER, "clips.safetensors", SETTINGS)
JOINT = "joint"  # folder of the joint encoder, if there is one


class Featurizer:
    """A vocabulary, a frozen image encoder, a reader of clips and, if there is one, a frozen joint encoder.

    Args:
        vocabulary: Of the training texts.
        encoder: Moved to the GPU if there is one.
        clips: Likewise.
        image_size: See `ImageEncoder.prepare`.
        max_tokens: Tokens kept of a text.
        max_pictures: Largest number of pictures kept of a product, the main one included.
        prompts: Text before each text of a role, "query" or "product", see `Vocabulary.encode`.
        runtime: See `fusion.encoders.runtime.open_session`.
        ocr: Name of the reader of text on products' pictures, see `fusion.encoders.ocr`; None to read none. It is
            opened when the first product comes: queries need none.
        precision: See `fusion.encoders.runtime.open_session`.
        joint: Encodes the text and the pictures of an item together.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        encoder: ImageEncoder,
        clips: ClipReader,
        image_size: int | None,
        max_tokens: int,
        max_pictures: int,
        prompts: Mapping[str, str] = NO_PROMPTS,
        runtime: str = "torch",
        ocr: str | None = None,
        precision: str = "float32",
        joint: JointEncoder | None = None,
    ) -> None:
        self.prompts, self.ocr, self.joint = prompts, ocr, joint
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vocabulary = vocabulary
        self.encoder, self.clips = encoder.to(self.device), clips.to(self.device)
        self.image_size, self.max_tokens, self.max_pictures = image_size, max_tokens, max_pictures
        height, width, _ = self.encoder.prepare(Image.new("RGB", (64, 64)), image_size).shape
        self.session = open_session(runtime, self.encoder, (height, width), precision)
        self.batch_size = GPU_BATCH if self.device.type == "cuda" else BATCH
        self.thread_pool = ThreadPoolExecutor(cpu_count())

    def save(self, folder: Path) -> None:
        """Write `FILES` and, with a joint encoder, the folder `JOINT`."""
        self.vocabulary.save(folder / "vocabulary.json")
        self.encoder.save(folder / ENCODER)
        self.clips.save(folder / "clips.safetensors")
        settings = {
            "encoder": [self.encoder.name, self.encoder.grid, dict(self.encoder.settings)],
            "clips": [self.clips.name, self.clips.frames],
            "image_size": self.image_size,
            "max_tokens": self.max_tokens,
            "max_pictures": self.max_pictures,
            "prompts": dict(self.prompts),
            "runtime": self.session.name,
            "ocr": self.ocr,
            "precision": self.session.precision,
            "joint": self.joint and self.joint.settings,
        }
        if self.joint:
            self.joint.save(folder / JOINT)
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, with_joint: bool = True) -> Self:
        """The inverse of `save`; needs no hub and no package of weights. Without OpenVINO, PyTorch encodes.

        Args:
            folder: What `save` wrote.
            with_joint: Whether to load the joint encoder, which may be large.
        """
        settings = json.loads((folder / SETTINGS).read_text())
        runtime = "torch" if settings.pop("runtime") == "torch" else "auto"
        encoder = ImageEncoder.load(folder / ENCODER, *settings.pop("encoder"))
        name, frames = settings.pop("clips")
        clips = ClipReader.load(name, frames, folder / "clips.safetensors")
        joint_settings = settings.pop("joint")
        joint = JointEncoder.load(folder / JOINT, joint_settings) if joint_settings and with_joint else None
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        return cls(vocabulary, encoder, clips, **settings, runtime=runtime, joint=joint)

    def featurize_rows(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        sides: Mapping[str, str] = NO_SIDES,
        keep_pictures: bool = False,
    ) -> tuple[Items, dict[int, str]]:
        """Featurize N rows of a table.

        Args:
            table: "products" or "queries".
            rows: With the columns of `COLUMNS`; a picture is a struct as in `catalog.schema.PICTURE`.
            sides: Split by product id, "train" where absent; queries have a split of their own.
            keep_pictures: Whether the items hold their pictures.

        Returns:
            The items, and by position the reason why a picture or clip is broken; broken ones count as missing.
        """
        galleries = [list_pictures(row)[: self.max_pictures] for row in rows]
        # the features of a product depend on the product alone: its batches have equal shapes, see `fusion.model.embed`
        padded = self.batch_size if table == "products" else 0
        arrays, broken = self._encode_galleries(galleries, keep_pictures, padded)
        videos, broken_videos = self._encode_videos([row.get("video") for row in rows])
        ocr = np.full(len(rows), None, object)
        if table == "products":
            ocr = self._read_pictures(galleries)
            ids = [row["product_id"] for row in rows]
            texts = [self.product_text(row, text) for row, text in zip(rows, ocr, strict=True)]
            splits, segments = [sides.get(i, "train") for i in ids], [""] * len(rows)
        else:
            ids, texts, splits, segments = ([row[name] or "" for row in rows] for name in _QUERY_TEXTS)
        joint, broken_joint = self._encode_joint(table, rows, galleries)
        items = Items(
            ids=np.array(ids, object),
            splits=np.array(splits, object),
            segments=np.array(segments, object),
            tokens=self.vocabulary.encode(texts, self.max_tokens, self.prompts.get(ROLES[table], "")),
            videos=videos,
            ocr=ocr,
            joint=joint,
            **arrays,
        )
        return items, broken_videos | broken_joint | broken

    def _encode_joint(
        self, table: str, rows: Sequence[Mapping[str, Any]], galleries: Sequence[Sequence[Picture]]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """`Items.joint`, and why pictures are broken. The encoder itself reads the text on pictures."""
        if not self.joint:
            return np.zeros((len(rows), 0), np.float16), {}
        is_product = table == "products"
        texts = [product_text(row) if is_product else row["text"] or "" for row in rows]
        pictures = [[picture["bytes"] for picture in gallery] for gallery in galleries]
        vectors, broken = self.joint.encode(texts, pictures, ROLES[table])
        return vectors.astype(np.float16), broken

    def product_text(self, row: Mapping[str, Any], ocr: str | None) -> str:
        """What the text encoder reads of a product.

        Args:
            row: As for `featurize_rows`.
            ocr: Its text in `Items.ocr`. Words that the vocabulary cannot read are left out: the shop did not write
                them, and `featurize.max_unreadable` is about what it wrote.
        """
        return product_text(row, ocr and self.vocabulary.drop_unreadable(ocr))

    def featurize_table(self, data: Path, table: str) -> Items:
        """Featurize a whole table of a data set."""
        batches = show_progress(
            store.read_batches(data, table, COLUMNS[table]), f"featurize {table}", unit="batch"
        )
        no_items, _ = self.featurize_rows(table, [])  # a table may be empty
        shards = (self.featurize_rows(table, batch.to_pylist())[0] for batch in batches)
        return Items.concatenate([no_items, *shards])

    def encode_pictures(
        self, pictures: Sequence[np.ndarray], padded: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode one batch of pictures.

        Args:
            pictures: P of them, uint8 (H, W, 3).
            padded: Smallest batch size; empty pictures fill it up. On a CPU, each new shape costs a slow preparation.

        Returns:
            Features of each picture, float16 (P, D), and of its regions, float16 (P, R, C).
        """
        stacked = np.zeros((max(padded, len(pictures)), *pictures[0].shape), np.uint8)
        stacked[: len(pictures)] = pictures
        pooled, regions = self.session(stacked)
        return pooled[: len(pictures)], regions[: len(pictures)]

    def reencode_pictures(self, items: Items) -> Items:
        """The same items with new features of the pictures that they hold."""
        galleries = [(row, gallery) for row, gallery in enumerate(items.pictures) if gallery is not None]
        pictures = ((row, picture) for row, gallery in galleries for picture in gallery)
        count = sum(len(gallery) for _, gallery in galleries)
        progress = show_progress(pictures, "encode pictures", count, unit="picture")
        return replace(
            items,
            **self._encode_batches(progress, len(items), self.batch_size, regions=items.regions.size > 0),
        )

    def _read_pictures(self, galleries: Sequence[Sequence[Picture]]) -> np.ndarray:
        """`Items.ocr` of N products: the lines on all pictures in order, each line once."""
        if self.ocr is None:
            return np.full(len(galleries), None, object)
        reader = open_reader(self.ocr)

        def read_lines(picture: Picture) -> list[str]:
            try:
                return reader(decode(picture["bytes"], side=SIDE))
            except PictureError:  # `_encode_galleries` reports it
                return []

        lines = self.thread_pool.map(read_lines, itertools.chain.from_iterable(galleries))
        texts = np.full(len(galleries), "", object)
        for row, gallery in enumerate(galleries):
            texts[row] = " ".join(dict.fromkeys(itertools.chain(*itertools.islice(lines, len(gallery)))))
        return texts

    def _encode_galleries(
        self, galleries: Sequence[Sequence[Picture]], keep_pictures: bool, padded: int
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """The fields of `Items` for the pictures of N items; and by position, why a picture is broken."""
        rows = [row for row, gallery in enumerate(galleries) for _ in gallery]
        decoded = self.thread_pool.map(
            self._decode_picture, (picture["bytes"] for gallery in galleries for picture in gallery)
        )
        broken: dict[int, str] = {}
        kept: dict[int, list[np.ndarray]] = defaultdict(list)

        def select_usable() -> Iterator[tuple[int, np.ndarray]]:
            # threads decode while the encoder runs: Pillow releases the GIL to decode and to resize
            for row, picture in zip(rows, decoded, strict=True):
                if isinstance(picture, PictureError):
                    broken.setdefault(row, str(picture))
                    continue
                if keep_pictures:
                    kept[row].append(picture)
                yield row, picture

        arrays = self._encode_batches(
            select_usable(), len(galleries), padded or min(self.batch_size, len(rows))
        )
        pictures = [np.stack(kept[row]) if row in kept else None for row in range(len(galleries))]
        return arrays | {"pictures": object_array(pictures)}, broken

    def _encode_batches(
        self, pictures: Iterable[tuple[int, np.ndarray]], count: int, padded: int, regions: bool = True
    ) -> dict[str, np.ndarray]:
        """Encode the pictures of N items: `images`, `galleries`, `regions` and `has_image` of `Items`.

        Args:
            pictures: Position of the item, ascending, and a picture of it, uint8 (H, W, 3); the main picture first.
            count: Number of items, N.
            padded: See `encode_pictures`.
            regions: Whether to return features of regions, which are large.
        """
        images, has_image = np.zeros((count, self.encoder.width), np.float16), np.zeros(count, bool)
        cells = self.encoder.grid**2 if regions else 0
        parts = np.zeros((count, cells, self.encoder.region_width if regions else 0), np.float16)
        others: dict[int, list[np.ndarray]] = defaultdict(list)
        stream = iter(pictures)
        while batch := list(itertools.islice(stream, self.batch_size)):
            rows, stack = zip(*batch, strict=True)
            for row, features, cell_features in zip(rows, *self.encode_pictures(stack, padded), strict=True):
                if has_image[row]:
                    others[row].append(features)
                    continue
                images[row], has_image[row] = features, True
                if regions:
                    parts[row] = cell_features
        galleries = object_array([np.stack(others[row]) if row in others else None for row in range(count)])
        return {"images": images, "galleries": galleries, "regions": parts, "has_image": has_image}

    def _encode_videos(
        self, videos: Sequence[list[dict[str, Any]] | None]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """`Items.videos`, and why clips are broken. A clip without frames counts as missing."""
        rows = [row for row, frames in enumerate(videos) if frames]
        clips = self.thread_pool.map(
            self._read_clip, ([frame["bytes"] for frame in videos[row] or ()] for row in rows)
        )
        encoded = np.full(len(videos), None, object)
        usable, broken = [], {}
        for row, clip in zip(rows, clips, strict=True):
            if isinstance(clip, PictureError):
                broken[row] = str(clip)
            else:
                usable.append((row, clip))
        size = BATCH if self.device.type == "cuda" else CLIPS
        for start in range(0, len(usable), size):
            batch, stack = zip(*usable[start : start + size], strict=True)
            filled = [stack[number % len(stack)] for number in range(size)]  # as pictures: equal shapes
            encoded[list(batch)] = [*self.clips(np.stack(filled))[: len(batch)]]
        return encoded, broken

    def _read_clip(self, frames: list[bytes]) -> np.ndarray | PictureError:
        try:
            return self.clips.read(frames)
        except PictureError as error:
            return error

    def prepare(self, data: bytes) -> np.ndarray:
        """Decode a picture and turn it into input of the image encoder, uint8 (H, W, 3).

        Raises:
            PictureError: if the picture cannot be used.
        """
        side = self.encoder.measure_square(self.image_size)
        return self.encoder.prepare(decode(data, side=side), self.image_size)

    def _decode_picture(self, data: bytes) -> np.ndarray | PictureError:
        try:
            return self.prepare(data)
        except PictureError as error:
            return error


def load_items(features: Path, table: str, model: Path, regions: bool = False) -> Items:
    """One table of a features folder as input of a model.

    If training tuned the image encoder, the tuned encoder encodes the stored pictures again.

    Args:
        features: What `featurize` wrote.
        table: "products" or "queries".
        model: What `train` wrote.
        regions: Whether to load the features of regions.

    Raises:
        DataError: if there are no features, or pictures are needed and featurize kept none.
    """
    same = filecmp.cmp(features / ENCODER, model / ENCODER, shallow=False)
    tuned = not same or bool(load_adapters(model, "image"))
    items = Items.load(features, table, regions, pictures=tuned)
    return Featurizer.load(model, with_joint=False).reencode_pictures(items) if tuned else items


def copy_featurizer(source: Path, folder: Path) -> None:
    """Copy what `Featurizer.save` wrote to another folder."""
    for name in FILES:
        shutil.copy(source / name, folder / name)
    if (source / JOINT).is_dir():
        shutil.copytree(source / JOINT, folder / JOINT, dirs_exist_ok=True)
