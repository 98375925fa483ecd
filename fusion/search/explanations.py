"""Explain a result: how much the score drops without a modality, a word or a part of the picture.

Every loss is exact: the pair is scored again without that part. Losses need not add up, because one part can make up
for another.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from catalog import store
from catalog.images import PictureError
from catalog.schema import DataError, main_picture
from fusion.encoders.vocabulary import PAD, Word
from fusion.features import MODALITIES, Items
from fusion.featurizer import COLUMNS, Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import load_model

GRID_CELLS = 6  # a grid of 6 × 6 cells; the picture is covered around each cell in turn
COVER_CELLS = 2  # width and height of the cover, in cells; covers overlap
GREY = 127


@dataclass(frozen=True, eq=False)
class Explanation:
    """How much each part contributes to a score. A loss is the score minus the score without the part.

    Attributes:
        score: Of the query and the product, a cosine.
        modality_losses: Modality of the product → loss; only modalities that the product has.
        entities: Type of entity → the query's words and the product's words of that type; only types in the query.
        query_losses: The query's words and their losses; truncated words are left out.
        product_losses: The product's words and their losses, in the order of its text.
        region_losses: float (GRID_CELLS, GRID_CELLS), losses where the picture is covered; None without a picture.
        picture: uint8 (S, S, 3), the model's input; None without a picture.
    """

    score: float
    modality_losses: Mapping[str, float]
    entities: Mapping[str, tuple[str, str]]
    query_losses: Sequence[tuple[str, float]]
    product_losses: Sequence[tuple[str, float]]
    region_losses: np.ndarray | None
    picture: np.ndarray | None

    def lines(self, limit: int = 8) -> list[str]:
        """Format the explanation for a terminal: modalities, then the words with the largest effects."""
        lines = [f"score {self.score:+.3f}"]
        sections = {
            "the product without its": list(self.modality_losses.items()),
            "the product without the word": self.product_losses,
            "the query without the word": self.query_losses,
        }
        for title, losses in sections.items():
            largest = sorted(losses, key=lambda pair: -abs(pair[1]))[:limit]
            lines += [title] * bool(largest) + [f"  {name:<16} {-loss:+.3f}" for name, loss in largest]
        lines += ["words in the query: words in the product"] * bool(self.entities)
        lines += [
            f"  {kind:<16} {query_words}: {product_words or 'none'}"
            for kind, (query_words, product_words) in self.entities.items()
        ]
        return lines

    def overlay(self) -> Image.Image | None:
        """Draw the picture: red where covering it lowers the score, blue where it raises it, grey elsewhere."""
        if self.picture is None or self.region_losses is None:
            return None
        largest = np.abs(self.region_losses).max() or 1.0
        heat = Image.fromarray((self.region_losses / largest).astype(np.float32))
        smooth = np.asarray(heat.resize(self.picture.shape[:2], Image.Resampling.BICUBIC)).clip(-1, 1)[
            ..., None
        ]
        grey = self.picture.mean(2, keepdims=True).repeat(3, 2)
        colour = np.where(smooth > 0, [220, 40, 30], [40, 90, 220])
        opacity = 0.7 * np.abs(smooth)
        return Image.fromarray((opacity * colour + (1 - opacity) * grey).round().astype(np.uint8))


def explain(
    model: ProductSearchModel, featurizer: Featurizer, query: Mapping[str, Any], product: Mapping[str, Any]
) -> Explanation:
    """Score a pair, and again without each of its parts.

    Args:
        model: In evaluation mode.
        featurizer: The model's featurizer.
        query: A row of the queries table.
        product: A row of the products table.
    """
    query_item, _ = featurizer.featurize_rows("queries", [query])
    product_item, _ = featurizer.featurize_rows("products", [product])
    query_words, product_words = (
        featurizer.vocabulary.split_words(text, featurizer.max_tokens)
        for text in (query["text"] or "", featurizer.product_text(product, product_item.ocr[0]))
    )
    score = _score_pairs(model, query_item, product_item)[0]
    shorter_query_scores = _score_pairs(model, _drop_each_word(query_item, query_words), product_item)
    shorter_product_scores = _score_pairs(model, query_item, _drop_each_word(product_item, product_words))
    picture = _decode_picture(product, featurizer)
    if picture is None:
        region_losses = None
    else:
        region_losses = score - _score_covered(model, featurizer, query_item, product_item, picture)
    return Explanation(
        score=float(score),
        modality_losses=_modality_losses(model, query_item, product_item, score),
        entities=_entities(model, query_item, query_words, product_item, product_words),
        query_losses=_pair_with_words(query_words, score - shorter_query_scores),
        product_losses=_pair_with_words(product_words, score - shorter_product_scores),
        region_losses=region_losses,
        picture=picture,
    )


def explain_data(folder: Path, data: Path, query_id: str, product_id: str) -> Explanation:
    """Explain a pair of a data set with a saved model.

    Raises:
        DataError: the query or product does not exist, or the folder does not hold a model.
    """
    model, featurizer = load_model(folder)
    query = load_rows(data, "queries", {query_id})[query_id]
    product = load_rows(data, "products", {product_id})[product_id]
    return explain(model, featurizer, query, product)


def load_rows(data: Path, table: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Load some queries or products of a data set by id, with the columns that a featurizer reads.

    Raises:
        DataError: an id does not exist.
    """
    id_column = COLUMNS[table][0]
    id_array = pa.array(sorted(ids), pa.string())
    rows: dict[str, dict[str, Any]] = {}
    for batch in store.read_batches(data, table, COLUMNS[table]):
        matching_rows = batch.filter(pc.is_in(batch[id_column], id_array)).to_pylist()
        rows |= {row[id_column]: row for row in matching_rows}
        if len(rows) == len(id_array):
            return rows
    if missing_ids := set(ids) - set(rows):
        raise DataError(f"{data / table}: no {id_column} '{min(missing_ids)}'; give an existing {id_column}")
    return rows


def _score_pairs(model: ProductSearchModel, queries: Items, products: Items) -> np.ndarray:
    """Score one query with N products, or N queries with one product; float (N,)."""
    query_embeddings = embed(model, queries, "query")
    product_embeddings = embed(model, products, "product")
    return (query_embeddings * product_embeddings).sum(1)


def _modality_losses(
    model: ProductSearchModel, query: Items, product: Items, score: float
) -> dict[str, float]:
    """Compute the loss without each modality that the product has."""
    present = [name for name, has in zip(MODALITIES, product.present[0], strict=True) if has]
    names = [name for name in present if name in model.config.modalities]
    variants = Items.concatenate([product, *(product.without(name) for name in names)])
    losses = score - _score_pairs(model, query, variants)[1:]
    return dict(zip(names, losses.tolist(), strict=True))


def _drop_each_word(item: Items, words: Sequence[Word]) -> Items:
    """Return the item without its first word, without its second, and so on: as many as there are words."""
    tokens, ends = item.tokens[0], np.cumsum([word.tokens for word in words], dtype=int)
    shorter = np.full((len(words), len(tokens)), PAD, np.int32)
    for row, word, end in zip(shorter, words, ends, strict=True):
        rest = np.delete(tokens, slice(end - word.tokens, end))
        row[: len(rest)] = rest
    return replace(item.take(np.zeros(len(words), int)), tokens=shorter)


def _entities(
    model: ProductSearchModel,
    query: Items,
    query_words: Sequence[Word],
    product: Items,
    product_words: Sequence[Word],
) -> dict[str, tuple[str, str]]:
    """Compute `Explanation.entities` from the words of both texts; the first token of a word decides."""
    device = model.log_scale.device
    with torch.inference_mode():
        _, query_labels = model.encode_query(query.batch(slice(None), device), entities=True)
        product_labels = model.recognise(product.batch(slice(None), device)["tokens"])

    def select_words(kind: int, words: Sequence[Word], labels: list[int]) -> str:
        starts = np.cumsum([0, *(word.tokens for word in words)])
        selected = [word.text for word, start in zip(words, starts, strict=False) if labels[start] == kind]
        return " ".join(dict.fromkeys(selected))

    entities = {
        name: (
            select_words(kind, query_words, query_labels[0].tolist()),
            select_words(kind, product_words, product_labels[0].tolist()),
        )
        for kind, name in enumerate(model.config.entities, start=1)
    }
    return {name: words for name, words in entities.items() if words[0]}


def _pair_with_words(words: Sequence[Word], losses: np.ndarray) -> list[tuple[str, float]]:
    return [(word.text, loss) for word, loss in zip(words, losses.tolist(), strict=True)]


def _decode_picture(product: Mapping[str, Any], featurizer: Featurizer) -> np.ndarray | None:
    try:
        picture = main_picture(product)
        return None if picture is None else featurizer.prepare(picture)
    except PictureError:  # counts as missing
        return None


def _score_covered(
    model: ProductSearchModel, featurizer: Featurizer, query: Items, product: Items, picture: np.ndarray
) -> np.ndarray:
    """Score the pair with each part of the picture covered in turn, float (GRID_CELLS, GRID_CELLS)."""
    covered = _cover_each_cell(picture)
    images, regions = featurizer.encode_pictures([*covered])
    variants = replace(product.take(np.zeros(len(covered), int)), images=images, regions=regions)
    return _score_pairs(model, query, variants).reshape(GRID_CELLS, GRID_CELLS)


def _cover_each_cell(picture: np.ndarray) -> np.ndarray:
    """Copy the picture with a grey square around each cell in turn, uint8 (GRID_CELLS ** 2, S, S, 3)."""
    cell_size = len(picture) / GRID_CELLS
    cover_size = int(COVER_CELLS * cell_size)
    copies = np.repeat(picture[None], GRID_CELLS**2, axis=0)
    for cell, copy in enumerate(copies):
        top, left = (int((index + 0.5 - COVER_CELLS / 2) * cell_size) for index in divmod(cell, GRID_CELLS))
        copy[max(0, top) : top + cover_size, max(0, left) : left + cover_size] = GREY
    return copies
