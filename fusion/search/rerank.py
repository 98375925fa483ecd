"""The second stage: models that read a query's text together with a product's picture.

The two towers search a whole catalogue, because they encode each side once. A single-stream model reads every pair
anew, so it only puts the first k products of each query into a better order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from tqdm import tqdm

from catalog.schema import DataError
from fusion.encoders import hub
from fusion.plugin_registry import Registry

# Texts and pictures of B pairs → their scores.
Score = Callable[[Sequence[str], Sequence[np.ndarray]], np.ndarray]
# Ids of products → what a reranker reads of them, None for one without a picture.
Pictures = Callable[[Sequence[str]], Sequence[np.ndarray | None]]


class Reranker(ABC):
    """A single-stream model with published weights, which are read as safetensors and never unpickled.

    Args:
        weights: A folder in the Hugging Face format, for which no network is used, or the id of a model on the hub,
            by default `published`.

    Attributes:
        published: The model's id on the hub.
        revision: The one that holds `published` as safetensors.
        vocabulary: The tokenizer's id on the hub, where that is another.
        architecture: Its class in transformers.
        side: Pixels of the squares that it reads pictures as; None where it reads regions.
        files: What a folder must hold, and where it is published.

    Raises:
        DataError: where transformers is not installed, or where the weights cannot be reached or are those of another
            model; it says how to get them.
    """

    published: ClassVar[str]
    revision: ClassVar[str]
    vocabulary: ClassVar[str | None] = None
    architecture: ClassVar[str]
    side: ClassVar[int | None] = None
    files: ClassVar[str]

    def __init__(self, weights: str | None = None) -> None:
        weights = weights or self.published
        with hub.explained("rerank", weights, self.files, "--rerank-weights"):
            self._load(weights, self.revision if weights == self.published else "main")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval().requires_grad_(False)

    def _load(self, weights: str, revision: str) -> None:
        import transformers

        options = hub.options(weights, revision)
        architecture = getattr(transformers, self.architecture)
        config, _ = architecture.config_class.get_config_dict(weights, **options)
        found = config.get("architectures") or ["nothing, or is missing"]
        if self.architecture not in found:
            raise ValueError(f"config.json should name {self.architecture}; it names {', '.join(found)}")
        self.model = hub.load(self.architecture, weights, revision)
        if self.vocabulary and not options["local_files_only"]:
            weights, options = self.vocabulary, hub.options(self.vocabulary)
        self.tokenizer = transformers.BertTokenizer.from_pretrained(weights, **options)
        if len(self.tokenizer) != self.model.config.vocab_size:  # without its files it comes almost empty
            raise ValueError(
                f"the tokenizer knows {len(self.tokenizer)} words, the model {self.model.config.vocab_size}"
            )

    @torch.inference_mode()
    def score(self, texts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
        """How well each text and picture match.

        Args:
            texts: B of them; what the model has no positions for is cut off.
            pictures: B of them, as the model reads them.

        Returns:
            float32 of shape (B,), higher for a better match.

        Raises:
            DataError: for a picture that the model cannot read.
        """
        limit = self.model.config.max_position_embeddings
        words = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        return self._scores(words.to(self.device), pictures).cpu().numpy()

    @abstractmethod
    def _scores(self, words: Mapping[str, Tensor], pictures: Sequence[np.ndarray]) -> Tensor: ...


RERANKERS: Registry[type[Reranker]] = Registry("reranker")


@RERANKERS("vilt")
class Vilt(Reranker):
    """ViLT (Kim et al., 2021) with its head for retrieval: pictures uint8 (H, W, 3), RGB, of any size.

    The published weights see them scaled to 384 pixels on the shorter side. One side over `LONGEST` times the other
    leaves them no patch to read; `catalog.images.fit` makes any picture a square.
    """

    published = "dandelin/vilt-b32-finetuned-coco"
    revision = "refs/pr/2"
    architecture = "ViltForImageAndTextRetrieval"
    side = 384
    files = (
        "config.json, model.safetensors, preprocessor_config.json, tokenizer_config.json and vocab.txt "
        f"of {published} at the revision {revision}"
    )
    LONGEST = 20

    def _load(self, weights: str, revision: str) -> None:
        from transformers import ViltImageProcessor

        super()._load(weights, revision)
        self.processor = ViltImageProcessor.from_pretrained(weights, **hub.options(weights, revision))

    def _scores(self, words: Mapping[str, Tensor], pictures: Sequence[np.ndarray]) -> Tensor:
        for picture in pictures:
            shape = picture.shape
            colour = picture.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and picture.size
            if not colour or max(shape[:2]) > self.LONGEST * min(shape[:2]):
                raise DataError(
                    f"vilt: a picture is {picture.dtype} {shape}; give uint8 (H, W, 3), neither side "
                    f"over {self.LONGEST} times the other, as catalog.images.fit does"
                )
        pixels = self.processor(list(pictures), input_data_format="channels_last", return_tensors="pt")
        # The model draws an order of the patches; the same each time, and not at the cost of other draws.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.model(**words, **pixels.to(self.device)).logits[:, 0]


@RERANKERS("visualbert")
class VisualBert(Reranker):
    """VisualBERT (Li et al., 2019) with the head that tells a picture's captions from others.

    It reads no pixels but a picture's regions: float (N, D), one row a region and D the `visual_embedding_dim` of
    the weights. The published weights were trained on what a Faster R-CNN finds in a picture (D = 2,048), and on two
    captions at a time. With other regions, such as the cells of an image encoder's last map, or with queries for
    captions, they need fine-tuning before their scores mean much.
    """

    published = "uclanlp/visualbert-vqa-coco-pre"
    revision = "refs/pr/1"
    vocabulary = "google-bert/bert-base-uncased"
    architecture = "VisualBertForPreTraining"
    files = (
        f"config.json and model.safetensors of {published} at the revision {revision}, "
        f"and tokenizer_config.json and vocab.txt of {vocabulary},"
    )

    def _scores(self, words: Mapping[str, Tensor], pictures: Sequence[np.ndarray]) -> Tensor:
        width = self.model.config.visual_embedding_dim
        for regions in pictures:
            if regions.ndim != 2 or not len(regions) or regions.shape[1] != width:
                raise DataError(
                    f"visualbert: the regions of a picture are {regions.shape}, the weights read (N, {width}); "
                    f"give regions of width {width}, or weights fine-tuned on regions like these"
                )
        lengths = torch.tensor([len(regions) for regions in pictures])
        tensors = [torch.tensor(regions, dtype=torch.float32) for regions in pictures]
        padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        inside = torch.arange(padded.shape[1]) < lengths[:, None]
        # Not the whole model: its other head would score every word of the vocabulary at every position.
        read = self.model.visual_bert(
            **words,
            visual_embeds=padded.to(self.device),
            visual_attention_mask=inside.long().to(self.device),
        )
        logits = self.model.cls.seq_relationship(read.pooler_output)
        # Class 1 is the match. transformers' documentation has it the other way round, but so the weights were trained
        # (uclanlp/visualbert, dataloaders/coco_dataset.py and issue 26).
        return logits[:, 1] - logits[:, 0]


def rerank(
    run: pa.Table,
    texts: Mapping[str, str],
    pictures: Pictures,
    score: Score,
    k: int,
    batch_size: int = 32,
) -> pa.Table:
    """Put the first k products of each query into the order of a second model.

    A pair is scored where the query has a text and the product a picture. Among the first k, the products scored
    share out the places they held, best first, equal scores in the order of the first stage; every other product
    keeps its place.

    Args:
        run: Columns query_id, product_id and score, as `fusion.search.catalogue_search.rank` returns.
        texts: Of queries, by id; those without one are absent or empty.
        pictures: Gives what `score` reads of products.
        score: `Reranker.score`.
        k: Products per query.
        batch_size: Pairs scored at a time.

    Returns:
        The run, best first. The scores of two models have no common scale: score is now one over the place.

    Raises:
        DataError: where a score is not a finite number.
    """
    query = run["query_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((-run["score"].to_numpy(), query))
    run, query = run.take(order), query[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    query_ids, product_ids = run["query_id"].to_pylist(), run["product_id"].to_pylist()
    asked = [int(row) for row in np.flatnonzero(place < k) if texts.get(query_ids[row])]

    scored: list[int] = []
    scores: list[np.ndarray] = []
    for start in tqdm(range(0, len(asked), batch_size), "rerank", unit="batch"):
        batch = asked[start : start + batch_size]
        given = pictures([product_ids[row] for row in batch])
        seen = {row: picture for row, picture in zip(batch, given, strict=True) if picture is not None}
        if seen:
            scores.append(score([texts[query_ids[row]] for row in seen], list(seen.values())))
            scored += seen
    held, found = np.array(scored, np.int64), np.concatenate([np.empty(0), *scores])
    if not np.isfinite(found).all():
        row = scored[int(np.argmin(np.isfinite(found)))]
        raise DataError(
            f"rerank: query '{query_ids[row]}', product '{product_ids[row]}': the score is not a finite number; "
            "check the reranker's weights and what it reads of this product"
        )
    rows = np.arange(len(query))
    rows[held] = held[np.lexsort((-found, query[held]))]
    return run.take(rows).set_column(run.column_names.index("score"), "score", pa.array(1 / (place + 1)))
