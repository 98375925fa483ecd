"""Data drift between the champion's data set and a new one."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import store
from catalog.schema import TEXT_COLUMNS, product_text

BINS = 10  # of numbers, with equally many of the champion's products in each
MAX_CATEGORIES = 50  # the most frequent ones; the others share one bin
SIGNIFICANCE_LEVEL = 0.01  # a drift with a larger p value may be chance
CLASSIFIER_FOLDS = 5
NONE, OTHERS = "none", "others"
EMBEDDINGS = "embeddings"


class Histogram(NamedTuple):
    """Products by bin in two data sets.

    Attributes:
        bins: Names of the bins.
        reference, current: Number of products in each bin: int64 (bins,).
    """

    bins: list[str]
    reference: np.ndarray
    current: np.ndarray


@dataclass(frozen=True)
class Drift:
    """How one property of products has changed.

    Attributes:
        name: The property.
        bins: Names.
        reference, current: Shares of products in each bin, float64 (bins,): the champion's data and the new data.
        index: The population stability index: Σ (current − reference) · ln(current / reference), with half a product
            added to each bin. Below 0.1 little has changed, above 0.25 much (Siddiqi, "Credit Risk Scorecards", 2006).
        p: p value of a χ² test that both come from one distribution.
    """

    name: str
    bins: list[str]
    reference: np.ndarray
    current: np.ndarray
    index: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether the change is statistically significant."""
        return self.p < SIGNIFICANCE_LEVEL


def profile_products(data: Path, products: int) -> pa.Table:
    """Draw a sample of the products, with the properties that are compared.

    Whether a product is drawn depends on its id only. So two versions of a catalogue are compared on the same products,
    as far as both contain them.

    Args:
        data: The data set.
        products: At most this many.

    Returns:
        Columns product_id, category, price and length (int32, characters of all its texts).
    """
    ids = store.read_table(data, "products", ["product_id"])["product_id"].to_pylist()
    sample = pa.array(nsmallest(products, ids, _hash_id), pa.string())
    batches = store.read_batches(data, "products", ["product_id", *TEXT_COLUMNS, "price"])
    drawn = (batch.filter(pc.is_in(batch["product_id"], sample)) for batch in batches)
    profiles = [
        batch.select(["product_id", "category", "price"]).append_column(
            "length", pa.array([len(product_text(row)) for row in batch.to_pylist()], pa.int32())
        )
        for batch in drawn
    ]
    return pa.Table.from_batches(profiles)


def add_vectors(profile: pa.Table, vectors: pa.Table) -> pa.Table:
    """Add the model's vectors of the products to a profile.

    Args:
        profile: Result of `profile_products`.
        vectors: Columns product_id and vector, of all of its products or more.
    """
    rows = pc.index_in(profile["product_id"], vectors["product_id"].combine_chunks())
    return profile.append_column("vector", vectors["vector"].take(rows))


def measure_drift(reference: pa.Table, current: pa.Table) -> list[Drift]:
    """Measure the drift of categories, prices, lengths of texts, and embeddings.

    Args:
        reference, current: Results of `add_vectors`, by the same model; neither is empty.
    """
    return [compare_counts(name, count(reference, current)) for name, count in PROPERTIES.items()]


def compare_counts(name: str, histogram: Histogram) -> Drift:
    """Measure the drift between two data sets whose rows are counted by bin."""
    from scipy.stats import chi2_contingency

    nonempty = histogram.reference + histogram.current > 0
    bins = [name for name, used in zip(histogram.bins, nonempty, strict=True) if used]
    reference, current = histogram.reference[nonempty], histogram.current[nonempty]
    p = chi2_contingency(np.stack([reference, current])).pvalue if len(bins) > 1 else 1.0
    before, after = ((counts + 0.5) / (counts + 0.5).sum() for counts in (reference, current))
    index = float(np.sum((after - before) * np.log(after / before)))
    return Drift(name, bins, reference / reference.sum(), current / current.sum(), index, float(p))


def count_categories(reference: Sequence[str | None], current: Sequence[str | None]) -> Histogram:
    """Count categories, the most frequent of either data set first; at most `MAX_CATEGORIES`."""
    counters = [Counter(value or NONE for value in values) for values in (reference, current)]
    before, after = counters
    share = {key: before[key] / len(reference) + after[key] / len(current) for key in before | after}
    bins = sorted(share, key=lambda category: (-share[category], category))[:MAX_CATEGORIES]
    counts = [np.array([counter[category] for category in bins] + [0]) for counter in counters]
    for counter, row in zip(counters, counts, strict=True):
        row[-1] = counter.total() - row.sum()
    return Histogram([*bins, OTHERS], *counts)


def count_by_decile(reference: np.ndarray, current: np.ndarray) -> Histogram:
    """Count numbers, float64, between the deciles of `reference`; NaN has a bin of its own."""
    known = reference[~np.isnan(reference)]
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner)) if known.size else np.empty(0)
    counts = [
        np.bincount(
            np.where(np.isnan(values), len(edges) + 1, np.digitize(values, edges)), minlength=len(edges) + 2
        )
        for values in (reference, current)
    ]
    ends = [f"{edge:.4g}" for edge in edges]
    names = [f"{low} to {high}" for low, high in pairwise(ends)]
    names = [f"below {ends[0]}", *names, f"{ends[-1]} or more"] if ends else ["all"]
    return Histogram([*names, NONE], *counts)


def count_classifier_scores(reference: pa.Table, current: pa.Table, key: str = "product_id") -> Histogram:
    """Count the scores of a linear classifier that predicts from its embedding which data set a product is from.

    After Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (2017): if no classifier can separate the two,
    there is no drift. Scores are of held-out rows. A product of both data sets is never in the training set of one and
    in the test set of the other.

    Args:
        reference, current: Columns vector and `key`.
        key: Identifies products; rows with the same value are held out together.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors = np.concatenate([_vectors(table["vector"]) for table in (reference, current)])
    is_current = np.arange(len(vectors)) >= len(reference)
    ids = pa.chunked_array([*reference[key].chunks, *current[key].chunks], pa.string())
    groups = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    if min(len(reference), len(current)) < 2 * CLASSIFIER_FOLDS:  # too few to train on
        return Histogram(["all"], np.array([len(reference)]), np.array([len(current)]))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    scores = cross_val_predict(
        classifier,
        vectors,
        is_current,
        groups=groups,
        cv=GroupKFold(CLASSIFIER_FOLDS),
        method="decision_function",
    )
    return count_by_decile(scores[~is_current], scores[is_current])


def _vectors(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    return array.flatten().to_numpy().reshape(len(array), -1)


def _hash_id(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest()


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN for null."""
    return table[name].cast(pa.float64()).to_numpy()


PROPERTIES: dict[str, Callable[[pa.Table, pa.Table], Histogram]] = {
    "categories": lambda reference, current: count_categories(
        reference["category"].to_pylist(), current["category"].to_pylist()
    ),
    "prices": lambda reference, current: count_by_decile(
        _numbers(reference, "price"), _numbers(current, "price")
    ),
    "lengths": lambda reference, current: count_by_decile(
        _numbers(reference, "length"), _numbers(current, "length")
    ),
    EMBEDDINGS: count_classifier_scores,
}
