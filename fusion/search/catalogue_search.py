"""Search a catalogue with a trained model."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError

from catalog import store
from catalog.groups import name_groups
from catalog.images import PictureError, decode, fit
from catalog.schema import DataError, main_picture
from fusion.features import MODALITIES, Items
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.hybrid import Hybrid
from fusion.search.rerank import PictureLoader, Reranker, rerank
from fusion.search.vector_index import ANN_MIN_PRODUCTS, IVFIndex, top_k

FILTERS = ("category", "brand", "color", "material")
FIELDS = (*FILTERS, "price", "max_price", "currency", "group_id", "available")
PRODUCTS_FILE, IVF_FILE, HYBRID_FOLDER = "products.parquet", "lists.npz", "hybrid"
MIN_TOTAL_LOSS = 1e-3  # of a score; smaller losses are rounding errors of half precision


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
    hybrid: Hybrid,
) -> pa.Table:
    """Rank the products of a catalogue as `rank_products`, by the hybrid; `texts` are those of the queries."""
    model_depth = max(depth, hybrid.depth)
    rows, scores = top_k(embed(model, queries, "query"), embed(model, products, "product"), model_depth)
    product_ids = pa.chunked_array([pa.array(products.ids, pa.string())])
    return build_run_table(queries.ids, products.ids, *hybrid.merge(texts, rows, scores, product_ids, depth))


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


class SearchIndex:
    """The searchable catalogue: product vectors, fields to show and filter by, and vectors without one modality.

    Args:
        fields: P rows: product_id, title, and those of `FIELDS` that the catalogue has.
        vectors: float32, shape (P, dim).
        vectors_without: Modality → float16, shape (P, dim): product vectors without that modality; equal to `vectors`
            for products that lack it.
        ivf: Approximate index for a large catalogue; None for exact search.
        hybrid: Merges BM25's ranking into the model's; None where the model alone is served.
    """

    def __init__(
        self,
        fields: pa.Table,
        vectors: np.ndarray,
        vectors_without: Mapping[str, np.ndarray],
        ivf: IVFIndex | None = None,
        hybrid: Hybrid | None = None,
    ) -> None:
        self.fields, self.vectors = fields, vectors
        self.vectors_without, self.ivf, self.hybrid = dict(vectors_without), ivf, hybrid

    @classmethod
    def build(cls, model: ProductSearchModel, products: Items, data: Path, queries: np.ndarray) -> Self:
        """Encode a catalogue; build an `IVFIndex` if it has more than `ANN_MIN_PRODUCTS` products.

        Args:
            model: In evaluation mode.
            products: The catalogue.
            data: The data set that has the fields.
            queries: float32 (Q, dim), encoded representative queries, to tune the `IVFIndex`.
        """
        fields = store.read_table(data, "products", ["product_id", "title", *FIELDS])
        vectors_without = {
            name: embed(model, products.without(name), "product").astype(np.float16)
            for name in model.config.modalities
        }
        vectors = embed(model, products, "product")
        ivf = IVFIndex.build(vectors, queries) if len(vectors) > ANN_MIN_PRODUCTS else None
        return cls(fields, vectors, vectors_without, ivf)

    @property
    def nbytes(self) -> int:
        """Memory of the vectors, the `IVFIndex` and BM25's scores."""
        arrays = (self.vectors, *self.vectors_without.values())
        index_size = self.ivf.nbytes if self.ivf else 0
        lexical_size = self.hybrid.lexical.nbytes if self.hybrid else 0
        return sum(vectors.nbytes for vectors in arrays) + index_size + lexical_size

    def search(
        self,
        queries: np.ndarray,
        k: int,
        mask: np.ndarray | None = None,
        texts: Sequence[str | None] | None = None,
        collapse: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best products of each query, as `top_k`; approximate if there is an `IVFIndex`.

        Args:
            queries: float32 (Q, dim), encoded.
            k: At most this many per query.
            mask: From `filter_mask`.
            texts: Of the Q queries, for the hybrid; None to search with the model alone.
            collapse: Return only the best variant of each group of products.
        """
        if collapse:  # so many products have k groups, or are all there are
            deepest = k * int(np.bincount(self.groups).max(initial=1))
            return keep_first_of_groups(*self.search(queries, deepest, mask, texts), self.groups, k)
        search = self.ivf.top_k if self.ivf else top_k
        if self.hybrid is None or texts is None:
            return search(queries, self.vectors, k, mask)
        rows, scores = search(queries, self.vectors, max(k, self.hybrid.depth), mask)
        return self.hybrid.merge(texts, rows, scores, self.fields["product_id"], k, mask)

    @cached_property
    def groups(self) -> np.ndarray:
        """Number of each product's group, int64 (P,); a product without `group_id` is alone."""
        names = name_groups(self.fields["product_id"], self.fields["group_id"])
        return np.unique(names.to_numpy(), return_inverse=True)[1]

    def filter_mask(
        self,
        filters: Mapping[str, Sequence[str]],
        low: float | None = None,
        high: float | None = None,
        available: bool = False,
    ) -> np.ndarray | None:
        """Return the products that pass all filters, bool (P,); None if there is no filter.

        Args:
            filters: Field → accepted values, compared without case; "shoes" also accepts every category below shoes.
            low, high: Lowest and highest price; products without a price do not pass.
            available: Whether only products that are in stock pass; those of unknown stock do not.

        Raises:
            ValueError: a field is not in `FILTERS`, or the price range is invalid.
        """
        masks = [self._field_mask(field, values) for field, values in filters.items()]
        if low is not None or high is not None:
            least, most = 0.0 if low is None else low, np.inf if high is None else high
            if not 0 <= least <= most:
                raise ValueError(f"prices from {least:g} to {most:g}: give min_price ≤ max_price, 0 or more")
            price = self.fields["price"].to_numpy()
            masks.append((price >= least) & (price <= most))
        if available:
            masks.append(pc.fill_null(self.fields["available"], False).to_numpy())
        return np.logical_and.reduce(masks) if masks else None

    def modality_shares(self, query: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Compute each modality's contribution to each of the model's scores: modality → float (k,).

        A modality's contribution is the drop of the score without it, or 0 if the score does not drop. The
        contributions to a score are scaled to add up to 1, or are all 0. BM25's part of a hybrid has no share.

        Args:
            query: float32 (dim,).
            rows: (k,) of the results, as `search` returns them.
        """
        scores = self.vectors[rows] @ query
        losses = {
            name: np.maximum(scores - vectors[rows].astype(np.float32) @ query, 0)
            for name, vectors in self.vectors_without.items()
        }
        total = sum(losses.values())
        return {
            name: np.divide(loss, total, out=np.zeros_like(loss), where=total > MIN_TOTAL_LOSS)
            for name, loss in losses.items()
        }

    def save(self, folder: Path) -> None:
        """Write products.parquet, lists.npz if there is an `IVFIndex`, and hybrid/ if there is a `Hybrid`."""
        table = self.fields
        for name, vectors in {"": self.vectors, **self.vectors_without}.items():
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            table = table.append_column(f"vector {name}".strip(), column)
        folder.mkdir()
        pq.write_table(table, folder / PRODUCTS_FILE)
        if self.ivf:
            self.ivf.save(folder / IVF_FILE)
        if self.hybrid:
            self.hybrid.save(folder / HYBRID_FOLDER)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        table = pq.read_table(folder / PRODUCTS_FILE)
        vectors = {}
        for name in [name for name in table.column_names if name.startswith("vector")]:
            column = table[name].combine_chunks()
            vectors[name.removeprefix("vector").strip()] = (
                column.flatten().to_numpy().reshape(-1, column.type.list_size)
            )
        fields = table.select([name for name in table.column_names if not name.startswith("vector")])
        ivf = IVFIndex.load(folder / IVF_FILE) if (folder / IVF_FILE).exists() else None
        hybrid = Hybrid.load(folder / HYBRID_FOLDER) if (folder / HYBRID_FOLDER).exists() else None
        return cls(fields, vectors.pop(""), vectors, ivf, hybrid)

    def _field_mask(self, field: str, values: Sequence[str]) -> np.ndarray:
        """Return the products whose field has one of the values, bool (P,)."""
        if field not in FILTERS:
            raise ValueError(f"'{field}' is not a filter; the filters are {', '.join(FILTERS)}")
        column = pc.fill_null(pc.utf8_lower(self.fields[field]), "")
        accepted_values = [value.lower() for value in values]
        mask = pc.is_in(column, pa.array(accepted_values, pa.string())).to_numpy()
        if field == "category":
            for value in accepted_values:
                mask = mask | pc.starts_with(column, f"{value.rstrip('/')}/").to_numpy()
        return mask


def keep_first_of_groups(
    rows: np.ndarray, scores: np.ndarray, groups: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first result of each group, of results that are best first.

    Args:
        rows, scores: Of Q queries, as `top_k` returns them; each query has the same number of groups, or k or more.
        groups: Number of each product's group, int64 (P,).
        k: At most this many results are kept per query.

    Returns:
        Row numbers and scores, both of shape (Q, at most k).
    """
    positions = [np.sort(np.unique(groups[query_rows], return_index=True)[1])[:k] for query_rows in rows]
    kept = np.array(positions, np.int64).reshape(len(rows), -1)
    return np.take_along_axis(rows, kept, 1), np.take_along_axis(scores, kept, 1)


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
    index: Path | None = None,
) -> pa.Table:
    """Rank products for the queries of one split of a data set with a saved model.

    Args:
        folder: Output folder of the train stage.
        data: The data set.
        split: Which queries to use.
        depth: Maximum number of products per query.
        reranker: Reorders the first `top` products of each query; None for no reranking.
        top: Products per query to rerank.
        index: Of `SearchIndex.save`; its hybrid, if there is one, ranks these products. None for the model alone.

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
    if index and (index / HYBRID_FOLDER).exists():
        hybrid = Hybrid.load(index / HYBRID_FOLDER).rebuild(data, products.ocr)
        run = rank_hybrid(model, split_queries, query_texts, products, depth, hybrid)
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
