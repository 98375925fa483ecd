"""Significance of a difference between two systems: paired over queries, seeded, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from vitrine_judge.errors import JudgeError

CHUNK = 1 << 22  # random numbers drawn at once: tens of MB, however many queries and resamples


@dataclass(frozen=True)
class PairedResult:
    """The mean of a − b over queries, its p-value and its interval.

    Attributes:
        difference: mean(a) − mean(b).
        p_value: Two-sided, of a randomisation test; never 0.
        low, high: Bootstrap interval of the difference.
        confidence: Of the interval.
    """

    difference: float
    p_value: float
    low: float
    high: float
    confidence: float


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(Q,) ours − theirs of each query, rounded: the last digits of a score depend on the machine."""
    return np.round(ours - theirs, 12)


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


def paired_test(
    a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> PairedResult:
    """Compare the scores of two systems on the same queries.

    Args:
        a, b: (Q,) float, in the same order of queries.
        resamples: Of the test and of the interval.
        seed: The same seed gives the same result.
        confidence: Of the interval, in (0, 1).

    Raises:
        JudgeError: different shapes, fewer than two queries, NaN or infinity, or a parameter out of range.
    """
    if np.shape(a) != np.shape(b):
        raise JudgeError(f"scores of shape {np.shape(a)} and {np.shape(b)}; both need one score per query")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = bootstrap_interval(difference, resamples, seed, confidence)
    return PairedResult(
        float(difference.mean()), sign_flip(difference, resamples, seed), low, high, confidence
    )


def sign_flip(difference: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference: the share of random signs with a mean at least as far from 0.

    If the systems were equal, both signs of each query's difference would be equally likely (Fisher, "The design of
    experiments", 1935). The observed signs count as one resample, so p ≥ 1 / (resamples + 1) and the test keeps its
    level (Phipson & Smyth, "Permutation p-values should never be zero", 2010).

    Args:
        difference: (Q,) float, a − b of each query.
    """
    _check(difference, resamples)
    # The signs of eight queries are one byte: random bytes look up the sum in a table of all 256 sums.
    eights = np.zeros((-(-len(difference) // 8), 8))
    eights.flat[: len(difference)] = difference
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    sums = eights @ signs.T
    group = np.arange(len(sums))

    # The tolerance: sums that are equal but added in another order differ in the last digits.
    threshold = abs(float(difference.sum())) - 1e-12 * float(np.abs(difference).sum())
    rng = np.random.default_rng([seed, 0])
    count = 0
    for size in _chunk_sizes(resamples, len(sums)):
        patterns = rng.integers(256, size=(size, len(sums)), dtype=np.uint8)
        count += int(np.count_nonzero(np.abs(sums[group, patterns].sum(axis=1)) >= threshold))
    return (count + 1) / (resamples + 1)


def bootstrap_interval(
    difference: np.ndarray, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided interval of a mean: bootstrap over queries, bias-corrected and accelerated (BCa).

    Efron, "Better bootstrap confidence intervals", JASA 82, 1987. Equal differences give an interval of
    width 0.

    Args:
        difference: (Q,) float, a − b of each query.
    """
    _check(difference, resamples)
    if not 0 < confidence < 1:
        raise JudgeError(f"confidence is {confidence}; it must lie between 0 and 1")
    deviation = difference - difference.mean()
    spread = float(np.sqrt(np.sum(deviation**2)))
    if spread <= 1e-12 * float(np.abs(difference).sum()):
        return float(difference.mean()), float(difference.mean())

    rng = np.random.default_rng([seed, 1])
    means = np.concatenate(
        [
            deviation[rng.integers(len(deviation), size=(size, len(deviation)), dtype=np.int32)].mean(axis=1)
            for size in _chunk_sizes(resamples, len(deviation))
        ]
    )
    normal = NormalDist()
    below = (np.count_nonzero(means < 0) + np.count_nonzero(means <= 0)) / 2
    bias = normal.inv_cdf((below + 0.5) / (resamples + 1))
    acceleration = float(np.sum((deviation / spread) ** 3)) / 6

    def correct(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1 - acceleration * z))

    tails = [correct((1 - confidence) / 2), correct((1 + confidence) / 2)]
    low, high = difference.mean() + np.quantile(means, tails)
    return float(low), float(high)


def t_test(difference: np.ndarray) -> float:
    """Two-sided p-value of a mean difference by Student's t: close to `sign_flip` with many queries, without sampling.

    The distribution is the finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4.

    Args:
        difference: (Q,) float, a − b of each query.
    """
    _check(difference, 1)
    freedom = len(difference) - 1
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    if error <= 1e-12 * float(np.abs(difference).mean()):
        return 0.0 if difference.any() else 1.0
    angle = np.arctan2(abs(float(difference.mean())), error * np.sqrt(freedom))
    odd, cosine = freedom % 2, np.cos(angle)
    step = np.arange(1, max(1, (freedom - odd) // 2))
    factors = cosine**2 * (2 * step - 1 + odd) / (2 * step + odd)
    series = cosine**odd * np.cumprod(np.concatenate([[1.0], factors])).sum() if freedom > 1 else 0.0
    central = np.sin(angle) * series
    if odd:
        central = 2 / np.pi * (angle + central)
    return float(np.clip(1 - central, 0, 1))


def detectable_difference(difference: np.ndarray, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest true mean difference that is significant on these queries with probability `power`.

    (z₁₋α⁄₂ + z_power) · s / √Q, the normal approximation (Cohen, "Statistical power analysis", 1988), where s is the
    standard deviation of the differences.

    Args:
        difference: (Q,) float, a − b of each query.
        power: In (0, 1).
        confidence: In (0, 1); 1 − α of a two-sided test.

    Raises:
        JudgeError: as for `paired_test`.
    """
    _check(difference, 1)
    for name, share in (("power", power), ("confidence", confidence)):
        if not 0 < share < 1:
            raise JudgeError(f"{name} is {share}; it must lie between 0 and 1")
    normal = NormalDist()
    quantiles = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return quantiles * float(difference.std(ddof=1)) / float(np.sqrt(len(difference)))


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


def _check(difference: np.ndarray, resamples: int) -> None:
    if difference.ndim != 1 or len(difference) < 2:
        raise JudgeError(f"differences of shape {difference.shape}; a comparison needs two queries or more")
    if not np.isfinite(difference).all():
        raise JudgeError(
            f"the difference at index {int(np.argmin(np.isfinite(difference)))} is not a finite number"
        )
    if resamples < 1:
        raise JudgeError(f"resamples is {resamples}; at least 1 is needed")


def _chunk_sizes(resamples: int, width: int) -> Iterator[int]:
    """Sizes that add up to `resamples`; a size times `width` is at most `CHUNK` where possible."""
    size = max(1, CHUNK // width)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
