"""Why a product answers a query: what the score loses without a modality, a word or a part of the picture.

Every figure is exact: the pair is scored again without it. Effects of several things need not add up, since one may
make up for another.
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
from catalog.images import PictureError, decode, fit
from catalog.schema import DataError, product_text
from fusion.encoders.vocabulary import PAD
from fusion.features import MODALITIES, Items
from fusion.featurizer import COLUMNS, Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import load

CELLS = 6  # a picture is covered in 6 × 6 places, one after the other
COVER = 2  # cells wide and high; places overlap
GREY = 127


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a score is made of.

    Attributes:
        score: Of the query and the product, a cosine.
        modalities: Name → what the score loses without that modality of the product; those it has.
        entities: Type of entity → the query's words and the product's words of that type; those the query names.
        query: The query's words and what it loses without each; those cut off are left out.
        product: Likewise the product's, in the order of its text.
        regions: float (CELLS, CELLS), what it loses where the picture is covered; None without a picture.
        picture: uint8 (S, S, 3), the picture as the model sees it; None without one.
    """

    score: float
    modalities: Mapping[str, float]
    entities: Mapping[str, tuple[str, str]]
    query: Sequence[tuple[str, float]]
    product: Sequence[tuple[str, float]]
    regions: np.ndarray | None
    picture: np.ndarray | None

    def lines(self, most: int = 8) -> list[str]:
        """For a terminal: modalities, then the words that matter most."""
        out = [f"score {self.score:+.3f}"]
        found = {
            "the product without its": list(self.modalities.items()),
            "the product without the word": self.product,
            "the query without the word": self.query,
        }
        for title, losses in found.items():
            first = sorted(losses, key=lambda pair: -abs(pair[1]))[:most]
            out += [title] * bool(first) + [f"  {name:<16} {-loss:+.3f}" for name, loss in first]
        out += ["what the query names: what the product has"] * bool(self.entities)
        out += [f"  {kind:<16} {asked}: {has or 'nothing'}" for kind, (asked, has) in self.entities.items()]
        return out

    def overlay(self) -> Image.Image | None:
        """The picture, red where covering it costs score, blue where it gains; grey elsewhere."""
        if self.picture is None or self.regions is None:
            return None
        reach = np.abs(self.regions).max() or 1.0
        heat = Image.fromarray((self.regions / reach).astype(np.float32))
        smooth = np.asarray(heat.resize(self.picture.shape[:2], Image.Resampling.BICUBIC)).clip(-1, 1)[
            ..., None
        ]
        grey = self.picture.mean(2, keepdims=True).repeat(3, 2)
        colour = np.where(smooth > 0, [220, 40, 30], [40, 90, 220])
        share = 0.7 * np.abs(smooth)
        return Image.fromarray((share * colour + (1 - share) * grey).round().astype(np.uint8))


def explain(
    model: ProductSearchModel, featurizer: Featurizer, query: Mapping[str, Any], product: Mapping[str, Any]
) -> Explanation:
    """Score a pair, and again without each of its parts.

    Args:
        model: In evaluation mode.
        featurizer: That it was trained with.
        query: A row of the queries table.
        product: A row of the products table.
    """
    asked, _ = featurizer.rows("queries", [query])
    shown, _ = featurizer.rows("products", [product])
    score = _scores(model, asked, shown)[0]
    has = [name for name, there in zip(MODALITIES, shown.present[0], strict=True) if there]
    known = [name for name in has if name in model.config.modalities]
    without = Items.concatenate([shown, *(shown.without(name) for name in known)])
    losses = score - _scores(model, asked, without)[1:]
    picture, split = _picture(product, featurizer), featurizer.vocabulary.split
    return Explanation(
        score=float(score),
        modalities=dict(zip(known, losses.tolist(), strict=True)),
        entities=_entities(model, asked, split(query["text"] or ""), shown, split(product_text(product))),
        query=_by_word(split(query["text"] or ""), score - _scores(model, _word_by_word(asked), shown)),
        product=_by_word(split(product_text(product)), score - _scores(model, asked, _word_by_word(shown))),
        regions=None if picture is None else _by_place(model, featurizer, asked, shown, picture, score),
        picture=picture,
    )


def explain_data(folder: Path, data: Path, query_id: str, product_id: str) -> Explanation:
    """Explain a pair of a data set with a saved model.

    Raises:
        DataError: where there is no such query or product, or the folder does not hold a model.
    """
    model, featurizer = load(folder)
    query, product = (
        rows(data, table, {key})[key] for table, key in (("queries", query_id), ("products", product_id))
    )
    return explain(model, featurizer, query, product)


def rows(data: Path, table: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Some queries or products of a data set by id, with the columns that a featurizer reads.

    Raises:
        DataError: where one of them is not there.
    """
    name, found = COLUMNS[table][0], dict[str, dict[str, Any]]()
    wanted = pa.array(sorted(ids), pa.string())
    for batch in store.batches(data, table, COLUMNS[table]):
        found |= {row[name]: row for row in batch.filter(pc.is_in(batch[name], wanted)).to_pylist()}
        if len(found) == len(wanted):
            return found
    if missing := set(ids) - set(found):
        raise DataError(f"{data / table}: there is no {name} '{min(missing)}'; give one that is there")
    return found


def _scores(model: ProductSearchModel, queries: Items, products: Items) -> np.ndarray:
    """Of one query with N products, or of N queries with one product, float (N,)."""
    asked, shown = embed(model, queries, "query"), embed(model, products, "product")
    return (asked * shown).sum(1)


def _word_by_word(item: Items) -> Items:
    """The item without its first word, without its second, …; as many as it has tokens."""
    tokens = item.tokens[0]
    count = int((tokens != PAD).sum())
    shorter = np.array([np.append(np.delete(tokens, place), PAD) for place in range(count)], np.int32)
    return replace(item.take(np.zeros(count, int)), tokens=shorter.reshape(count, len(tokens)))


def _entities(
    model: ProductSearchModel, query: Items, asked: Sequence[str], product: Items, has: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """As `Explanation.entities`, from both texts' words."""
    device = model.log_scale.device
    with torch.inference_mode():
        _, named = model.encode_query(query.batch(slice(None), device), entities=True)
        stated = model.recognise(product.batch(slice(None), device)["tokens"])

    def of(kind: int, words: Sequence[str], labels: list[int]) -> str:
        chosen = [word for word, label in zip(words, labels, strict=False) if label == kind]
        return " ".join(dict.fromkeys(chosen))

    found = {
        name: (of(kind, asked, named[0].tolist()), of(kind, has, stated[0].tolist()))
        for kind, name in enumerate(model.config.entities, start=1)
    }
    return {name: pair for name, pair in found.items() if pair[0]}


def _by_word(words: Sequence[str], losses: np.ndarray) -> list[tuple[str, float]]:
    return list(zip(words, losses.tolist(), strict=False))


def _picture(product: Mapping[str, Any], featurizer: Featurizer) -> np.ndarray | None:
    try:
        image = product["image"]
        return image and fit(decode(image["bytes"]), featurizer.image_size)
    except PictureError:  # counts as missing
        return None


def _by_place(
    model: ProductSearchModel,
    featurizer: Featurizer,
    asked: Items,
    shown: Items,
    picture: np.ndarray,
    score: float,
) -> np.ndarray:
    """What the score loses where a square of the picture is covered, float (CELLS, CELLS)."""
    side = len(picture) / CELLS
    covered = np.repeat(picture[None], CELLS**2, axis=0)
    for place, one in enumerate(covered):
        row, column = (int((index + 0.5 - COVER / 2) * side) for index in divmod(place, CELLS))
        width = int(COVER * side)
        one[max(0, row) : row + width, max(0, column) : column + width] = GREY
    with torch.inference_mode():
        images, regions = featurizer.encoder(torch.from_numpy(covered).to(featurizer.device))
    many = replace(
        shown.take(np.zeros(len(covered), int)),
        images=images.half().cpu().numpy(),
        regions=regions.half().cpu().numpy(),
    )
    return (score - _scores(model, asked, many)).reshape(CELLS, CELLS)
