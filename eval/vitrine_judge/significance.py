"""Significance of a mean and of a difference between two systems: one test, valid for any shape of scores.

The test is Gaffke's (see `p_above`). It assumes only that scores are bounded, so a few large losses that the sample
happens not to hold cannot pass as no losses. It is exact arithmetic: no resamples, no seed, and p-values as small as
the data support. Queries that hang together are one observation: see `clusters`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from vitrine_judge.errors import JudgeError

STEP = 0.05  # between nodes of the integral; half the step changes no p-value by more than 1e-7 of it
LAST_NODE = 9.0
BLOCK = 1 << 20  # complex numbers at once: 16 MB
MIN_QUERIES = 2
NEGLIGIBLE = 1e-15  # beside 1: rounding errors


@dataclass(frozen=True)
class PairedResult:
    """The mean of a − b over queries, its p-value and its interval.

    Attributes:
        difference: mean(a) − mean(b).
        p_value: Two-sided, of `p_above` in both directions.
        low, high: The differences that the test does not reject at `confidence`.
        confidence: Of the interval.
        effective: The effective number of queries: `effective_queries`.
    """

    difference: float
    p_value: float
    low: float
    high: float
    confidence: float
    effective: float


@dataclass(frozen=True)
class Contest:
    """The numbers of queries on which one system is better, both are equal, or the other one is better."""

    won: int
    drawn: int
    lost: int

    @classmethod
    def from_differences(cls, difference: np.ndarray) -> Self:
        """From what `differences` returns."""
        return cls(*(int(mask.sum()) for mask in (difference > 0, difference == 0, difference < 0)))


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(Q,) ours − theirs of each query, rounded: the last digits of a score depend on the machine."""
    return np.round(ours - theirs, 12)


def largest_change(*scores: np.ndarray) -> float:
    """The largest possible change of a query's score: 1 for metrics in [0, 1], else the largest score seen."""
    return max(1.0, *(float(np.abs(values).max()) for values in scores if len(values)))


def paired_test(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, clusters: np.ndarray | None = None
) -> PairedResult:
    """Compare the scores of two systems on the same queries.

    Args:
        a, b: (Q,) float, in the same order of queries.
        confidence: Of the interval, in (0, 1).
        clusters: (Q,) labels of queries that hang together; None if all are independent.

    Raises:
        JudgeError: different shapes, fewer than two queries, NaN or infinity, or a confidence out of range.
    """
    if np.shape(a) != np.shape(b):
        raise JudgeError(f"scores of shape {np.shape(a)} and {np.shape(b)}; both need one score per query")
    values = differences(np.asarray(a, np.float64), np.asarray(b, np.float64))
    _check(values)
    reach = largest_change(a, b)
    low, high = mean_interval(values, (-reach, reach), confidence, clusters)
    better, worse = p_above(values, 0.0, -reach, clusters), p_above(-values, 0.0, -reach, clusters)
    p_value = min(1.0, 2 * min(better, worse))
    effective = effective_queries(values, clusters)
    return PairedResult(float(values.mean()), p_value, low, high, confidence, effective)


def p_above(values: np.ndarray, limit: float, lowest: float, clusters: np.ndarray | None = None) -> float:
    """P-value of the hypothesis that the true mean is at most `limit`: small if the mean is significantly above.

    Add one imaginary query with the lowest possible value, give all queries random weights, uniform over all weights
    that add up to 1 (Dirichlet(1, …, 1)), and take the probability of a weighted mean of at most `limit`. Gaffke,
    "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable", Math.
    Methods of Statistics 14(4), 2005; Learned-Miller & Thomas, "A new confidence interval for the mean of a bounded
    random variable", arXiv:1905.06208. For values that are only `lowest` or one other, it is the exact binomial test
    of Clopper & Pearson. That the level holds for all bounded distributions is proven in special cases and conjectured
    in general; `bench/gate.py` measures it.

    Clusters are drawn as a whole: a weight per cluster, and an imaginary cluster in which all queries have the lowest
    value. It is as large as the cluster of the average query.

    Args:
        values: (Q,) float.
        limit: Of the mean.
        lowest: The lowest value that a query can have, below `limit`.
        clusters: (Q,) labels of queries that hang together; None if all are independent.
    """
    return _p_above(_cluster_sums(values, clusters), limit, lowest)


def lower_bound(values: np.ndarray, level: float, lowest: float, clusters: np.ndarray | None = None) -> float:
    """The mean that `p_above` just does not exceed at a level: the true mean is below it with probability ≤ level.

    Args:
        values, lowest, clusters: As for `p_above`.
        level: In (0, 1).
    """
    _check(values)
    if not 0 < level < 1:
        raise JudgeError(f"the level is {level}; it must lie between 0 and 1")
    if float(values.min()) <= lowest and float(values.max()) <= lowest:
        return float(lowest)
    sums = _cluster_sums(values, clusters)
    quantile = NormalDist().inv_cdf(level)

    def excess(limit: float) -> float:
        p_value = _p_above(sums, limit, lowest)
        return (NormalDist().inv_cdf(p_value) if 0 < p_value < 1 else np.inf * (p_value - 0.5)) - quantile

    return _solve(excess, lowest, float(values.max()), _first_guess(sums, quantile, lowest))


def mean_interval(
    values: np.ndarray,
    support: tuple[float, float] = (-1.0, 1.0),
    confidence: float = 0.95,
    clusters: np.ndarray | None = None,
) -> tuple[float, float]:
    """Two-sided interval of a mean: the means that `p_above` rejects in neither direction.

    It covers the true mean with probability ≥ confidence for any shape and any number of queries.

    Args:
        values: (Q,) float.
        support: The lowest and the highest value that a query can have.
        confidence: In (0, 1).
        clusters: As for `p_above`.

    Raises:
        JudgeError: fewer than two queries, NaN or infinity, a value outside of the support, or a confidence out of
            range.
    """
    _check(values)
    if not 0 < confidence < 1:
        raise JudgeError(f"confidence is {confidence}; it must lie between 0 and 1")
    lowest, highest = support
    if values.min() < lowest - 1e-9 or values.max() > highest + 1e-9:  # rounding errors are none
        raise JudgeError(
            f"values from {values.min():g} to {values.max():g} are outside of {lowest:g} to {highest:g}"
        )
    level = (1 - confidence) / 2
    low = lower_bound(values, level, lowest, clusters)
    return low, -lower_bound(-values, level, -highest, clusters) + 0.0  # no −0.0


def effective_queries(values: np.ndarray, clusters: np.ndarray | None = None) -> float:
    """The number of independent queries whose mean would be as precise: Q over the design effect.

    The design effect is the variance of the mean with clusters over the variance without (Kish, "Survey sampling",
    1965); below 1 it counts as 1. Without any variance it is that of clusters whose queries are all alike.

    Args:
        values: (Q,) float.
        clusters: As for `p_above`.
    """
    if clusters is None:
        return float(len(values))
    sums, sizes = _cluster_sums(values, clusters)
    alike = len(values) ** 2 / float(np.sum(sizes**2))
    independent = float(values.var(ddof=1)) / len(values)
    deviation = sums - sizes * values.mean()
    clustered = float(np.sum(deviation**2)) * len(sums) / max(1, len(sums) - 1) / len(values) ** 2
    if len(sums) < MIN_QUERIES or independent <= 1e-24 or clustered <= 0:
        return alike
    return len(values) / max(1.0, clustered / independent)


def count_clusters(values: np.ndarray, clusters: np.ndarray | None = None) -> int:
    """The number of clusters; without clusters, of queries."""
    return len(values) if clusters is None else len(np.unique(clusters))


def detectable_difference(
    values: np.ndarray,
    level: float = 0.025,
    power: float = 0.8,
    lowest: float = -1.0,
    clusters: np.ndarray | None = None,
) -> float:
    """The smallest true mean that `p_above` shows to be above 0 on these queries with probability `power`.

    (z₁₋level + z_power) · √(s² / n + c²) + c: the normal approximation (Cohen, "Statistical power analysis", 1988) with
    the imaginary query, where s is the standard deviation, n the effective number of queries and c = −lowest / (n + 1)
    the weight of the imaginary query.

    Args:
        values: (Q,) float.
        level: One-sided, in (0, 1).
        power: In (0, 1).
        lowest, clusters: As for `p_above`.

    Raises:
        JudgeError: as for `paired_test`.
    """
    _check(values)
    for name, share in (("power", power), ("level", level)):
        if not 0 < share < 1:
            raise JudgeError(f"{name} is {share}; it must lie between 0 and 1")
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - level) + normal.inv_cdf(power)
    queries = effective_queries(values, clusters)
    imaginary = -lowest / (queries + 1)
    return quantiles * float(np.sqrt(values.var(ddof=1) / queries + imaginary**2)) + imaginary


def fewest_queries(margin: float, level: float) -> int:
    """The fewest independent queries that can show a drop of less than `margin` where nothing drops at all.

    As many queries n miss a total loss on a share `margin` of all queries with probability (1 − margin)ⁿ, which must be
    at most the level.

    Args:
        margin: In (0, 1).
        level: One-sided, in (0, 1).
    """
    return int(np.ceil(np.log(level) / np.log1p(-margin)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust m p-values to control the family-wise error rate: P(any false alarm) ≤ α.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        p_values: (m,) float in [0, 1].

    Returns:
        (m,) float64, in the same order; each at least its p-value, at most 1.
    """
    p, order = _sorted(p_values)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return adjusted


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Adjust m p-values to control the false discovery rate: the expected share of false alarms is at most α.

    Benjamini & Hochberg, "Controlling the false discovery rate", JRSS B 57(1), 1995.

    Args:
        p_values: (m,) float in [0, 1].

    Returns:
        (m,) float64, in the same order; each at least its p-value, at most that of `holm`.
    """
    p, order = _sorted(p_values)
    adjusted = np.empty_like(p)
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return adjusted


def _sorted(p_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The p-values, checked, and their ascending order."""
    p = np.asarray(p_values, np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise JudgeError("p-values must lie between 0 and 1")
    return p, np.argsort(p)


def _check(values: np.ndarray) -> None:
    if values.ndim != 1 or len(values) < MIN_QUERIES:
        raise JudgeError(f"values of shape {values.shape}; a test needs two queries or more")
    if not np.isfinite(values).all():
        raise JudgeError(f"the value at index {int(np.argmin(np.isfinite(values)))} is not a finite number")


def _cluster_sums(values: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(C,) sums of values and (C,) numbers of queries, by cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    if np.shape(clusters) != np.shape(values):
        raise JudgeError(f"{np.size(clusters)} clusters for {len(values)} queries; give one per query")
    _, index = np.unique(clusters, return_inverse=True)
    return np.bincount(index, values), np.bincount(index).astype(np.float64)


def _p_above(cluster_sums: tuple[np.ndarray, np.ndarray], limit: float, lowest: float) -> float:
    sums, sizes = cluster_sums
    imaginary_size = float(np.sum(sizes**2) / np.sum(sizes))
    excess, counts = np.unique(
        np.append(sums - sizes * limit, imaginary_size * (lowest - limit)), return_counts=True
    )
    # Dirichlet weights are exponential ones divided by their sum, which does not change a sign.
    if excess @ counts > 0:
        return _p_negative(excess, counts)
    return 1 - _p_negative(-excess[::-1], counts[::-1])


def _p_negative(values: np.ndarray, counts: np.ndarray) -> float:
    """P(Σ Eᵢ·valueᵢ ≤ 0) for independent Eᵢ ~ Exp(1), each value as often as `counts` says; accurate if it is small.

    It is the integral −1/(2πi) ∫ M(s)/s ds over a vertical line in the left half plane, where the moment-generating
    function is M(s) = Π (1 − s·valueᵢ)^−countᵢ. The line goes through the saddle point, where the integrand is largest
    and does not oscillate; with s = saddle + i·scale·sinh(u) the trapezoidal rule converges exponentially.
    """
    largest = float(np.abs(values).max())
    if values[0] >= -NEGLIGIBLE * largest:
        return 0.0
    values = values / largest
    saddle, scale = _find_saddle(values, counts)
    rows = max(1, BLOCK // len(values))
    total, start = 0.0, 0
    nodes = np.arange(0.0, LAST_NODE, STEP)
    while start < len(nodes):
        part = nodes[start : start + min(rows, 8)]
        points = saddle + 1j * scale * np.sinh(part)
        log_density = -(np.log1p(-points[:, None] * values) @ counts) - np.log(-points)
        terms = np.exp(log_density).real * np.cosh(part)
        total += float(terms.sum()) - (terms[0] / 2 if start == 0 else 0.0)
        if np.abs(terms).max() <= 1e-13 * abs(total):
            break
        start += len(part)
    return float(min(1.0, max(0.0, total * scale * STEP / np.pi)))


def _find_saddle(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The minimum of log M(s) − log(−s) between its pole and 0, by safe Newton steps; and the width of the peak."""
    low, high = 1 / values[0], 0.0
    saddle = low / 2
    for _ in range(100):
        slopes = values / (1 - saddle * values)
        slope = float(counts @ slopes) - 1 / saddle
        curvature = float(counts @ slopes**2) + 1 / saddle**2
        low, high = (low, saddle) if slope > 0 else (saddle, high)
        step = saddle - slope / curvature
        following = step if low < step < high else (low + high) / 2
        if abs(following - saddle) <= 1e-10 * abs(saddle):
            break
        saddle = following
    return saddle, 1 / float(np.sqrt(curvature))


def _first_guess(cluster_sums: tuple[np.ndarray, np.ndarray], quantile: float, lowest: float) -> float:
    """The lower bound by the normal approximation, with the imaginary cluster."""
    sums, sizes = cluster_sums
    queries, imaginary = float(sizes.sum()), float(np.sum(sizes**2) / sizes.sum())
    mean = float(sums.sum() + imaginary * lowest) / (queries + imaginary)
    squares = float(np.sum((sums - sizes * mean) ** 2)) + (imaginary * (lowest - mean)) ** 2
    return mean + quantile * float(np.sqrt(squares)) / (queries + imaginary)


def _solve(increasing: Callable[[float], float], low: float, high: float, guess: float) -> float:
    """The zero of an increasing function between low and high: secant steps, halving where they leave the bracket."""
    previous: tuple[float, float] | None = None
    point = guess if low < guess < high else (low + high) / 2
    tolerance = 1e-10 * (high - low)
    for _ in range(200):
        value = increasing(point)
        low, high = (point, high) if value <= 0 else (low, point)
        step = np.nan
        if previous and np.isfinite(value) and np.isfinite(previous[1]) and value != previous[1]:
            step = point - value * (point - previous[0]) / (value - previous[1])
        elif previous is None and np.isfinite(value):
            step = point - np.sign(value) * max(1e-4 * (high - low), 10 * tolerance)
        previous = (point, value)
        following = step if low < step < high else (low + high) / 2
        if abs(following - point) <= tolerance or high - low <= tolerance:
            break
        point = following
    return float(following)
