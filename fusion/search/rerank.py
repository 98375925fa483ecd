"""Rerankers, the second stage: models that read a query's text together with a product's picture.

The two-tower model can search a whole catalogue because it encodes each side once. A single-stream model must read
every pair, so it only reorders the first k products of each query.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from catalog.progress import show_progress
from catalog.schema import DataError
from fusion.encoders import hub
from fusion.plugin_registry import PluginRegistry

# Texts and pictures of B pairs → their scores.
PairScorer = Callable[[Sequence[str], Sequence[np.ndarray]], np.ndarray]
# Product ids → the reranker's inputs (pixels or regions); None for a product without a picture.
PictureLoader = Callable[[Sequence[str]], Sequence[np.ndarray | None]]


class Reranker(ABC):
    """A single-stream model with published weights, read as safetensors and never unpickled.

    Args:
        weights: A local folder in the Hugging Face format, or a model id on the hub; `model_id` by default.

    Attributes:
        model_id: The published model's id on the hub.
        revision: The revision of `model_id` that has safetensors.
        tokenizer_id: The tokenizer's id on the hub, if it differs from `model_id`.
        architecture: The model's class in transformers.
        image_size: Width and height of its input pictures, in pixels; None if it reads regions.
        required_files: The files that a folder must hold, and where they are published.

    Raises:
        DataError: transformers is not installed, or the weights cannot be loaded or belong to another model.
    """

    model_id: ClassVar[str]
    revision: ClassVar[str]
    tokenizer_id: ClassVar[str | None] = None
    architecture: ClassVar[str]
    image_size: ClassVar[int | None] = None
    required_files: ClassVar[str]

    def __init__(self, weights: str | None = None) -> None:
        weights = weights or self.model_id
        with hub.explain_load_errors("rerank", weights, self.required_files, "--rerank-weights"):
            self._load(weights, self.revision if weights == self.model_id else "main")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval().requires_grad_(False)

    def _load(self, weights: str, revision: str) -> None:
        import transformers

        options = hub.load_options(weights, revision)
        architecture = getattr(transformers, self.architecture)
        config, _ = architecture.config_class.get_config_dict(weights, **options)
        names = config.get("architectures") or ["nothing, or is missing"]
        if self.architecture not in names:
            raise ValueError(f"config.json should name {self.architecture}; it names {', '.join(names)}")
        self.model = hub.load_model(self.architecture, weights, revision)
        if self.tokenizer_id and not options["local_files_only"]:
            weights, options = self.tokenizer_id, hub.load_options(self.tokenizer_id)
        self.tokenizer = transformers.BertTokenizer.from_pretrained(weights, **options)
        if (
            len(self.tokenizer) != self.model.config.vocab_size
        ):  # if its files are missing, it is almost empty
            raise ValueError(
                f"the tokenizer knows {len(self.tokenizer)} words, the model {self.model.config.vocab_size}"
            )

    @torch.inference_mode()
    def score(self, texts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Score how well each text and picture match.

        Args:
            texts: B texts; truncated to the model's number of positions.
            pictures: B pictures, in the model's input format.

        Returns:
            float32 of shape (B,), higher for a better match.

        Raises:
            DataError: a picture has the wrong format.
        """
        limit = self.model.config.max_position_embeddings
        words = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        return self._score_batch(words.to(self.device), pictures).cpu().numpy()

    @abstractmethod
    def _score_batch(self, words: Mapping[str, Tensor], pictures: Sequence[np.ndarray]) -> Tensor: ...


RERANKERS: PluginRegistry[type[Reranker]] = PluginRegistry("reranker")


@RERANKERS("vilt")
class Vilt(Reranker):
    """ViLT (Kim et al., 2021) with its head for retrieval: pictures uint8 (H, W, 3), RGB, of any size.

    The processor scales the shorter side to 384 pixels. If one side is more than `MAX_ASPECT_RATIO` times the other, no
    patch is left to read; `catalog.images.fit` makes any picture a square.
    """

    model_id = "dandelin/vilt-b32-finetuned-coco"
    revision = "refs/pr/2"
    architecture = "ViltForImageAndTextRetrieval"
    image_size = 384
    required_files = (
        "config.json, model.safetensors, preprocessor_config.json, tokenizer_config.json and vocab.txt "
        f"of {model_id} at the revision {revision}"
    )
    MAX_ASPECT_RATIO = 20

    def _load(self, weights: str, revision: str) -> None:
        from transformers import ViltImageProcessor

        super()._load(weights, revision)
        self.processor = ViltImageProcessor.from_pretrained(weights, **hub.load_options(weights, revision))

    def _score_batch(self, words: Mapping[str, Tensor], pictures: Sequence[np.ndarray]) -> Tensor:
        for picture in pictures:
            shape = picture.shape
            is_rgb = picture.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and picture.size
            if not is_rgb or max(shape[:2]) > self.MAX_ASPECT_RATIO * min(shape[:2]):
                raise DataError(
                    f"vilt: a picture is {picture.dtype} {shape}; give uint8 (H, W, 3) with no side more than "
                    f"{self.MAX_ASPECT_RATIO} times the other, for example from catalog.images.fit"
                )
        pixels = self.processor(list(pictures), input_data_format="channels_last", return_tensors="pt")
        # The model shuffles the patches at random: use a fixed seed, and leave the global generator unchanged.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.model(**words, **pixels.to(self.device)).logits[:, 0]


@RERANKERS("visualbert")
class VisualBert(Reranker):
    """VisualBERT (Li et al., 2019) with its head for image-caption matching.

    It reads no pixels, only a picture's regions: float (N, D), one row a region and D the `visual_embedding_dim` of
    the weights. The published weights were trained on the regions of a Faster R-CNN (D = 2,048) and on two captions at
    a time. For other regions, such as the cells of an image encoder's last feature map, and for queries instead of
    captions, fine-tune the weights first.
    """

    model_id = "uclanlp/visualbert-vqa-coco-pre"
    revision = "refs/pr/1"
    tokenizer_id = "google-bert/bert-base-uncased"
    architecture = "VisualBertForPreTraining"
    required_files = (
        f"config.json and model.safetensors of {model_id} at the revision {revision}, "
        f"and tokenizer_config.json and vocab.txt of {tokenizer_id},"
    )

    def _score_batch(self, words: Mapping[str, Tensor], pictures: Sequence[np.ndarray]) -> Tensor:
        width = self.model.config.visual_embedding_dim
        for regions in pictures:
            if regions.ndim != 2 or not len(regions) or regions.shape[1] != width:
                raise DataError(
                    f"visualbert: the regions of a picture have shape {regions.shape}, the weights need (N, {width}); "
                    f"give regions of width {width}, or weights that are fine-tuned on such regions"
                )
        lengths = torch.tensor([len(regions) for regions in pictures])
        tensors = [torch.tensor(regions, dtype=torch.float32) for regions in pictures]
        padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        # Skips the model's other head, which would score every word of the vocabulary at every position.
        output = self.model.visual_bert(
            **words,
            visual_embeds=padded.to(self.device),
            visual_attention_mask=mask.long().to(self.device),
        )
        logits = self.model.cls.seq_relationship(output.pooler_output)
        # Class 1 means match: the weights were trained that way (uclanlp/visualbert, dataloaders/coco_dataset.py and
        # issue 26), although transformers' documentation says the opposite.
        return logits[:, 1] - logits[:, 0]


def rerank(
    run: pa.Table,
    texts: Mapping[str, str],
    load_pictures: PictureLoader,
    score: PairScorer,
    k: int,
    batch_size: int = 32,
) -> pa.Table:
    """Reorder the first k products of each query by the scores of a second model.

    A pair is scored if the query has a text and the product has a picture. Only scored products change places among
    themselves, ties in their old order; every other product keeps its place.

    Args:
        run: Columns query_id, product_id and score, as `fusion.search.catalogue_search.rank_products` returns.
        texts: Query id → text; absent or empty for queries without text.
        load_pictures: Loads the inputs of `score` for product ids.
        score: `Reranker.score`.
        k: Products per query.
        batch_size: Pairs scored at a time.

    Returns:
        The run, best first. The two models' scores have no common scale, so score is now 1 / rank.

    Raises:
        DataError: a score is not a finite number.
    """
    query = run["query_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((-run["score"].to_numpy(), query))
    run, query = run.take(order), query[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    first_rows = np.flatnonzero(place < k)
    scored_rows, scores = _score_rows(run.take(first_rows), texts, load_pictures, score, batch_size)
    rows = first_rows[scored_rows]
    reordered = np.arange(len(query))
    reordered[rows] = rows[np.lexsort((-scores, query[rows]))]
    new_scores = pa.array(1 / (place + 1))
    return run.take(reordered).set_column(run.column_names.index("score"), "score", new_scores)


def _score_rows(
    run: pa.Table,
    texts: Mapping[str, str],
    load_pictures: PictureLoader,
    score: PairScorer,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every pair of a run that has text and picture: row numbers, int64 (N,), and scores (N,).

    Raises:
        DataError: a score is not a finite number.
    """
    query_ids, product_ids = run["query_id"].to_pylist(), run["product_id"].to_pylist()
    text_rows = [row for row, query_id in enumerate(query_ids) if texts.get(query_id)]
    scored_rows: list[int] = []
    batch_scores: list[np.ndarray] = []
    for start in show_progress(range(0, len(text_rows), batch_size), "rerank", unit="batch"):
        batch = text_rows[start : start + batch_size]
        loaded = load_pictures([product_ids[row] for row in batch])
        pictures = {row: picture for row, picture in zip(batch, loaded, strict=True) if picture is not None}
        if pictures:
            batch_scores.append(score([texts[query_ids[row]] for row in pictures], list(pictures.values())))
            scored_rows += pictures
    scores = np.concatenate([np.empty(0), *batch_scores])
    if not np.isfinite(scores).all():
        row = scored_rows[int(np.argmin(np.isfinite(scores)))]
        raise DataError(
            f"rerank: query '{query_ids[row]}', product '{product_ids[row]}': the score is not a finite number; "
            "check the reranker's weights and this product's picture"
        )
    return np.array(scored_rows, np.int64), scores
