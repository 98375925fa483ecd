"""A trained model over a catalogue."""

from collections.abc import Collection, Mapping, Sequence
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
from fusion.model import ProductSearchModel, embed
from fusion.search.rerank import Pictures, Reranker, rerank
from fusion.search.vector_index import WORTH_IT, Lists, top_k

FILTERS = ("category", "brand", "color", "material")
FIELDS = (*FILTERS, "price", "currency")
PRODUCTS, LISTS = "products.parquet", "lists.npz"
EVEN = 1e-3  # of a score: less than half precision tells apart


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
    """What is searched: one vector a product, its fields to show and to filter by, and what it is without a modality.

    Args:
        fields: P rows: product_id, title, and those of `FIELDS` that the catalogue has.
        vectors: float32, shape (P, dim).
        without: Modality → float16, shape (P, dim): the product's vector without it; the same where it has none.
        lists: What large catalogues are searched through; None for exact search.
    """

    def __init__(
        self,
        fields: pa.Table,
        vectors: np.ndarray,
        without: Mapping[str, np.ndarray],
        lists: Lists | None = None,
    ) -> None:
        self.fields, self.vectors, self.without, self.lists = fields, vectors, dict(without), lists

    @classmethod
    def build(cls, model: ProductSearchModel, products: Items, data: Path, queries: np.ndarray) -> Self:
        """Encode a catalogue, and make lists where it has more products than `WORTH_IT`.

        Args:
            model: In evaluation mode.
            products: The catalogue.
            data: The data set, which has the fields.
            queries: float32 (Q, dim), encoded, such as will be asked.
        """
        fields = store.read(data, "products", ["product_id", "title", *FIELDS])
        without = {
            name: embed(model, products.without(name), "product").astype(np.float16)
            for name in model.config.modalities
        }
        vectors = embed(model, products, "product")
        lists = Lists.build(vectors, queries) if len(vectors) > WORTH_IT else None
        return cls(fields, vectors, without, lists)

    @property
    def nbytes(self) -> int:
        """What its vectors and lists take in memory."""
        arrays = (self.vectors, *self.without.values())
        return sum(vectors.nbytes for vectors in arrays) + (self.lists.nbytes if self.lists else 0)

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best products of each query, as `top_k`: nearly all of them where there are lists.

        Args:
            queries: float32 (Q, dim), encoded.
            k: At most this many per query.
            allowed: What `allowed` returns.
        """
        search = self.lists.top_k if self.lists else top_k
        return search(queries, self.vectors, k, allowed)

    def allowed(
        self, filters: Mapping[str, Sequence[str]], low: float | None = None, high: float | None = None
    ) -> np.ndarray | None:
        """The products that a search may find, bool (P,); None for all.

        Args:
            filters: Field → the values it may have, compared without case; "shoes" is any category below shoes, too.
            low, high: Lowest and highest price; products without one are left out.

        Raises:
            ValueError: a field that is none of `FILTERS`, or prices that no product can have.
        """
        masks = [self._has(field, values) for field, values in filters.items()]
        if low is not None or high is not None:
            least, most = 0.0 if low is None else low, np.inf if high is None else high
            if not 0 <= least <= most:
                raise ValueError(f"prices from {least:g} to {most:g}: give min_price ≤ max_price, 0 or more")
            price = self.fields["price"].to_numpy()
            masks.append((price >= least) & (price <= most))
        return np.logical_and.reduce(masks) if masks else None

    def shares(self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        """How much of each score is owed to each modality: modality → float (k,), which add up to 1, or are all 0.

        A modality's part is what the score loses without it, if it loses anything.

        Args:
            query: float32 (dim,).
            rows, scores: (k,) of the products found, as `top_k` returns them.
        """
        losses = {
            name: np.maximum(scores - vectors[rows].astype(np.float32) @ query, 0)
            for name, vectors in self.without.items()
        }
        total = sum(losses.values())
        return {
            name: np.divide(loss, total, out=np.zeros_like(loss), where=total > EVEN)
            for name, loss in losses.items()
        }

    def save(self, folder: Path) -> None:
        """Write products.parquet, and lists.npz if there are lists."""
        table = self.fields
        for name, vectors in {"": self.vectors, **self.without}.items():
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            table = table.append_column(f"vector {name}".strip(), column)
        folder.mkdir()
        pq.write_table(table, folder / PRODUCTS)
        if self.lists:
            self.lists.save(folder / LISTS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`."""
        table = pq.read_table(folder / PRODUCTS)
        found = {}
        for name in [name for name in table.column_names if name.startswith("vector")]:
            column = table[name].combine_chunks()
            found[name.removeprefix("vector").strip()] = (
                column.flatten().to_numpy().reshape(-1, column.type.list_size)
            )
        fields = table.select([name for name in table.column_names if not name.startswith("vector")])
        lists = Lists.load(folder / LISTS) if (folder / LISTS).exists() else None
        return cls(fields, found.pop(""), found, lists)

    def _has(self, field: str, values: Sequence[str]) -> np.ndarray:
        if field not in FILTERS:
            raise ValueError(f"'{field}' is no filter; there are {', '.join(FILTERS)}")
        own = pc.fill_null(pc.utf8_lower(self.fields[field]), "")
        wanted = [value.lower() for value in values]
        found = pc.is_in(own, pa.array(wanted, pa.string())).to_numpy()
        if field == "category":
            for value in wanted:
                found = found | pc.starts_with(own, f"{value.rstrip('/')}/").to_numpy()
        return found


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
