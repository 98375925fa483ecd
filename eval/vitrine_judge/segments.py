"""Segments of queries: means with intervals, for any grouping."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitrine_judge.errors import JudgeError
from vitrine_judge.significance import bootstrap_interval

HEAD, TORSO, TAIL = "head", "torso", "tail"
# With fewer queries a bootstrap interval covers the true mean too rarely: with 20 in only 71 to 89 % of cases.
INTERVAL_QUERIES = 20


@dataclass(frozen=True)
class Segment:
    """A group of queries and the mean of a metric.

    Attributes:
        name: Of the group.
        queries: Number of queries.
        mean: Of the metric.
        low, high: Bootstrap interval of the mean; NaN for fewer than `INTERVAL_QUERIES` queries.
    """

    name: str
    queries: int
    mean: float
    low: float
    high: float


def segment_means(
    values: np.ndarray,
    labels: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Iterator[Segment]:
    """The mean of each group, the largest group first, then by name.

    Args:
        values: (Q,) float, a metric of each query.
        labels: (Q,) str, the group of each query.
        resamples, seed, confidence: As for `vitrine_judge.significance.bootstrap_interval`.

    Raises:
        JudgeError: another number of labels than queries.
    """
    if np.shape(labels) != np.shape(values):
        raise JudgeError(f"{np.size(labels)} segments for {len(values)} queries; give one per query")
    names, sizes = np.unique(labels, return_counts=True)
    for index in np.lexsort((names, -sizes)):
        part = values[labels == names[index]]
        ends = (float("nan"),) * 2
        if len(part) >= INTERVAL_QUERIES:
            ends = bootstrap_interval(part, resamples, seed, confidence)
        yield Segment(str(names[index]), len(part), float(part.mean()), *ends)


def traffic_thirds(counts: np.ndarray) -> np.ndarray:
    """Head, torso or tail: the most frequent queries make up the first third of traffic, the next ones the second.

    A query that spans two thirds belongs to the first of them; equally frequent queries belong to the same third.

    Args:
        counts: (Q,) how often each query was searched, ≥ 0.

    Returns:
        (Q,) str.

    Raises:
        JudgeError: a negative count, or none above 0.
    """
    frequencies = np.asarray(counts, np.float64)
    if not len(frequencies) or not (frequencies >= 0).all() or not frequencies.any():
        raise JudgeError("counts of queries must be 0 or more, and at least one above 0")
    _, level_index = np.unique(-frequencies, return_inverse=True)  # the most frequent first
    shares = np.bincount(level_index, frequencies) / frequencies.sum()
    starts = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
    thirds = np.minimum((3 * starts + 1e-9).astype(int), 2)
    return np.array([HEAD, TORSO, TAIL])[thirds[level_index]]
