"""The embedded index: a catalogue's vectors and fields in memory."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.groups import name_groups
from catalog.schema import DataError
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.search.filters import FILTERS, NO_FILTERS, Filters
from fusion.search.hybrid import MODEL_ALONE, Hybrid
from fusion.search.lexical_index import LexicalIndex
from fusion.search.marker import IndexMarker, QueryEmbeddings, require_marker
from fusion.search.vector_index import ANN_MIN_PRODUCTS, IVFIndex, top_k

FIELDS = (*FILTERS, "price", "max_price", "currency", "group_id", "available")
PRODUCTS_FILE, IVF_FILE, LEXICAL_FOLDER = "products.parquet", "lists.npz", "lexical"
CONTENT, VECTOR = "content", "vector"  # columns of products.parquet; also "vector text" and so on
GROUP_ROWS = 16_384  # products in a row group of products.parquet
MIN_TOTAL_LOSS = 1e-3  # of a score; smaller losses are rounding errors of half precision


def pack_vectors(vectors: Mapping[str, np.ndarray]) -> dict[str, pa.FixedSizeBinaryArray]:
    """Vectors as columns of bytes: parquet reads them twenty times as fast as lists of numbers.

    Args:
        vectors: Name → float (N, dim), "" or a modality.

    Returns:
        "vector", or "vector" and the modality → the bytes of each product's vector.
    """
    columns = {}
    for name, array in vectors.items():
        kind = pa.binary(array.shape[1] * array.itemsize)
        buffers = [None, pa.py_buffer(np.ascontiguousarray(array))]
        columns[f"{VECTOR} {name}".strip()] = pa.FixedSizeBinaryArray.from_buffers(kind, len(array), buffers)
    return columns


def unpack_vectors(table: pa.Table) -> dict[str, np.ndarray]:
    """The inverse of `pack_vectors`: float32 (N, dim) under the name "", float16 for each modality; read-only."""
    vectors = {}
    for name in [name for name in table.column_names if name.startswith(VECTOR)]:
        modality = name.removeprefix(VECTOR).strip()
        column = table[name].combine_chunks()
        dtype, width = np.dtype(np.float16 if modality else np.float32), column.type.byte_width
        content = np.frombuffer(column.buffers()[1] or b"", np.uint8)
        rows = content[column.offset * width : (column.offset + len(column)) * width]
        vectors[modality] = rows.view(dtype).reshape(len(column), width // dtype.itemsize)
    return vectors


class ProductsWriter:
    """Writes products.parquet of an index, `GROUP_ROWS` products at a time; a context manager.

    Vectors are neither compressed nor looked up in dictionaries: that saves no space, and most of the time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def write(
        self, fields: pa.Table, vectors: Mapping[str, np.ndarray], content: pa.Array | None = None
    ) -> None:
        """Add products.

        Args:
            fields: See `SearchIndex`.
            vectors: `SearchIndex.vectors` under the name "", and `SearchIndex.vectors_without`.
            content: See `SearchIndex.save`.
        """
        table, columns = fields, dict.fromkeys(fields.column_names, "zstd")
        if content is not None:
            table = table.append_column(CONTENT, content)
        for name, column in pack_vectors(vectors).items():
            table = table.append_column(name, column)
        if self._writer is None:
            dictionaries = [name for name in (*FILTERS, "currency") if name in fields.column_names]
            self._writer = pq.ParquetWriter(
                self.path, table.schema, use_dictionary=dictionaries, compression=columns
            )
        self._writer.write_table(table, GROUP_ROWS)


class SearchIndex:
    """The searchable catalogue: product vectors, fields to show and filter by, and vectors without one modality.

    Args:
        marker: What it was made from.
        fields: P rows: product_id, title, and those of `FIELDS` that the catalogue has.
        vectors: float32, shape (P, dim).
        vectors_without: Modality → float16, shape (P, dim): product vectors without that modality; equal to `vectors`
            for products that lack it.
        lexical: BM25 over the same products, in the same order; None where `hybrid` does not use it.
        ivf: Approximate index for a large catalogue; None for exact search.
        hybrid: How BM25's ranking is merged into the model's.
    """

    def __init__(
        self,
        marker: IndexMarker,
        fields: pa.Table,
        vectors: np.ndarray,
        vectors_without: Mapping[str, np.ndarray],
        lexical: LexicalIndex | None = None,
        ivf: IVFIndex | None = None,
        hybrid: Hybrid = MODEL_ALONE,
    ) -> None:
        self.marker, self.fields, self.vectors = marker, fields, vectors
        self.vectors_without = dict(vectors_without)
        self.lexical, self.ivf, self.hybrid = lexical, ivf, hybrid

    @classmethod
    def build(
        cls,
        model: ProductSearchModel,
        products: Items,
        data: Path,
        fingerprint: str,
        queries: np.ndarray,
        lexical: LexicalIndex | None = None,
    ) -> Self:
        """Encode a catalogue; build an `IVFIndex` if it has more than `ANN_MIN_PRODUCTS` products.

        Args:
            model: Of `ProductSearchModel.load`.
            products: The catalogue.
            data: The data set that has the fields.
            fingerprint: Of the data set.
            queries: float32 (Q, dim), encoded representative queries, to tune the `IVFIndex`.
            lexical: BM25 over the same products.

        Raises:
            MarkerError: the model was not loaded from a folder.
        """
        marker = IndexMarker(require_marker(model), fingerprint, model.config.dim)
        fields = store.read_table(data, "products", ["product_id", "title", *FIELDS])
        vectors_without = {
            name: embed(model, products.without(name), "product").astype(np.float16)
            for name in model.config.modalities
        }
        vectors = embed(model, products, "product")
        ivf = IVFIndex.build(vectors, queries) if len(vectors) > ANN_MIN_PRODUCTS else None
        return cls(marker, fields, vectors, vectors_without, lexical, ivf)

    @property
    def nbytes(self) -> int:
        """Memory of the vectors, the `IVFIndex` and BM25's scores."""
        arrays = (self.vectors, *self.vectors_without.values())
        index_size = self.ivf.nbytes if self.ivf else 0
        lexical_size = self.lexical.nbytes if self.lexical else 0
        return sum(vectors.nbytes for vectors in arrays) + index_size + lexical_size

    def serve(self, hybrid: Hybrid) -> Self:
        """The same index as it is served: with this hybrid, and without BM25 where the hybrid does not use it."""
        lexical = self.lexical if hybrid.uses_bm25 else None
        return type(self)(
            self.marker, self.fields, self.vectors, self.vectors_without, lexical, self.ivf, hybrid
        )

    def require_lexical(self) -> LexicalIndex:
        """BM25.

        Raises:
            DataError: this index has none, or it was loaded for a hybrid that does not use it.
        """
        if self.lexical is None:
            raise DataError("this index has no BM25; build it again")
        return self.lexical

    def find(
        self,
        queries: QueryEmbeddings,
        k: int,
        filters: Filters = NO_FILTERS,
        texts: Sequence[str | None] | None = None,
        collapse: bool = False,
    ) -> list[list[dict[str, Any]]]:
        """Search and describe the results.

        Args:
            queries: Q of them, encoded by the model of this index.
            k: At most this many results per query.
            filters: What results must pass.
            texts: Of the Q queries, for the hybrid; None to search with the model alone.
            collapse: Return only the best variant of each group of products.

        Returns:
            For each query its results, best first: score, product_id, title, the fields of `FIELDS` (None for a missing
            value), and share_text, share_image and so on, see `modality_shares`.

        Raises:
            MarkerError: another model encoded the queries.
        """
        rows, scores = self.search(queries, k, self.filter_mask(filters), texts, collapse)
        return [
            self._describe(vector, query_rows, query_scores)
            for vector, query_rows, query_scores in zip(queries.vectors, rows, scores, strict=True)
        ]

    def find_similar(
        self, product_id: str, k: int, filters: Filters = NO_FILTERS, collapse: bool = False
    ) -> list[dict[str, Any]]:
        """The products whose vectors are the nearest to that of a product, without it; otherwise as `find`.

        Raises:
            ValueError: the index does not have the product.
        """
        row = pc.index(self.fields["product_id"], pa.scalar(product_id, pa.string())).as_py()
        if row < 0:
            raise ValueError(f"the index has no product '{product_id}'")
        product = QueryEmbeddings(self.vectors[row : row + 1], self.marker.model)
        (results,) = self.find(product, k + 1, filters, collapse=collapse)
        return [result for result in results if result["product_id"] != product_id][:k]

    def search(
        self,
        queries: QueryEmbeddings,
        k: int,
        mask: np.ndarray | None = None,
        texts: Sequence[str | None] | None = None,
        collapse: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best products of each query, as `top_k`; approximate if there is an `IVFIndex`.

        Args:
            queries: Q of them, encoded by the model of this index.
            k: At most this many per query.
            mask: From `filter_mask`.
            texts: Of the Q queries, for the hybrid; None to search with the model alone.
            collapse: Return only the best variant of each group of products.

        Raises:
            MarkerError: another model encoded the queries.
        """
        self.marker.require(queries)
        if collapse:  # so many products have k groups, or are all there are
            deepest = k * int(np.bincount(self.groups).max(initial=1))
            return keep_first_of_groups(*self.search(queries, deepest, mask, texts), self.groups, k)
        search = self.ivf.top_k if self.ivf else top_k
        if self.lexical is None or texts is None or not self.hybrid.uses_bm25:
            return search(queries.vectors, self.vectors, k, mask)
        rows, scores = search(queries.vectors, self.vectors, max(k, self.hybrid.depth), mask)
        return self.hybrid.merge(self.lexical, texts, rows, scores, self.fields["product_id"], k, mask)

    @cached_property
    def groups(self) -> np.ndarray:
        """Number of each product's group, int64 (P,); a product without `group_id` is alone."""
        names = name_groups(self.fields["product_id"], self.fields["group_id"])
        return np.unique(names.to_numpy(), return_inverse=True)[1]

    def filter_mask(self, filters: Filters) -> np.ndarray | None:
        """Return the products that pass all filters, bool (P,); None if there is no filter."""
        masks = [self._field_mask(field, values) for field, values in filters.values.items()]
        if filters.has_price_limit:
            price = self.fields["price"].to_numpy()
            masks.append((price >= filters.lowest) & (price <= filters.highest))
        if filters.available:
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

    def save(self, folder: Path, content: pa.ChunkedArray | None = None) -> None:
        """Write marker.json, products.parquet, lexical/ with BM25, and lists.npz if there is an `IVFIndex`.

        How BM25 is merged is no part of an index: `evaluate` chooses it, see `Hybrid.save`.

        Args:
            folder: Created if missing.
            content: Hash of each product, of `catalog.content.hash_products`, by which a refresh recognises what did
                not change; without it, a refresh encodes all products.
        """
        folder.mkdir(exist_ok=True)
        self.marker.save(folder)
        vectors = {"": self.vectors, **self.vectors_without}
        with ProductsWriter(folder / PRODUCTS_FILE) as writer:
            for start in range(0, max(1, len(self.vectors)), GROUP_ROWS):
                rows = slice(start, start + GROUP_ROWS)
                hashes = None if content is None else content[rows].combine_chunks()
                writer.write(
                    self.fields[rows], {name: array[rows] for name, array in vectors.items()}, hashes
                )
        if self.ivf:
            self.ivf.save(folder / IVF_FILE)
        if self.lexical:
            self.lexical.save(folder / LEXICAL_FOLDER)

    @classmethod
    def load(cls, folder: Path, hybrid: Path | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: The index.
            hybrid: What `Hybrid.save` wrote, to serve; None to load BM25, if there is one, and search without it.

        Raises:
            DataError: the folder is not an index of this version.
        """
        marker = IndexMarker.load(folder)
        table = pq.read_table(folder / PRODUCTS_FILE)
        vectors = unpack_vectors(table)
        hidden = (CONTENT, VECTOR)
        fields = table.select([name for name in table.column_names if not name.startswith(hidden)])
        ivf = IVFIndex.load(folder / IVF_FILE) if (folder / IVF_FILE).exists() else None
        served = Hybrid.load(hybrid) if hybrid else MODEL_ALONE
        has_lexical = (folder / LEXICAL_FOLDER).exists() and (hybrid is None or served.uses_bm25)
        lexical = LexicalIndex.load(folder / LEXICAL_FOLDER) if has_lexical else None
        return cls(marker, fields, vectors.pop(""), vectors, lexical, ivf, served)

    def _describe(self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        """The results of one query as `find` returns them."""
        shares = {
            f"share_{name}": share.tolist() for name, share in self.modality_shares(query, rows).items()
        }
        fields = self.fields.take(pa.array(rows)).to_pydict()
        columns = {"score": scores.astype(float).tolist(), **fields, **shares}
        return [
            {name: _finite_or_none(values[position]) for name, values in columns.items()}
            for position in range(len(rows))
        ]

    def _field_mask(self, field: str, values: Sequence[str]) -> np.ndarray:
        """Return the products whose field has one of the values, bool (P,)."""
        column = pc.fill_null(pc.utf8_lower(self.fields[field]), "")
        accepted_values = [value.lower() for value in values]
        mask = pc.is_in(column, pa.array(accepted_values, pa.string())).to_numpy()
        if field == "category":
            for value in accepted_values:
                mask = mask | pc.starts_with(column, f"{value.rstrip('/')}/").to_numpy()
        return mask


def select_tuning_queries(queries: Items) -> Items:
    """The queries that tune an approximate index: validation queries, or test queries where there are none."""
    split = "valid" if (queries.splits == "valid").any() else "test"
    return queries.take(queries.splits == split)


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


def _finite_or_none(value: Any) -> Any:
    """None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
