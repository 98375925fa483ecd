"""Tests of a mean that bench/gate.py compares: each decides for many samples at once whether the mean is above 0.

All are one-sided. `gaffke` is the gate's; the others are the usual ones and the gate's of version 0.2.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from vitrine_judge.significance import mean_interval, p_above

RESAMPLES = 400
Interval = tuple[np.ndarray, np.ndarray]


def gaffke(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return np.array([p_above(sample, 0.0, -1.0) <= level for sample in samples])


def student(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return _t(samples) >= stats.t.ppf(1 - level, samples.shape[1] - 1)


def johnson(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Johnson, "Modified t tests and confidence intervals for asymmetrical populations", JASA 73, 1978."""
    n, mean, spread = samples.shape[1], samples.mean(1), samples.std(1, ddof=1)
    third = ((samples - mean[:, None]) ** 3).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shifted = mean + third / (6 * spread**2 * n) + third * mean**2 / (3 * spread**4)
        t = shifted * np.sqrt(n) / spread
    return np.nan_to_num(t) >= stats.t.ppf(1 - level, n - 1)


def chen(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Chen, "Testing the mean of skewed distributions", JASA 90, 1995."""
    t, n = _t(samples), samples.shape[1]
    a = np.nan_to_num(stats.skew(samples, axis=1)) / (6 * np.sqrt(n))
    return t + a * (1 + 2 * t**2) + 4 * a**2 * (t + 2 * t**3) >= stats.norm.ppf(1 - level)


def bootstrap_t(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 12.5."""
    n = samples.shape[1]
    rejected = []
    for sample, t in zip(samples, _t(samples), strict=True):
        drawn = (sample - sample.mean())[rng.integers(n, size=(RESAMPLES, n))]
        rejected.append(t > 0 and t >= np.quantile(_t(drawn), 1 - level))
    return np.array(rejected)


def sign_flips(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Studentised randomisation test: the sum of squares does not depend on the signs, so the mean decides."""
    signs = rng.choice(np.array([-1.0, 1.0]), (RESAMPLES, samples.shape[1]))
    means = samples.mean(1)
    reached = (samples @ signs.T / samples.shape[1] >= means[:, None] - 1e-12).sum(1)
    return (means > 0) & ((reached + 1) / (RESAMPLES + 1) <= level)


def empirical_likelihood(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Owen, "Empirical likelihood ratio confidence intervals for a single functional", Biometrika 75, 1988."""
    limit = stats.chi2.ppf(1 - 2 * level, 1)
    rejected = []
    for sample in samples:
        if sample.mean() <= 0 or not sample.any():
            rejected.append(False)
        elif sample.min() >= 0:
            rejected.append(True)
        else:
            rejected.append(2 * np.log1p(_likelihood_weight(sample) * sample).sum() >= limit)
    return np.array(rejected)


def version_02(samples: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """The gate of version 0.2: a BCa interval above 0, and a two-sided test with random signs."""
    low = np.array([bca_interval(sample, 1 - 2 * level, rng)[0] for sample in samples])
    return (low > 0) & sign_flips(samples, level, rng)


TESTS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "Gaffke": gaffke,
    "version 0.2": version_02,
    "Student's t": student,
    "Johnson": johnson,
    "Chen": chen,
    "bootstrap-t": bootstrap_t,
    "sign flips": sign_flips,
    "empirical likelihood": empirical_likelihood,
}


def bca_interval(sample: np.ndarray, confidence: float, rng: np.random.Generator) -> tuple[float, float]:
    """Efron, "Better bootstrap confidence intervals", JASA 82, 1987; a point where all values are equal."""
    deviation = sample - sample.mean()
    if not np.abs(deviation).max() > 1e-12:
        return float(sample.mean()), float(sample.mean())
    n = len(sample)
    means = deviation[rng.integers(n, size=(RESAMPLES, n))].mean(1)
    below = (np.count_nonzero(means < 0) + np.count_nonzero(means <= 0)) / 2
    bias = stats.norm.ppf((below + 0.5) / (RESAMPLES + 1))
    acceleration = np.sum(deviation**3) / (6 * np.sum(deviation**2) ** 1.5)
    z = bias + stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    tails = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = sample.mean() + np.quantile(means, tails)
    return float(low), float(high)


def gaffke_interval(sample: np.ndarray, confidence: float, rng: np.random.Generator) -> tuple[float, float]:
    return mean_interval(sample, (-1.0, 1.0), confidence)


def t_interval(sample: np.ndarray, confidence: float, rng: np.random.Generator) -> tuple[float, float]:
    n = len(sample)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * sample.std(ddof=1) / np.sqrt(n)
    return float(sample.mean() - half), float(sample.mean() + half)


INTERVALS = {"Gaffke": gaffke_interval, "BCa (version 0.2)": bca_interval, "Student's t": t_interval}


def _t(samples: np.ndarray) -> np.ndarray:
    """Student's t of each row; infinite where all values are equal and not 0."""
    mean, spread = samples.mean(1), samples.std(1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(
            mean * np.sqrt(samples.shape[1]) / spread, nan=0.0, posinf=np.inf, neginf=-np.inf
        )


def _likelihood_weight(sample: np.ndarray) -> float:
    """λ > 0 with Σ x / (1 + λx) = 0, by bisection below the pole of the smallest value."""
    low, high = 0.0, -1 / float(sample.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sum(sample / (1 + middle * sample)) > 0 else (low, middle)
    return low
