"""Distillation: the vectors of a larger model, the teacher, whose similarities training imitates."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from catalog.schema import DataError
from fusion.training.losses import LOWEST

SETTINGS = "teacher.json"
COMMAND = "python -m fusion teach"
EXAMPLES = 5  # of ids, in a message


@dataclass(frozen=True)
class Teacher:
    """The vectors of a teacher. Their width is its own: only its similarities are imitated.

    Attributes:
        scale: One over the temperature of its similarities.
        products: Unit vectors, float16 (P, D); zero for a product that it cannot encode.
        queries: Likewise, float16 (Q, D).
    """

    scale: float
    products: np.ndarray
    queries: np.ndarray

    def take(self, products: np.ndarray, queries: np.ndarray, query_count: int) -> Self:
        """The vectors of a batch.

        Args:
            products: Rows of its products, int64.
            queries: Rows of its first queries, int64.
            query_count: Number of its queries; those after the first have no vector.
        """
        query_vectors = np.zeros((query_count, self.queries.shape[1]), np.float16)
        query_vectors[: len(queries)] = self.queries[queries]
        return type(self)(self.scale, self.products[products], query_vectors)

    def save(self, folder: Path, product_ids: np.ndarray, query_ids: np.ndarray) -> None:
        """Write products.parquet and queries.parquet, columns id and vector, and teacher.json with the scale."""
        for table, ids, vectors in (
            ("products", product_ids, self.products),
            ("queries", query_ids, self.queries),
        ):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            content = pa.table({"id": pa.array(ids, pa.string()), "vector": column})
            pq.write_table(content, folder / f"{table}.parquet")
        (folder / SETTINGS).write_text(json.dumps({"scale": self.scale}) + "\n")

    @classmethod
    def load(cls, folder: Path, product_ids: np.ndarray, query_ids: np.ndarray) -> Self:
        """Read the vectors of these products and queries; other rows are not used.

        Raises:
            DataError: if the folder or a file is missing or unreadable, lacks an id, or holds other than finite vectors
                of one width.
        """
        if not folder.is_dir():
            raise DataError(f"train.teacher: there is no folder '{folder}'; write it with {COMMAND}")
        try:
            scale = float(json.loads((folder / SETTINGS).read_text())["scale"])
            if not 0 < scale < math.inf:
                raise ValueError(f"{scale} is not a positive number")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{folder / SETTINGS}: expected {{"scale": NUMBER}} ({error}); write it with {COMMAND}'
            ) from error
        products = _read_vectors(folder / "products.parquet", product_ids)
        queries = _read_vectors(folder / "queries.parquet", query_ids)
        if products.shape[1] != queries.shape[1]:
            raise DataError(
                f"{folder}: vectors of products have {products.shape[1]} numbers, those of queries "
                f"{queries.shape[1]}; both must come from the same model"
            )
        return cls(scale, products, queries)


class Imitation:
    """L_distillation: how much a batch's similarities differ from the teacher's.

    Each query and each product is compared with all products. The loss is KL(softmax of the teacher's scores ‖ softmax
    of the model's), the mean over queries and the mean over products in equal parts. Scores are compared, so the
    vectors of both may have any width: L_CRD of CLIP-KD (Yang et al., 2024), for products with each other as in
    CompRess (Abbasi Koohpayegani et al., 2020). What the teacher does not encode is left out.

    Args:
        teacher: Its vectors of the batch, of Q queries and P products.
        device: Of the scores.

    Attributes:
        query_count, product_count: Number of queries and products that the teacher encodes.
    """

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self._products, self._queries = (
            torch.from_numpy(vectors).to(device).float() for vectors in (teacher.products, teacher.queries)
        )
        self._scale = teacher.scale
        self._has_product, self._has_query = (vectors.any(1) for vectors in (self._products, self._queries))
        self.query_count, self.product_count = (
            int(vectors.any(1).sum()) for vectors in (teacher.queries, teacher.products)
        )

    def compare_queries(self, scores: Tensor, rows: np.ndarray) -> Tensor:
        """The loss of some queries, float32 (R,).

        Args:
            scores: Of the model, divided by its temperature, float (R, P).
            rows: Of the queries, int64 (R,).
        """
        comparable = self._has_query[rows, None] & self._has_product
        return self._diverge(scores, self._queries[rows], comparable)

    def compare_products(self, scores: Tensor, rows: np.ndarray) -> Tensor:
        """As `compare_queries`, of some products; a product is not compared with itself."""
        others = torch.arange(len(self._products), device=scores.device)
        is_other = others[rows, None] != others
        comparable = self._has_product[rows, None] & self._has_product & is_other
        return self._diverge(scores, self._products[rows], comparable)

    def _diverge(self, scores: Tensor, teacher_vectors: Tensor, comparable: Tensor) -> Tensor:
        """The divergence of each row over its comparable scores, 0 if they are less than two."""
        teacher_scores = self._scale * teacher_vectors @ self._products.T
        student, teacher = (
            values.float().masked_fill(~comparable, LOWEST).log_softmax(1)
            for values in (scores, teacher_scores)
        )
        return kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def _read_vectors(path: Path, ids: np.ndarray) -> np.ndarray:
    """The unit vectors of some ids, float16 (N, D); zero where the file's vector is zero.

    Raises:
        DataError: if the file cannot be read, an id is missing, or a vector has another width or is not finite.
    """
    try:
        table = pq.read_table(path, columns=["id", "vector"])
        rows = pc.index_in(pa.array(ids, pa.string()), table["id"].combine_chunks().cast(pa.string()))
        column = table["vector"].combine_chunks().cast(pa.list_(pa.float32()))
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: not a table of ids and vectors ({reason}); write it with {COMMAND}"
        ) from error
    if rows.null_count:
        missing = ids[rows.is_null().to_numpy(zero_copy_only=False)]
        raise DataError(
            f"{path}: lacks {len(missing)} of {len(ids)} ids, such as {', '.join(missing[:EXAMPLES])}; write it with "
            f"{COMMAND} from these data"
        )
    column = column.take(rows)
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise DataError(
            f"{path}: vectors must have one width, not {widths[:EXAMPLES]}; write it with {COMMAND}"
        )
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), -1)
    if not (finite := np.isfinite(vectors).all(1)).all():
        raise DataError(f"{path}: the vector of {ids[~finite][0]} is not finite; write it with {COMMAND}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0).astype(np.float16)
