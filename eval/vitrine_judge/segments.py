"""Segments of queries: means with intervals, for any grouping."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitrine_judge.errors import JudgeError
from vitrine_judge.significance import mean_interval

HEAD, TORSO, TAIL = "head", "torso", "tail"
INTERVAL_QUERIES = 5  # with fewer, the interval is correct, but spans most of what is possible
SEPARATOR = "/"  # between the levels of a segment's name, as in a category path
SMALL = "small segments"  # the group of those that no level above makes large enough


@dataclass(frozen=True)
class Segment:
    """A group of queries and the mean of a metric.

    Attributes:
        name: Of the group.
        queries: Number of queries.
        mean: Of the metric.
        low, high: 95 % interval of the mean; NaN for fewer than `INTERVAL_QUERIES` queries.
    """

    name: str
    queries: int
    mean: float
    low: float
    high: float


def segment_means(
    values: np.ndarray,
    labels: np.ndarray,
    support: tuple[float, float] = (0.0, 1.0),
    clusters: np.ndarray | None = None,
) -> Iterator[Segment]:
    """The mean of each group, the largest group first, then by name.

    Args:
        values: (Q,) float, a metric of each query.
        labels: (Q,) str, the group of each query.
        support: The lowest and the highest value that a query can have.
        clusters: (Q,) labels of queries that hang together; None if all are independent.

    Raises:
        JudgeError: another number of labels than queries.
    """
    if np.shape(labels) != np.shape(values):
        raise JudgeError(f"{np.size(labels)} segments for {len(values)} queries; give one per query")
    names, sizes = np.unique(labels, return_counts=True)
    for index in np.lexsort((names, -sizes)):
        members = labels == names[index]
        part = values[members]
        ends = (float("nan"),) * 2
        if len(part) >= INTERVAL_QUERIES:
            ends = mean_interval(part, support, clusters=None if clusters is None else clusters[members])
        yield Segment(str(names[index]), len(part), float(part.mean()), *ends)


def pool_segments(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Merge segments with fewer than `smallest` queries into larger ones, so that each query stays in one.

    A small segment joins the small ones below the same path: "shoes/boots/red" joins "shoes/boots/other", and if these
    are too few, "shoes/other". What has no level above joins `SMALL`, which can be of any size.

    Args:
        labels: (Q,) str, the segment of each query.
        smallest: Number of queries.

    Returns:
        (Q,) str.
    """
    names, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    groups = {str(name): int(size) for name, size in zip(names, sizes, strict=True)}
    parents = {name: name for name in groups}
    pending = {name: name for name, size in groups.items() if size < smallest}  # segment → its path so far
    while pending:
        paths = {name: path.rpartition(SEPARATOR)[0] for name, path in pending.items()}
        for name, path in paths.items():
            parents[name] = f"{path}{SEPARATOR}other" if path else SMALL
        merged = Counter[str]()
        for name in paths:
            merged[parents[name]] += groups[name]
        pending = {name: path for name, path in paths.items() if path and merged[parents[name]] < smallest}
    return np.array([parents[str(name)] for name in names])[index]


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
