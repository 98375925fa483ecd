"""How far a data set lies from the one that the champion was made with."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import store
from catalog.schema import TEXT_COLUMNS, product_text

BINS = 10  # of numbers, with equally many of the champion's products in each
KINDS = 50  # the most frequent values; the rest are one
CHANCE = 0.01  # what may come about by chance this often is no drift
FOLDS = 5
NONE, REST = "none", "others"
EMBEDDINGS = "embeddings"
Counts = tuple[list[str], np.ndarray, np.ndarray]  # names of bins; how many then, and now: int64 (bins,)


@dataclass(frozen=True)
class Drift:
    """How one property of products has changed.

    Attributes:
        what: The property.
        bins: Names.
        then, now: Shares of products, float64 (bins,), each in all 1.
        index: The population stability index: Σ (now − then) · ln(now / then), with half a product more in each bin.
            Below 0.1 little has changed, above 0.25 much (Siddiqi, "Credit Risk Scorecards", 2006).
        p: Of a χ² test that both came from one distribution.
    """

    what: str
    bins: list[str]
    then: np.ndarray
    now: np.ndarray
    index: float
    p: float

    @property
    def proven(self) -> bool:
        """Whether more has changed than comes about by chance."""
        return self.p < CHANCE


def profile(data: Path, products: int) -> pa.Table:
    """A sample of the products, and what is compared of them.

    Whether a product is drawn depends on its id alone, so that two versions of a catalogue are compared on the same
    products as far as both have them.

    Args:
        data: The data set.
        products: At most this many.

    Returns:
        Columns product_id, category, price and length (int32, characters of all its texts).
    """
    ids = store.read(data, "products", ["product_id"])["product_id"].to_pylist()
    drawn = pa.array(nsmallest(products, ids, _hashed), pa.string())
    batches = store.batches(data, "products", ["product_id", *TEXT_COLUMNS, "price"])
    kept = (batch.filter(pc.is_in(batch["product_id"], drawn)) for batch in batches)
    parts = [
        batch.select(["product_id", "category", "price"]).append_column(
            "length", pa.array([len(product_text(row)) for row in batch.to_pylist()], pa.int32())
        )
        for batch in kept
    ]
    return pa.Table.from_batches(parts)


def with_vectors(profile: pa.Table, vectors: pa.Table) -> pa.Table:
    """A profile with the model's vectors of its products.

    Args:
        profile: Of `profile`.
        vectors: Columns product_id and vector, of all of its products or more.
    """
    rows = pc.index_in(profile["product_id"], vectors["product_id"].combine_chunks())
    return profile.append_column("vector", vectors["vector"].take(rows))


def compare(then: pa.Table, now: pa.Table) -> list[Drift]:
    """What has changed, in categories, prices, lengths of texts, and embeddings.

    Args:
        then, now: Of `with_vectors`, by the same model; neither is empty.
    """
    return [_drift(what, *count(then, now)) for what, count in PROPERTIES.items()]


def _drift(what: str, bins: list[str], then: np.ndarray, now: np.ndarray) -> Drift:
    from scipy.stats import chi2_contingency

    there = then + now > 0
    bins = [name for name, kept in zip(bins, there, strict=True) if kept]
    then, now = then[there], now[there]
    p = chi2_contingency(np.stack([then, now])).pvalue if len(bins) > 1 else 1.0
    before, after = ((counts + 0.5) / (counts + 0.5).sum() for counts in (then, now))
    index = float(np.sum((after - before) * np.log(after / before)))
    return Drift(what, bins, then / then.sum(), now / now.sum(), index, float(p))


def _kinds(then: Sequence[str | None], now: Sequence[str | None]) -> Counts:
    """Values, the most frequent of either first."""
    before, after = Counter(value or NONE for value in then), Counter(value or NONE for value in now)
    share = {k: before[k] / len(then) + after[k] / len(now) for k in before | after}
    bins = sorted(share, key=lambda kind: (-share[kind], kind))[:KINDS]
    counts = [np.array([found[kind] for kind in bins] + [0]) for found in (before, after)]
    for found, row in zip((before, after), counts, strict=True):
        row[-1] = found.total() - row.sum()
    return [*bins, REST], counts[0], counts[1]


def _numbers(then: np.ndarray, now: np.ndarray) -> Counts:
    """Numbers between the deciles of `then`; NaN is one bin more."""
    known = then[~np.isnan(then)]
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner)) if known.size else np.empty(0)
    counts = [
        np.bincount(np.where(np.isnan(x), len(edges) + 1, np.digitize(x, edges)), minlength=len(edges) + 2)
        for x in (then, now)
    ]
    ends = [f"{edge:.4g}" for edge in edges]
    names = [f"{low} to {high}" for low, high in pairwise(ends)]
    names = [f"below {ends[0]}", *names, f"{ends[-1]} or more"] if ends else ["all"]
    return [*names, NONE], counts[0], counts[1]


def _embeddings(then: pa.Table, now: pa.Table) -> Counts:
    """How much like the new data a linear classifier finds each product that it was not trained on.

    After Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (2017): what no classifier can tell apart is the
    same. A product of both data sets is never trained on in one and judged in the other.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors = np.concatenate([_matrix(table["vector"]) for table in (then, now)])
    new = np.arange(len(vectors)) >= len(then)
    ids = pa.chunked_array([*then["product_id"].chunks, *now["product_id"].chunks], pa.string())
    groups = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    if min(len(then), len(now)) < 2 * FOLDS:  # too few to learn from
        return ["all"], np.array([len(then)]), np.array([len(now)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    scores = cross_val_predict(
        classifier, vectors, new, groups=groups, cv=GroupKFold(FOLDS), method="decision_function"
    )
    return _numbers(scores[~new], scores[new])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    return array.flatten().to_numpy().reshape(len(array), -1)


def _hashed(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest()


def _column(table: pa.Table, name: str) -> np.ndarray:
    """Float64, NaN for null."""
    return table[name].cast(pa.float64()).to_numpy()


PROPERTIES: dict[str, Callable[[pa.Table, pa.Table], Counts]] = {
    "categories": lambda then, now: _kinds(then["category"].to_pylist(), now["category"].to_pylist()),
    "prices": lambda then, now: _numbers(_column(then, "price"), _column(now, "price")),
    "lengths": lambda then, now: _numbers(_column(then, "length"), _column(now, "length")),
    EMBEDDINGS: _embeddings,
}
