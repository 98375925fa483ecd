"""Whether products' pictures and texts belong together, as a trained model sees them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from catalog import store
from fusion.features import Items
from fusion.featurizer import COLUMNS, Featurizer
from fusion.model import embed
from fusion.search.catalogue_search import load

OTHERS = 1000  # that each product is set beside
ROWS = 256


def matches(texts: np.ndarray, pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """How well each product's picture and text belong together, beside those of others.

    The share of other products whose texts fit the picture worse than its own text, or whose pictures fit the text
    worse than its own picture, whichever is less: near 1 where they belong together, and evenly spread over 0 to 1
    where the picture is somebody else's.

    Args:
        texts, pictures: float32 (P, dim), P products through one modality each.
        seed: Of the choice of others, at most `OTHERS`.

    Returns:
        float32 (P,); NaN where there is no other product.
    """
    count = len(texts)
    others = np.random.default_rng(seed).permutation(count)[:OTHERS]
    found = np.full(count, np.nan, np.float32)
    for start in range(0, count if count > 1 else 0, ROWS):
        rows = np.arange(start, min(start + ROWS, count))
        own = (texts[rows] * pictures[rows]).sum(axis=1, keepdims=True)
        another = rows[:, None] != others
        worse = [
            ((mine[rows] @ theirs[others].T < own) & another).sum(axis=1)
            for mine, theirs in ((pictures, texts), (texts, pictures))
        ]
        found[rows] = np.minimum(*worse) / another.sum(axis=1)
    return found


def embed_data(folder: Path, data: Path, product_ids: pa.Array) -> pa.Table:
    """Some products of a data set as a saved model sees them.

    Args:
        folder: What the train stage wrote.
        data: The data set.
        product_ids: Which; those that the data set lacks are left out.

    Returns:
        Columns product_id, vector (float32, as wide as the model's) and match (of `matches`; null without both).

    Raises:
        DataError: where the folder does not hold a model.
    """
    model, featurizer = load(folder)
    products = _some(featurizer, data, product_ids)
    vectors, found = embed(model, products, "product"), np.full(len(products), np.nan, np.float32)
    both = np.flatnonzero(products.seen({"text"}) & products.seen({"image"}))
    texts, pictures = (embed(model, products.take(both), "product", {name}) for name in ("text", "image"))
    found[both] = matches(texts, pictures)
    return pa.table(
        {
            "product_id": pa.array(products.ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), model.config.dim),
            "match": pa.array(found, mask=np.isnan(found)),
        }
    )


def _some(featurizer: Featurizer, data: Path, product_ids: pa.Array) -> Items:
    none, _ = featurizer.rows("products", [])
    parts = [none]
    with tqdm(total=len(product_ids), desc="look at products", unit="row", disable=None) as bar:
        for batch in store.batches(data, "products", COLUMNS["products"]):
            rows = batch.filter(pc.is_in(batch["product_id"], product_ids)).to_pylist()
            parts.append(featurizer.rows("products", rows)[0])
            bar.update(len(rows))
    return Items.concatenate(parts)
