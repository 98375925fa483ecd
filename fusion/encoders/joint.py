"""Texts and pictures of an item as one vector: multimodal embedders such as Qwen3-VL-Embedding and GME.

Sentence Transformers reads and runs them, so prompts, chat template, pooling and norms are as the model's files say.
"""

import shutil
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from catalog.images import PictureError, decode, read_size
from catalog.schema import DataError
from catalog.threads import cpu_count
from fusion.encoders import hub
from fusion.encoders.control_tokens import ControlTokens
from fusion.encoders.families import FAMILIES, JOINT_FAMILIES
from fusion.encoders.families.sentence_transformers_models import SUFFIXES, list_files, read_prompts

PARAMETER = "featurize.joint_encoder"
TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 16_384}  # padding included
TOKEN_STEP = 16  # tokens; the length of a product is rounded up to a multiple
FILL = 8  # smaller batches for products: their last batch is filled up, see `JointEncoder._embed_products`
SPARE = 8  # tokens; a text that is cut between two tokens may have more of them than before
PROBE = 64  # pixels; side of a picture that every processor can read
TASKS = {"query": "query", "product": "document"}  # of Sentence Transformers, by role


class JointEncoder:
    """A published multimodal embedder. It stays frozen; float32 on a CPU, bfloat16 on a GPU.

    Args:
        folder: Holds the model.
        model: A `sentence_transformers.SentenceTransformer` that was read from it, for messages of text and pictures.
        instruction: Prompt before each query; None for the model's own.
        dim: Leading components of a vector to keep (Matryoshka; Kusupati et al., 2022); None for as many as the model's
            files say.

    Attributes:
        width: Width of the vectors, J.
    """

    def __init__(self, folder: Path, model: Any, instruction: str | None, dim: int | None) -> None:
        self.folder, self.model = folder, model
        self.settings = {"instruction": instruction, "dim": dim}
        if instruction is not None:
            model.prompts["query"] = instruction
        model.truncate_dim = dim or model.truncate_dim
        self.lengths = TokenLengths(model)
        self.control_tokens = ControlTokens.read(model[0].processor, model[0].tokenizer)
        self.budget = TOKENS_PER_BATCH[model.device.type]
        self.lock = Lock()  # a fast tokenizer cannot be called by two threads
        self.thread_pool = ThreadPoolExecutor(cpu_count())
        self.width = self._embed([_probe_picture((PROBE, PROBE))], "product").shape[1]

    @classmethod
    def pretrained(cls, name: str, instruction: str | None = None, dim: int | None = None) -> Self:
        """Read a published embedder.

        Args:
            name: One of `JOINT_FAMILIES` with a path, as "st:PATH".
            instruction: As of the class.
            dim: Likewise.

        Raises:
            DataError: if the name is unknown, the model cannot be loaded, or its vectors have fewer components.
        """
        kind, _, path = name.partition(":")
        if kind not in JOINT_FAMILIES:
            known = ", ".join(f"{family}:PATH" for family in JOINT_FAMILIES)
            raise DataError(f"{PARAMETER}: unknown joint encoder '{name}'; known are {known}")
        files, remedy = FAMILIES[kind].joint_files, f"joint_encoder: {kind}:FOLDER"
        with hub.explain_load_errors(PARAMETER, path or kind, ", ".join(files), remedy):
            hub.require_files(path, files)
            folder = hub.find_folder(path, [f"*{suffix}" for suffix in SUFFIXES])
            encoder = cls(folder, FAMILIES[kind].load_joint(str(folder)), instruction, dim)
        if dim and encoder.width < dim:
            raise DataError(
                f"featurize.joint_dim: {dim}, but the vectors of {name} have {encoder.width} components; "
                "set it to that or less, or to null"
            )
        return encoder

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """The inverse of `save`; needs no hub.

        Args:
            folder: What `save` wrote.
            settings: The attribute of that name.

        Raises:
            DataError: as `pretrained`; also if Sentence Transformers is not installed.
        """
        return cls.pretrained(f"st:{folder}", **settings)

    def save(self, folder: Path) -> None:
        """Copy the model's files: safetensors, JSON, the chat template and the vocabulary."""
        for path in list_files(self.folder):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / path, folder / path)

    def encode(
        self, texts: Sequence[str], galleries: Sequence[Sequence[bytes]], role: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Encode N items, in batches of similar length.

        Args:
            texts: Of the items; empty for an item without text. Control tokens in them do not act as such.
            galleries: The encoded pictures of each item, the main one first. Of an item that is too long for the model,
                the last pictures are left out, then the text is cut.
            role: "query" or "product"; decides the prompt.

        Returns:
            Unit vectors, float32 (N, J), zero for an item that has neither text nor a usable picture; and by position,
            why a picture is broken.
        """
        vectors = np.zeros((len(texts), self.width), np.float32)
        broken: dict[int, str] = {}
        with self.lock:
            texts = [self.control_tokens.neutralise(text) if text.strip() else "" for text in texts]
            lengths = [self.lengths.estimate(*item, role) for item in zip(texts, galleries, strict=True)]
            is_product = role == "product"
            group = (
                self._group_equal(lengths, galleries) if is_product else group_by_length(lengths, self.budget)
            )
            for rows in group:
                decoded = self.thread_pool.map(_decode_gallery, (galleries[row] for row in rows))
                contents = {}
                for row, pictures in zip(rows, decoded, strict=True):
                    usable, reason = self.lengths.select_readable(pictures)
                    broken |= {row: reason} if reason else {}
                    if content := self.lengths.fit(texts[row], usable, role):
                        contents[row] = content
                embed = self._embed_products if is_product else self._embed
                if contents:
                    vectors[[*contents]] = embed([*contents.values()], role)
        return vectors, broken

    def _group_equal(
        self, lengths: Sequence[int], galleries: Sequence[Sequence[bytes]]
    ) -> Iterator[list[int]]:
        """Group the positions of products whose text and pictures probably have equal shapes, for `_embed_products`."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, (length, gallery) in enumerate(zip(lengths, galleries, strict=True)):
            if length:
                groups[self._round(length), self.lengths.estimate_pictures(gallery)].append(row)
        for (width, _), rows in groups.items():
            size = self._count_rows(width)
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _embed_products(self, contents: list[dict[str, Any]], role: str) -> np.ndarray:
        """Embed N messages as `_embed`, each vector independent of the other messages.

        Kernels differ by the shape of their input, so messages of equal shape are embedded together, in batches that
        are filled up to a number of rows that depends on the shape alone.
        """
        vectors = np.zeros((len(contents), self.width), np.float32)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, content in enumerate(contents):
            length, pictures = self.lengths.measure(content, role)
            groups[self._round(length), pictures].append(row)
        for (width, _), rows in groups.items():
            size = self._count_rows(width)
            for start in range(0, len(rows), size):
                chunk = rows[start : start + size]
                batch = [contents[row] for row in np.resize(chunk, size)]
                vectors[chunk] = self._embed(batch, role, width)[: len(chunk)]
        return vectors

    def _round(self, length: int) -> int:
        """Tokens to which a product of that length is padded."""
        width = -(-(length + SPARE) // TOKEN_STEP) * TOKEN_STEP
        return width if self.lengths.limit is None else min(width, self.lengths.limit)

    def _count_rows(self, width: int) -> int:
        """Number of products in a batch: all of a batch are computed, even if it is filled up with copies."""
        return max(1, self.budget // FILL // width)

    @torch.inference_mode()
    def _embed(self, contents: list[dict[str, Any]], role: str, width: int | None = None) -> np.ndarray:
        """Embed one batch of messages, padded to `width` tokens or the longest: unit vectors, float32 (N, J)."""
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        padding = {"text": {"padding": "max_length", "max_length": width}} if width else {}
        vectors = encode(
            contents,
            batch_size=len(contents),
            convert_to_tensor=True,
            show_progress_bar=False,
            processing_kwargs=padding,
        )
        return normalize(vectors.float(), dim=1).cpu().numpy()  # in float32: bfloat16 has 3 digits


class TokenLengths:
    """Measures how many tokens a model reads of an item.

    Args:
        model: See `JointEncoder`.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.tokenizer = model, model[0].tokenizer
        self.limit: int | None = model[0].max_seq_length
        self.measure_frame = cache(self._measure_frame)
        self.measure_picture = cache(self._measure_picture)  # most catalogues have few sizes of pictures

    def estimate(self, text: str, gallery: Sequence[bytes], role: str) -> int:
        """The length of an item whose pictures are not decoded yet; 0 for an item without content."""
        if not (text or gallery):
            return 0
        return self.measure_frame(role) + self.estimate_pictures(gallery) + len(self._split(text))

    def estimate_pictures(self, gallery: Sequence[bytes]) -> int:
        """The length of the pictures of an item that are not decoded yet."""
        return sum(map(self._estimate, gallery))

    def measure(self, content: dict[str, Any], role: str) -> tuple[int, int]:
        """The length of a content of `fit`, to at most `SPARE` tokens more; and the length of its pictures alone."""
        pictures = sum(self.measure_picture(picture.size) for picture in content.get("image", ()))
        length = self.measure_frame(role) + pictures + len(self._split(content.get("text", "")))
        return length, pictures

    def _estimate(self, picture: bytes) -> int:
        try:
            return self.measure_picture(read_size(picture))
        except PictureError:  # `encode` returns the reason when it decodes the picture
            return 0

    def select_readable(
        self, pictures: Sequence[Image.Image | PictureError]
    ) -> tuple[list[Image.Image], str]:
        """The pictures that were decoded and that the model's processor accepts; and why the first of the others is
        neither, or an empty text.
        """
        readable, reasons = [], []
        for picture in pictures:
            try:
                if isinstance(picture, PictureError):
                    raise picture
                self.measure_picture(picture.size)
                readable.append(picture)
            except PictureError as error:
                reasons.append(str(error))
        return readable, next(iter(reasons), "")

    def fit(self, text: str, pictures: Sequence[Image.Image], role: str) -> dict[str, Any]:
        """The content of a message, pictures before text; empty for an item without content.

        The library itself cuts a text without pictures. Where there are pictures it would cut their places, too.
        """
        kept = list(pictures)
        if kept and self.limit is not None:
            free = self.limit - SPARE - self.measure_frame(role)
            ends = list(accumulate(self.measure_picture(picture.size) for picture in kept))
            kept = kept[: bisect_right(ends, free)]
            if kept:
                text = self._cut(text, free - ends[len(kept) - 1])
        content: dict[str, Any] = {"image": kept, "text": text}
        return {name: value for name, value in content.items() if value}

    def _cut(self, text: str, limit: int) -> str:
        offsets = self._split(text)
        return text if len(offsets) <= limit else text[: offsets[limit][0]]

    def _split(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token in a text."""
        options = {"add_special_tokens": False, "truncation": False, "verbose": False}
        return self.tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]

    def _measure_frame(self, role: str) -> int:
        """The length of the chat template and the prompt around an item, one token of it included."""
        return self._count({"text": "x"}, role)

    def _measure_picture(self, size: tuple[int, int]) -> int:
        """The length of a picture of this width and height, in pixels.

        Raises:
            PictureError: if the model's processor refuses such pictures, for example very narrow ones.
        """
        try:
            length = self._count(_probe_picture(size), "product")
        except ValueError as error:
            reason = f"{size[0]} × {size[1]} pixels, which the joint encoder refuses ({error})"
            raise PictureError(reason) from error
        return length - self.measure_frame("product")

    def _count(self, content: dict[str, Any], role: str) -> int:
        prompt = read_prompts(self.model.prompts).get(role, "")
        uncut = {"text": {"truncation": False}}
        batch = self.model.preprocess([content], prompt=prompt, task=TASKS[role], processing_kwargs=uncut)
        return batch["input_ids"].shape[1]


def group_by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group the positions of items into batches of similar length, the longest items first.

    Args:
        lengths: Tokens of N items; an item of length 0 is in no batch.
        budget: Most tokens of a batch, with all its items padded to the longest; a single item may have more.
    """
    rows = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    while rows:
        size = max(1, budget // lengths[rows[0]])
        yield rows[:size]
        rows = rows[size:]


def _probe_picture(size: tuple[int, int]) -> dict[str, Any]:
    return {"image": [Image.new("RGB", size)], "text": "x"}


def _decode_gallery(gallery: Sequence[bytes]) -> list[Image.Image | PictureError]:
    return [_decode(picture) for picture in gallery]


def _decode(picture: bytes) -> Image.Image | PictureError:
    try:
        return decode(picture)
    except PictureError as error:
        return error
