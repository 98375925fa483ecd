"""Rank the catalogue of a data set with a trained model."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import SafetensorError

from catalog import store
from catalog.images import PictureError, decode, fit
from catalog.schema import DataError, main_picture
from fusion.features import MODALITIES, Items
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.hybrid import MODEL_ALONE, Hybrid
from fusion.search.lexical_index import LexicalIndex
from fusion.search.rerank import PictureLoader, Reranker, rerank
from fusion.search.vector_index import top_k


def rank_products(
    model: ProductSearchModel, queries: Items, products: Items, depth: int, only: Collection[str] = MODALITIES
) -> pa.Table:
    """Rank the products of a catalogue for each query by exact search.

    Args:
        model: In evaluation mode.
        queries: The queries.
        products: The catalogue.
        depth: Maximum number of products per query.
        only: Product modalities to use; the model ignores the others.

    Returns:
        A run: columns query_id, product_id and score, best first within a query.
    """
    rows, scores = top_k(embed(model, queries, "query"), embed(model, products, "product", only), depth)
    return build_run_table(queries.ids, products.ids, rows, scores)


def rank_hybrid(
    model: ProductSearchModel,
    queries: Items,
    texts: Sequence[str | None],
    products: Items,
    depth: int,
    lexical: LexicalIndex,
    hybrid: Hybrid,
) -> pa.Table:
    """Rank the products of a catalogue as `rank_products`, by the hybrid with BM25 over the same products.

    `texts` are those of the queries.
    """
    model_depth = max(depth, hybrid.depth)
    rows, scores = top_k(embed(model, queries, "query"), embed(model, products, "product"), model_depth)
    product_ids = pa.chunked_array([pa.array(products.ids, pa.string())])
    return build_run_table(
        queries.ids, products.ids, *hybrid.merge(lexical, texts, rows, scores, product_ids, depth)
    )


def build_run_table(
    query_ids: np.ndarray, product_ids: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> pa.Table:
    """Build a run from the row numbers and scores that `top_k` returns."""
    return pa.table(
        {
            "query_id": pa.array(np.repeat(query_ids, rows.shape[1]), pa.string()),
            "product_id": pa.array(product_ids[rows.ravel()], pa.string()),
            "score": pa.array(scores.ravel(), pa.float64()),
        }
    )


def read_texts(data: Path, query_ids: np.ndarray) -> list[str | None]:
    """Read the texts of queries, in the order of their ids; None for a query without text."""
    columns = store.read_table(data, "queries", ["query_id", "text"]).to_pydict()
    texts = dict(zip(columns["query_id"], columns["text"], strict=True))
    return [texts[query_id] or None for query_id in query_ids]


def rank_data(
    folder: Path,
    data: Path,
    split: str,
    depth: int,
    reranker: Reranker | None = None,
    top: int = 0,
    hybrid: Path | None = None,
) -> pa.Table:
    """Rank products for the queries of one split of a data set with a saved model.

    Args:
        folder: Output folder of the train stage.
        data: The data set.
        split: Which queries to use.
        depth: Maximum number of products per query.
        reranker: Reorders the first `top` products of each query; None for no reranking.
        top: Products per query to rerank.
        hybrid: Of `Hybrid.save`, how BM25 is merged; None for the model alone.

    Raises:
        DataError: the split has no queries, or the folder does not hold a model.
    """
    model, featurizer = load_model(folder)
    queries = featurizer.featurize_table(data, "queries")
    split_queries = queries.take(queries.splits == split)
    if not len(split_queries):
        raise DataError(f"{data / 'queries'}: no query has the split '{split}'; nothing to rank")
    products = featurizer.featurize_table(data, "products")
    query_texts = read_texts(data, split_queries.ids)
    served = Hybrid.load(hybrid) if hybrid else MODEL_ALONE
    if served.uses_bm25:
        lexical = LexicalIndex.build(data, served.language, products.ocr)
        run = rank_hybrid(model, split_queries, query_texts, products, depth, lexical, served)
    else:
        run = rank_products(model, split_queries, products, depth)
    if reranker is None:
        return run
    texts = {key: text for key, text in zip(split_queries.ids, query_texts, strict=True) if text}
    if reranker.image_size is None:
        load_pictures = _region_loader(products)
    else:
        load_pictures = _picture_loader(data, run, reranker.image_size)
    return rerank(run, texts, load_pictures, reranker.score, top)


def _region_loader(products: Items) -> PictureLoader:
    """Return a loader of the products' image regions, as the image encoder outputs them: float16 (R, C)."""
    rows = {key: row for row, key in enumerate(products.ids) if products.has_image[row]}
    return lambda ids: [products.regions[rows[key]] if key in rows else None for key in ids]


def _picture_loader(data: Path, run: pa.Table, size: int) -> PictureLoader:
    """Return a loader of the pictures of products in a run, which decodes on demand: uint8 (size, size, 3)."""
    product_ids = pc.unique(run["product_id"])
    files: dict[str, bytes] = {}
    for batch in store.read_batches(data, "products", ["product_id", "images"]):
        rows = batch.filter(pc.is_in(batch["product_id"], product_ids)).to_pylist()
        files |= {row["product_id"]: picture for row in rows if (picture := main_picture(row))}

    def decode_square(key: str) -> np.ndarray | None:
        try:
            return np.array(fit(decode(files[key], side=size), size)) if key in files else None
        except PictureError:  # counts as missing, as in the first stage
            return None

    return lambda ids: [decode_square(key) for key in ids]


def load_model(folder: Path) -> tuple[ProductSearchModel, Featurizer]:
    """Load the model and the featurizer that the train stage wrote.

    Raises:
        DataError: the folder does not hold a model.
    """
    try:
        return ProductSearchModel.load(folder), Featurizer.load(folder)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a model of the train stage ({error}); train it again") from error
