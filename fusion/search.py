"""A trained model over a catalogue."""

from collections.abc import Collection
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from catalog import store
from catalog.schema import DataError
from fusion.features import MODALITIES, Items
from fusion.featurizer import Featurizer
from fusion.index import top_k
from fusion.model import ProductSearchModel, embed


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


def rank_data(folder: Path, data: Path, split: str, depth: int) -> pa.Table:
    """Rank the queries of one split of a data set with a saved model, from texts and pictures alone.

    Args:
        folder: What the train stage wrote.
        data: The data set.
        split: Of the queries.
        depth: Products kept per query.

    Raises:
        DataError: where no query has the split, or the folder does not hold a model.
    """
    model, featurizer = _load(folder)
    queries = featurizer.table(data, "queries")
    asked = queries.take(queries.splits == split)
    if not len(asked):
        raise DataError(f"{data / 'queries'}: no query has the split '{split}'; nothing to rank")
    return rank(model, asked, featurizer.table(data, "products"), depth)


def _load(folder: Path) -> tuple[ProductSearchModel, Featurizer]:
    try:
        return ProductSearchModel.load(folder), Featurizer.load(folder)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a model of the train stage ({error}); train it again") from error
