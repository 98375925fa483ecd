"""Is a difference between two systems more than noise? Paired over queries, seeded, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from eval.rankings import JudgeError

CHUNK = 1 << 22  # random numbers drawn at once: tens of MB, however many queries and resamples


@dataclass(frozen=True)
class PairedResult:
    """Mean of a − b over queries, how surprising it would be between equals, and where the true one lies.

    Attributes:
        difference: mean(a) − mean(b).
        p_value: two-sided, of a randomisation test; never 0.
        low, high: bootstrap interval of the difference.
        confidence: of the interval.
    """

    difference: float
    p_value: float
    low: float
    high: float
    confidence: float


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(Q,) ours − theirs of each query; the last digits of a score depend on the machine, and make no difference."""
    return np.round(ours - theirs, 12)


@dataclass(frozen=True)
class Contest:
    """Queries of which one system is better, neither is, or the other one is."""

    won: int
    drawn: int
    lost: int

    @classmethod
    def of(cls, difference: np.ndarray) -> Self:
        """From what `differences` returns."""
        return cls(*(int(found.sum()) for found in (difference > 0, difference == 0, difference < 0)))


def paired_test(
    a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> PairedResult:
    """Compare two systems' scores of the same queries.

    Args:
        a, b: (Q,) float, in the same order of queries.
        resamples: Of the test and of the interval.
        seed: Same seed, same answer.
        confidence: Of the interval, in (0, 1).

    Raises:
        JudgeError: other shapes, fewer than two queries, NaN or infinity, or a parameter out of range.
    """
    if np.shape(a) != np.shape(b):
        raise JudgeError(
            f"scores of shape {np.shape(a)} against {np.shape(b)}; a pair needs one of each per query"
        )
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = bootstrap_interval(difference, resamples, seed, confidence)
    return PairedResult(
        float(difference.mean()), sign_flip(difference, resamples, seed), low, high, confidence
    )


def sign_flip(difference: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference: how often random signs give one at least as far from 0.

    Were the systems equal, each query's difference would as likely have the other sign (Fisher, "The design
    of experiments", 1935). The observed signs count as one resample, so p ≥ 1 / (resamples + 1) and the test
    keeps its level (Phipson & Smyth, "Permutation p-values should never be zero", 2010).

    Args:
        difference: (Q,) float, a − b of each query.
    """
    _check(difference, resamples)
    # Eight queries at a time, their signs one byte: a table of the 256 sums, looked up by random bytes.
    eights = np.zeros((-(-len(difference) // 8), 8))
    eights.flat[: len(difference)] = difference
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    sums = eights @ signs.T
    group = np.arange(len(sums))

    # Equal sums added up in another order differ in the last digits; they are still equal.
    reached = abs(float(difference.sum())) - 1e-12 * float(np.abs(difference).sum())
    rng = np.random.default_rng([seed, 0])
    count = 0
    for n in _chunks(resamples, len(sums)):
        patterns = rng.integers(256, size=(n, len(sums)), dtype=np.uint8)
        count += int(np.count_nonzero(np.abs(sums[group, patterns].sum(axis=1)) >= reached))
    return (count + 1) / (resamples + 1)


def bootstrap_interval(
    difference: np.ndarray, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided interval of a mean: bootstrap over queries, bias-corrected and accelerated (BCa).

    Efron, "Better bootstrap confidence intervals", JASA 82, 1987. Differences that are all equal give an
    interval of no width.

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
            deviation[rng.integers(len(deviation), size=(n, len(deviation)), dtype=np.int32)].mean(axis=1)
            for n in _chunks(resamples, len(deviation))
        ]
    )
    normal = NormalDist()
    below = (np.count_nonzero(means < 0) + np.count_nonzero(means <= 0)) / 2
    bias = normal.inv_cdf((below + 0.5) / (resamples + 1))
    acceleration = float(np.sum((deviation / spread) ** 3)) / 6

    def corrected(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1 - acceleration * z))

    tails = [corrected((1 - confidence) / 2), corrected((1 + confidence) / 2)]
    low, high = difference.mean() + np.quantile(means, tails)
    return float(low), float(high)


def t_test(difference: np.ndarray) -> float:
    """Two-sided p-value of a mean difference by Student's t: close to `sign_flip` with many queries, and no sampling.

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
    inside = np.sin(angle) * series
    if odd:
        inside = 2 / np.pi * (angle + inside)
    return float(np.clip(1 - inside, 0, 1))


def detectable(difference: np.ndarray, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest true mean difference that these queries would show significant, with the chance `power`.

    (z₁₋α⁄₂ + z_power) · s / √Q, the normal approximation (Cohen, "Statistical power analysis", 1988), where s is the
    standard deviation of the differences seen.

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
    """Adjust m p-values so that, compared with α, the chance of any false alarm among them is at most α.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        p_values: (m,) float in [0, 1].

    Returns:
        (m,) float64, in the order given; each at least its p-value, at most 1.
    """
    p, order = _sorted(p_values)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return adjusted


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Adjust m p-values so that, of those at most α, the share of false alarms is expected to be at most α.

    Benjamini & Hochberg, "Controlling the false discovery rate", JRSS B 57(1), 1995.

    Args:
        p_values: (m,) float in [0, 1].

    Returns:
        (m,) float64, in the order given; each at least its p-value, at most that of `holm`.
    """
    p, order = _sorted(p_values)
    adjusted = np.empty_like(p)
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return adjusted


def _sorted(p_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checked p-values and their ascending order."""
    p = np.asarray(p_values, np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise JudgeError("p-values must lie between 0 and 1")
    return p, np.argsort(p)


def _check(difference: np.ndarray, resamples: int) -> None:
    if difference.ndim != 1 or len(difference) < 2:
        raise JudgeError(
            f"differences of shape {difference.shape}; two queries or more are needed to compare"
        )
    if not np.isfinite(difference).all():
        raise JudgeError(
            f"the difference at index {int(np.argmin(np.isfinite(difference)))} is not a finite number"
        )
    if resamples < 1:
        raise JudgeError(f"resamples is {resamples}; at least 1 is needed")


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Sizes that add up to `resamples`, each times `width` within `CHUNK` where it can be."""
    size = max(1, CHUNK // width)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
