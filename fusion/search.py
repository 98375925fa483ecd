"""A trained model over a catalogue."""

from collections.abc import Collection
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError

from catalog import store
from catalog.images import PictureError, decode, fit
from catalog.schema import DataError
from fusion.features import MODALITIES, Items
from fusion.featurizer import Featurizer
from fusion.index import top_k
from fusion.model import ProductSearchModel, embed
from fusion.rerank import Pictures, Reranker, rerank


def rank(
    model: ProductSearchModel, queries: Items, products: Items, depth: int, only: Collection[str] = MODALITIES
) -> pa.Table:
    """The best products of each query over the whole catalogue.

    Args:
        model: In evaluation mode.
        queries: What is asked.
        products: The catalogue.
        depth: Products kept per query.
        only: Modalities that products are seen through.

    Returns:
        A run: columns query_id, product_id and score, best first within a query.
    """
    rows, scores = top_k(embed(model, queries, "query"), embed(model, products, "product", only), depth)
    return run_table(queries.ids, products.ids, rows, scores)


def run_table(
    query_ids: np.ndarray, product_ids: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> pa.Table:
    """A run as a table, from what `top_k` returns."""
    return pa.table(
        {
            "query_id": pa.array(np.repeat(query_ids, rows.shape[1]), pa.string()),
            "product_id": pa.array(product_ids[rows.ravel()], pa.string()),
            "score": pa.array(scores.ravel(), pa.float64()),
        }
    )


class SearchIndex:
    """What is searched: one vector a product, and the title to show.

    Args:
        ids: str, shape (P,).
        titles: str, shape (P,).
        vectors: float32, shape (P, dim).
    """

    def __init__(self, ids: np.ndarray, titles: np.ndarray, vectors: np.ndarray) -> None:
        self.ids, self.titles, self.vectors = ids, titles, vectors

    @classmethod
    def build(cls, model: ProductSearchModel, products: Items, data: Path) -> Self:
        """Encode a catalogue; titles come from the data set."""
        titles = store.read(data, "products", ["title"])["title"].to_numpy()
        return cls(products.ids, titles, embed(model, products, "product"))

    def save(self, path: Path) -> None:
        """Write one parquet file."""
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.ravel()), self.vectors.shape[1])
        pq.write_table(pa.table({"product_id": self.ids, "title": self.titles, "vector": vectors}), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`."""
        table = pq.read_table(path)
        vectors = table["vector"].combine_chunks()
        shape = (-1, vectors.type.list_size)
        return cls(
            table["product_id"].to_numpy(),
            table["title"].to_numpy(),
            vectors.flatten().to_numpy().reshape(shape),
        )


def rank_data(
    folder: Path, data: Path, split: str, depth: int, second: Reranker | None = None, top: int = 0
) -> pa.Table:
    """Rank the queries of one split of a data set with a saved model, from texts, pictures and clips alone.

    Args:
        folder: What the train stage wrote.
        data: The data set.
        split: Of the queries.
        depth: Products kept per query.
        second: Puts the first `top` products of each query into its own order.
        top: How many.

    Raises:
        DataError: where no query has the split, or the folder does not hold a model.
    """
    model, featurizer = load(folder)
    queries = featurizer.table(data, "queries")
    asked = queries.take(queries.splits == split)
    if not len(asked):
        raise DataError(f"{data / 'queries'}: no query has the split '{split}'; nothing to rank")
    products = featurizer.table(data, "products")
    run = rank(model, asked, products, depth)
    if second is None:
        return run
    said = store.read(data, "queries", ["query_id", "text"])
    texts = {key: text for key, text in zip(*said.to_pydict().values(), strict=True) if text}
    pictures = _regions(products) if second.side is None else _squares(data, run, second.side)
    return rerank(run, texts, pictures, second.score, top)


def _regions(products: Items) -> Pictures:
    """The regions of products' pictures as the image encoder sees them, float16 (R, C)."""
    rows = {key: row for row, key in enumerate(products.ids) if products.has_image[row]}
    return lambda ids: [products.regions[rows[key]] if key in rows else None for key in ids]


def _squares(data: Path, run: pa.Table, side: int) -> Pictures:
    """The pictures of the products in a run, decoded as they are asked for: uint8 (side, side, 3)."""
    found = pc.unique(run["product_id"])
    stored: dict[str, bytes] = {}
    for batch in store.batches(data, "products", ["product_id", "image"]):
        rows = batch.filter(pc.is_in(batch["product_id"], found)).to_pylist()
        stored |= {row["product_id"]: row["image"]["bytes"] for row in rows if row["image"]}

    def square(key: str) -> np.ndarray | None:
        try:
            return np.array(fit(decode(stored[key]), side)) if stored.get(key) else None
        except PictureError:  # counts as missing, as in the first stage
            return None

    return lambda ids: [square(key) for key in ids]


def load(folder: Path) -> tuple[ProductSearchModel, Featurizer]:
    """What the train stage wrote.

    Raises:
        DataError: where the folder does not hold a model.
    """
    try:
        return ProductSearchModel.load(folder), Featurizer.load(folder)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a model of the train stage ({error}); train it again") from error
