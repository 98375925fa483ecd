"""Whether a product's picture and text belong together, judged with a trained model."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import store
from catalog.progress import show_progress
from fusion.features import Items
from fusion.featurizer import COLUMNS, Featurizer
from fusion.model import embed
from fusion.search.catalogue_search import load_model

MAX_OTHERS = 1000  # products that each product is compared with
CHUNK = 256  # products compared at a time


def score_matches(texts: np.ndarray, pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """Score how well each product's picture and text match, compared with other products.

    The score is the smaller of two shares: the share of other products' texts that fit the picture worse than its own
    text does, and the share of other products' pictures that fit the text worse than its own picture does. It is near 1
    if they match, and uniform over 0 to 1 if the picture belongs to another product.

    Args:
        texts, pictures: float32 (P, dim), embeddings of P products from one modality only.
        seed: For the sample of at most `MAX_OTHERS` other products.

    Returns:
        float32 (P,); NaN if there is no other product.
    """
    count = len(texts)
    others = np.random.default_rng(seed).permutation(count)[:MAX_OTHERS]
    match_scores = np.full(count, np.nan, np.float32)
    for start in range(0, count if count > 1 else 0, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        similarity = (texts[rows] * pictures[rows]).sum(axis=1, keepdims=True)
        is_other = rows[:, None] != others
        worse_counts = [
            ((anchors[rows] @ candidates[others].T < similarity) & is_other).sum(axis=1)
            for anchors, candidates in ((pictures, texts), (texts, pictures))
        ]
        match_scores[rows] = np.minimum(*worse_counts) / is_other.sum(axis=1)
    return match_scores


def embed_data(folder: Path, data: Path, product_ids: pa.Array) -> pa.Table:
    """Embed some products of a data set with a saved model.

    Args:
        folder: Output folder of the train stage.
        data: The data set.
        product_ids: Which products; unknown ids are ignored.

    Returns:
        Columns product_id, vector (float32, the model's dim) and match (from `score_matches`; null unless the product
        has text and picture).

    Raises:
        DataError: the folder does not hold a model.
    """
    model, featurizer = load_model(folder)
    products = _featurize_products(featurizer, data, product_ids)
    vectors = embed(model, products, "product")
    match_scores = np.full(len(products), np.nan, np.float32)
    both = np.flatnonzero(products.has_any({"text"}) & products.has_any({"image"}))
    texts, pictures = (embed(model, products.take(both), "product", {name}) for name in ("text", "image"))
    match_scores[both] = score_matches(texts, pictures)
    return pa.table(
        {
            "product_id": pa.array(products.ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), model.config.dim),
            "match": pa.array(match_scores, mask=np.isnan(match_scores)),
        }
    )


def _featurize_products(featurizer: Featurizer, data: Path, product_ids: pa.Array) -> Items:
    no_products, _ = featurizer.featurize_rows("products", [])
    parts = [no_products]
    with show_progress(total=len(product_ids), desc="featurize products", unit="row") as bar:
        for batch in store.read_batches(data, "products", COLUMNS["products"]):
            rows = batch.filter(pc.is_in(batch["product_id"], product_ids)).to_pylist()
            parts.append(featurizer.featurize_rows("products", rows)[0])
            bar.update(len(rows))
    return Items.concatenate(parts)
