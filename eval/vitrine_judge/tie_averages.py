"""Metrics with ties: their mean over all orders of products with equal scores, in closed form.

McSherry & Najork, "Computing information retrieval performance measures efficiently in the presence of tied scores",
ECIR 2008. A product in a group of n equal scores takes each of its n positions with probability 1 / n.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import (
    JudgedResults,
    MetricFunction,
    divide,
    ideal_dcg,
    split_metric,
    with_number,
)
from vitrine_judge.rankings import Run


@dataclass(frozen=True, eq=False)
class TiedResults(JudgedResults):
    """Judged results without an order of equal scores: `rank` is the first position of the group of a product.

    Attributes:
        tie_size: (F,) int64, the number of results in the group, judged or not.
    """

    RESULT_COLUMNS: ClassVar[tuple[str, ...]] = (*JudgedResults.RESULT_COLUMNS, "tie_size")

    tie_size: np.ndarray

    @classmethod
    def from_results(cls, results: JudgedResults, run: Run, rows: np.ndarray) -> Self:
        """The same results; `rows` are the (Q,) indices of their queries in `run.queries`."""
        is_first = np.append(True, run.values[1:] != run.values[:-1])
        is_first[run.offsets[:-1]] = True
        starts = np.flatnonzero(is_first)
        query_starts = run.offsets[rows][results.query_index]
        pair = query_starts + results.rank.astype(np.int64) - 1
        group = np.searchsorted(starts, pair, side="right") - 1
        sizes = np.diff(starts, append=len(is_first))
        columns = vars(results) | {"rank": (starts[group] - query_starts + 1).astype(np.float64)}
        return cls(**columns, tie_size=sizes[group])

    def mean_weight(
        self, weight: Callable[[np.ndarray], np.ndarray], k: int | np.ndarray | None
    ) -> np.ndarray:
        """(F,) mean weight of the positions that each product can take.

        Args:
            weight: (n,) positions from 1 → (n,) their weights.
            k: Positions after it have weight 0; also one (F,) for each product.
        """
        first = self.rank.astype(np.int64) - 1
        last = (
            first + self.tie_size if k is None else np.clip(first + self.tie_size, None, np.maximum(k, first))
        )
        sums = _cumulative_sum(weight(np.arange(1.0, last.max(initial=0) + 1)))
        is_single = self.tie_size == 1  # without rounding error
        return np.where(
            is_single & (last > first), weight(self.rank), (sums[last] - sums[first]) / self.tie_size
        )

    def share_within(self, k: int | np.ndarray | None) -> np.ndarray:
        """(F,) probability that each product is among the first k."""
        return self.mean_weight(np.ones_like, k)

    def groups(self) -> "_TieGroups":
        """The groups with judged products, by query and position."""
        order = np.lexsort((self.rank, self.query_index))
        query, rank = self.query_index[order], self.rank[order].astype(np.int64)
        starts = np.flatnonzero(
            np.append(True, (query[1:] != query[:-1]) | (rank[1:] != rank[:-1]))[: len(order)]
        )
        is_relevant = self.is_relevant[order].astype(np.int64)
        relevant, judged = (
            np.add.reduceat(column, starts) if len(starts) else starts
            for column in (is_relevant, np.ones_like(is_relevant))
        )
        return _TieGroups(
            query[starts], rank[starts], self.tie_size[order][starts], relevant, judged - relevant
        )


@dataclass(frozen=True, eq=False)
class _TieGroups:
    """G groups of equal scores with judged products, sorted by query and position.

    Attributes:
        query: (G,) the query of each group.
        first: (G,) int64, its first position.
        size: (G,) int64, the number of results in it.
        relevant, irrelevant: (G,) int64, how many of them were judged as such.
    """

    query: np.ndarray
    first: np.ndarray
    size: np.ndarray
    relevant: np.ndarray
    irrelevant: np.ndarray

    def counts_before(self, counts: np.ndarray) -> np.ndarray:
        """(G,) the sum of (G,) counts over the earlier groups of the same query."""
        sums = _cumulative_sum(counts)
        return sums[:-1] - sums[np.searchsorted(self.query, self.query)]


AVERAGES: dict[str, MetricFunction] = {}


def average_of(name: str) -> Callable[[MetricFunction], MetricFunction]:
    """Register the mean over orders of a metric: a function as in `vitrine_judge.metrics.Metric`, of `TiedResults`."""

    def register(function: MetricFunction) -> MetricFunction:
        AVERAGES[name] = function
        return function

    return register


def parse_average(name: str) -> tuple[MetricFunction, int | None]:
    """As `vitrine_judge.metrics.parse_metric`, for the mean over orders.

    Raises:
        JudgeError: an unknown metric, or one whose mean over orders has no closed form here.
    """
    base, cutoff, number = split_metric(name)
    if base not in AVERAGES:
        raise JudgeError(
            f"'{name}' has no closed form of its mean over the orders of ties; these have: {', '.join(AVERAGES)}. "
            "Leave it out, or order ties by id"
        )
    return with_number(AVERAGES[base], number), cutoff


@average_of("ndcg")
def ndcg(results: TiedResults, k: int | None) -> np.ndarray:
    """Each gain has the mean discount of its positions."""
    return _normalise_dcg(results, k, results.gain, results.ideal_gain)


@average_of("ndcg:exp")
def ndcg_exponential(results: TiedResults, k: int | None) -> np.ndarray:
    """As `ndcg`."""
    return _normalise_dcg(results, k, *results.exponential_gains())


@average_of("recall")
def recall(results: TiedResults, k: int | None) -> np.ndarray:
    """The expected number of relevant products within k, over all of them."""
    return divide(_expected_hits(results, k), results.relevant_counts)


@average_of("hit")
def hit(results: TiedResults, k: int | None) -> np.ndarray:
    """The probability that any relevant product is within k."""
    query, _, probability = _first_relevant_positions(results, k)
    return np.bincount(query, probability, len(results.result_counts)).clip(max=1.0)


@average_of("precision")
def precision(results: TiedResults, k: int | None) -> np.ndarray:
    """The expected number of relevant products within k, over the number of positions."""
    positions = results.result_counts if k is None else np.full(len(results.result_counts), k)
    return divide(_expected_hits(results, k), positions)


@average_of("mrr")
def mrr(results: TiedResults, k: int | None) -> np.ndarray:
    """1 / position, weighted with the probability that it holds the first relevant product."""
    query, position, probability = _first_relevant_positions(results, k)
    return np.bincount(query, probability / position, len(results.result_counts))


@average_of("map")
def average_precision(results: TiedResults, k: int | None) -> np.ndarray:
    """Σ (m / n) · (1 + c + i · (m − 1) / (n − 1)) / position over the positions of each group within k.

    The group has n results, m of them relevant, c relevant ones before it; i counts its positions from 0. A position
    holds a relevant product with probability m / n, and each earlier one of the group then with (m − 1) / (n − 1).
    """
    groups = results.groups()
    start = groups.first - 1
    end = start + groups.size if k is None else np.clip(start + groups.size, None, k)
    sums = _cumulative_sum(1 / np.arange(1.0, end.max(initial=0) + 1))
    reciprocals, positions = sums[end] - sums[start], end - start
    density = divide(groups.relevant - 1.0, groups.size - 1.0)
    before = groups.counts_before(groups.relevant)
    precisions = (1 + before) * reciprocals + density * (positions - groups.first * reciprocals)
    expected = groups.relevant / groups.size * precisions
    return divide(np.bincount(groups.query, expected, len(results.result_counts)), results.relevant_counts)


@average_of("r-precision")
def r_precision(results: TiedResults, k: None) -> np.ndarray:
    """The expected number of relevant products among the first R, over R."""
    within = results.share_within(results.relevant_counts[results.query_index])
    return divide(results.sum_by_query(results.is_relevant * within), results.relevant_counts)


@average_of("bpref")
def bpref(results: TiedResults, k: None) -> np.ndarray:
    """Of w irrelevant products in a group, 0, 1, … or w are above a relevant one of it: all equally probable."""
    groups = results.groups()
    relevant_counts = results.relevant_counts[groups.query]
    highest = np.minimum((results.judged_counts - results.relevant_counts)[groups.query], relevant_counts)
    above = groups.counts_before(groups.irrelevant)
    below_limit = (relevant_counts - above).clip(
        0, groups.irrelevant + 1
    )  # how many of the numbers are below R
    expected = below_limit * above + below_limit * (below_limit - 1) / 2
    expected = expected + (groups.irrelevant + 1 - below_limit) * relevant_counts
    preferences = groups.relevant * (1 - divide(expected / (groups.irrelevant + 1), highest))
    total = np.bincount(groups.query, preferences, len(results.result_counts))
    return divide(total, results.relevant_counts)


@average_of("rbp")
def rank_biased_precision(results: TiedResults, k: int | None, persistence: float = 0.8) -> np.ndarray:
    """Each relevant product has the mean weight of its positions."""
    weights = results.mean_weight(lambda positions: persistence ** (positions - 1), k)
    return (1 - persistence) * results.sum_by_query(results.is_relevant * weights)


@average_of("judged")
def judged(results: TiedResults, k: int | None) -> np.ndarray:
    """The expected number of judged products within k, over the number of results there."""
    return divide(results.sum_by_query(results.share_within(k)), results.result_counts)


def _normalise_dcg(
    results: TiedResults, k: int | None, gain: np.ndarray, ideal_gain: np.ndarray
) -> np.ndarray:
    discounts = results.mean_weight(lambda positions: 1 / np.log2(positions + 1), k)
    return divide(results.sum_by_query(gain * discounts), ideal_dcg(results, ideal_gain))


def _expected_hits(results: TiedResults, k: int | None) -> np.ndarray:
    return results.sum_by_query(results.is_relevant * results.share_within(k))


def _first_relevant_positions(
    results: TiedResults, k: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the first relevant product of each query can be within k: (P,) query, position and probability.

    In a group of n results, m of them relevant, it is the i-th (from 0) with probability C(n − i − 1, m − 1) / C(n, m).
    """
    groups = results.groups()
    with_relevant = np.flatnonzero(groups.relevant)
    queries, index = np.unique(groups.query[with_relevant], return_index=True)
    chosen = with_relevant[index]
    size, relevant, first = groups.size[chosen], groups.relevant[chosen], groups.first[chosen]
    counts = size - relevant + 1 if k is None else np.clip(size - relevant + 1, None, k - first + 1)
    row = np.repeat(np.arange(len(chosen)), counts)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    log_factorial = _cumulative_sum(np.log(np.arange(1.0, size.max(initial=0) + 1)))
    n, m = size[row], relevant[row]
    later = n - offset - 1
    log_probability = (log_factorial[later] - log_factorial[m - 1] - log_factorial[later - m + 1]) - (
        log_factorial[n] - log_factorial[m] - log_factorial[n - m]
    )
    return queries[row], first[row] + offset, np.exp(log_probability)


def _cumulative_sum(values: np.ndarray) -> np.ndarray:
    """(n + 1,) the sum of the first 0, 1, …, n values."""
    return np.concatenate([[0], np.cumsum(values)])
