"""The hybrid of the model and BM25: a weighted sum of their scores, the same at evaluation and in service."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fusion.search.analysis import AUTO
from fusion.search.lexical_index import LexicalIndex

HYBRID_FILE = "hybrid.json"


@dataclass(frozen=True)
class Hybrid:
    """How the model's ranking and BM25's are merged.

    Attributes:
        weight: Of the model's scores, in [0, 1]; BM25's have the rest.
        depth: Products of each ranking whose scores are scaled to [0, 1] and added up. More results than that need
            longer rankings, and the scale depends on their length.
        language: How BM25 reads texts, see `LexicalIndex.build`.
    """

    weight: float = 1.0
    depth: int = 100
    language: str = AUTO

    @property
    def uses_bm25(self) -> bool:
        """Whether BM25 changes the model's ranking."""
        return self.weight < 1

    def merge(
        self,
        lexical: LexicalIndex,
        texts: Sequence[str | None],
        rows: np.ndarray,
        scores: np.ndarray,
        product_ids: pa.ChunkedArray,
        k: int,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Merge the model's rankings with BM25's; a query to which BM25 has no answer keeps the model's.

        Args:
            lexical: BM25 over the same products, in the same order.
            texts: Of Q queries; None or "" for a query without text.
            rows, scores: The model's best products, as `top_k` returns them for max(k, `depth`).
            product_ids: Of all P products.
            k: At most this many results per query.
            mask: bool (P,), the products that were searched; None for all.

        Returns:
            Row numbers, int64, and scores, float64, both of shape (Q, at most k), best first.
        """
        best_rows, best_scores = rows[:, :k].copy(), scores[:, :k].astype(np.float64)
        for query, text in enumerate(texts):
            lexical_rows, lexical_scores = lexical.search(text or "", rows.shape[1], mask)
            if len(lexical_rows):
                merged_rows, merged_scores = merge_rankings(
                    rows[query], scores[query], lexical_rows, lexical_scores, self.weight, product_ids
                )
                best_rows[query], best_scores[query] = merged_rows[:k], merged_scores[:k]
        return best_rows, best_scores

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        path.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))


MODEL_ALONE = Hybrid()


def merge_rankings(
    rows: np.ndarray,
    scores: np.ndarray,
    lexical_rows: np.ndarray,
    lexical_scores: np.ndarray,
    weight: float,
    product_ids: pa.ChunkedArray,
) -> tuple[np.ndarray, np.ndarray]:
    """Merge two rankings of one query: weight · model + (1 − weight) · BM25, each scaled to [0, 1] over its ranking.

    A product that a ranking lacks gets 0 from it. This is CombSUM with weights and min-max normalisation (Fox & Shaw,
    "Combination of multiple searches", TREC-2, 1994), and equals `vitrine_judge.combine.weighted`, which this package
    does not import. Equal sums are in order of product id, as the judge orders them.

    Args:
        rows, scores: The model's ranking, one product or more.
        lexical_rows, lexical_scores: BM25's ranking, one product or more.
        weight: Of the model.
        product_ids: Of all products.

    Returns:
        Row numbers, int64 (n,), and scores, float64 (n,), of the products of either ranking, best first.
    """
    contributions = np.concatenate([weight * _min_max(scores), (1 - weight) * _min_max(lexical_scores)])
    merged_rows, positions = np.unique(np.concatenate([rows, lexical_rows]), return_inverse=True)
    sums = np.bincount(positions, contributions, len(merged_rows))
    table = pa.table({"score": sums, "product_id": product_ids.take(pa.array(merged_rows))})
    order = pc.sort_indices(table, [("score", "descending"), ("product_id", "ascending")]).to_numpy()
    return merged_rows[order], sums[order]


def _min_max(scores: np.ndarray) -> np.ndarray:
    """Scale to [0, 1], float64; all 1 where the scores are equal."""
    values = scores.astype(np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.ones_like(values)
