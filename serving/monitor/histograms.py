"""Counts and histograms of fixed size: they can be added up, whatever the order and the files of the rows."""

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of intervals
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)

# Latency: bins that grow by 1 %, so a percentile is right within 1 %
MIN_LATENCY, GROWTH, LATENCY_BINS = 0.1, 1.01, 1700  # milliseconds; the last bin is above a million
# Scores: bins of 0.001; a cosine or the share of a hybrid is within -1 to 1
MIN_SCORE, SCORE_STEP, SCORE_BINS = -1.0, 0.001, 2002


class Estimate(NamedTuple):
    """A number with its interval, at `LEVEL`; NaN where it is unknown."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def estimate_share(count: int, total: int) -> Estimate:
    """A share and its Wilson interval (Brown, Cai and DasGupta, 2001); unknown of nothing."""
    if not total:
        return UNKNOWN
    share, weight = count / total, Z * Z / total
    centre = (share + weight / 2) / (1 + weight)
    half = Z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def estimate_ratio(count: int, total: int, reference: int, reference_total: int) -> Estimate:
    """The ratio of two shares of independent samples; the interval is that of its logarithm (Katz et al., 1978).

    Half a success and a failure more in each sample keep it finite.
    """
    if not (total and reference_total and reference):
        return UNKNOWN
    shares = [(n + 0.5) / (size + 1) for n, size in ((count, total), (reference, reference_total))]
    pairs = zip(shares, (total + 1, reference_total + 1), strict=True)
    error = math.sqrt(sum((1 - share) / (share * size) for share, size in pairs))
    ratio, value = shares[0] / shares[1], (count / total) / (reference / reference_total)
    low, high = ratio * math.exp(-Z * error), ratio * math.exp(Z * error)
    return Estimate(value, min(value, low), max(value, high))


def estimate_rate_ratio(count: int, duration: float, reference: int, reference_duration: float) -> Estimate:
    """The ratio of two rates, with a Poisson interval: what chance does if customers come independently."""
    if not (reference and duration and reference_duration):
        return UNKNOWN
    value = count / duration / (reference / reference_duration)
    error = math.sqrt(1 / (count + 0.5) + 1 / (reference + 0.5))
    ratio = (count + 0.5) / duration / ((reference + 0.5) / reference_duration)
    return Estimate(value, min(value, ratio * math.exp(-Z * error)), max(value, ratio * math.exp(Z * error)))


def latency_bins(milliseconds: np.ndarray) -> np.ndarray:
    """The bin of each latency: int64."""
    positive = np.maximum(milliseconds, MIN_LATENCY)
    return np.minimum((np.log(positive / MIN_LATENCY) / math.log(GROWTH)).astype(np.int64), LATENCY_BINS - 1)


def estimate_latency(counts: np.ndarray, share: float) -> Estimate:
    """A percentile in milliseconds; its interval is that of order statistics.

    Args:
        counts: int64 (LATENCY_BINS,).
        share: 0.95 for the 95th percentile.
    """
    total = int(counts.sum())
    if not total:
        return UNKNOWN
    half = Z * math.sqrt(total * share * (1 - share))
    cumulative = np.cumsum(counts)
    ranks = [min(max(total * share + shift, 1), total) for shift in (0, -half, half)]
    bins = np.searchsorted(cumulative, ranks)
    return Estimate(*(MIN_LATENCY * GROWTH ** (bins + 0.5)).tolist())


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bin of each score: int64."""
    return np.clip(np.floor((scores - MIN_SCORE) / SCORE_STEP + 1e-6), 0, SCORE_BINS - 1).astype(np.int64)


@dataclass
class Totals:
    """Sums of a group of searches.

    Attributes:
        searches: All.
        errors: With a status of 500 or more.
        answered: With status 200.
        empty: Answered, without a result.
        clicked: Answered, with a click on a result.
        latencies: int64 (LATENCY_BINS,) of those answered.
    """

    searches: int = 0
    errors: int = 0
    answered: int = 0
    empty: int = 0
    clicked: int = 0
    latencies: np.ndarray = field(default_factory=lambda: np.zeros(LATENCY_BINS, np.int64))

    @property
    def with_results(self) -> int:
        """Number of searches on whose results a customer could click."""
        return self.answered - self.empty

    def add(self, status: np.ndarray, results: np.ndarray, is_clicked: np.ndarray, bins: np.ndarray) -> None:
        """Add searches.

        Args:
            status: int (N,), of HTTP.
            results: int (N,), number of results.
            is_clicked: bool (N,).
            bins: int64 (N,), of `latency_bins`.
        """
        is_answered = status == 200
        self.searches += len(status)
        self.errors += int((status >= 500).sum())
        self.answered += int(is_answered.sum())
        self.empty += int((is_answered & (results == 0)).sum())
        self.clicked += int((is_answered & is_clicked).sum())
        self.latencies += np.bincount(bins[is_answered], minlength=LATENCY_BINS)
