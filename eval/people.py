"""What people said: ratings by model, and whether the offline metric ranks queries as they do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from eval.metrics import Scores
from eval.rankings import JudgeError
from eval.segments import Segment, segments

CHUNK = 1 << 22  # pairs of queries compared at once


@dataclass(frozen=True)
class Rating:
    """How people rated a model's answers to some queries.

    Attributes:
        model: Who answered.
        answers: How many ratings there are.
        segment: Of which queries, and their mean, each with the mean of its ratings.
    """

    model: str
    answers: int
    segment: Segment


@dataclass(frozen=True)
class Agreement:
    """Whether queries that the metric holds high are those that people rate high.

    Attributes:
        model: Whose answers were rated.
        metric: Whose values are compared.
        queries: That have both.
        tau: Kendall's τ-b, in [−1, 1]; NaN where either is the same for all.
        low, high: Its interval; NaN for fewer than five queries.
    """

    model: str
    metric: str
    queries: int
    tau: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Answers:
    """A survey: N ratings.

    Attributes:
        query_ids: (N,) str.
        models: (N,) str, whose results were rated.
        ratings: (N,) float, higher is better.

    Raises:
        JudgeError: columns of other lengths, or a rating that is not finite.
    """

    query_ids: np.ndarray
    models: np.ndarray
    ratings: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.query_ids) == len(self.models) == len(self.ratings):
            raise JudgeError("a survey needs one query, one model and one rating per answer")
        if not np.isfinite(self.ratings).all():
            raise JudgeError(
                f"the rating of answer {int(np.argmin(np.isfinite(self.ratings)))} is not a number"
            )

    def by_query(self, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The queries of a model, ascending, the mean of each one's ratings, and how many it has."""
        own = self.models == model
        queries, query, counts = np.unique(self.query_ids[own], return_inverse=True, return_counts=True)
        return queries, np.bincount(query, self.ratings[own], len(queries)) / counts, counts


def ratings(survey: Answers, named: Mapping[str, str]) -> Iterator[Rating]:
    """Of every model, over all its queries and then by segment.

    Args:
        survey: What people said.
        named: Query → segment; those that are not in it have none.
    """
    for model in np.unique(survey.models).tolist():
        queries, means, counts = survey.by_query(model)
        groups = [np.full(len(queries), "all")]
        if named:
            groups.append(np.array([named.get(query, "none") for query in queries.tolist()]))
        for labels in groups:
            for part in segments(means, labels):
                yield Rating(model, int(counts[labels == part.name].sum()), part)


def agreement(survey: Answers, scores: Scores, metric: str, confidence: float = 0.95) -> Iterator[Agreement]:
    """Of a metric with the ratings of every model, over the queries that have both.

    The interval is that of Fieller, Hartley & Pearson, "Tests for rank correlation coefficients", Biometrika 44, 1957:
    atanh τ has a variance of 0.437 / (Q − 4).
    """
    for model in np.unique(survey.models).tolist():
        queries, means, _ = survey.by_query(model)
        both, ours, theirs = np.intersect1d(scores.query_ids, queries, return_indices=True)
        tau = kendall(scores.values[metric][ours], means[theirs])
        low = high = float("nan")
        if len(both) > 4:
            reach = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(0.437 / (len(both) - 4))
            middle = np.arctanh(np.clip(tau, -1 + 1e-12, 1 - 1e-12))
            low, high = float(np.tanh(middle - reach)), float(np.tanh(middle + reach))
        yield Agreement(model, metric, len(both), tau, low, high)


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's τ-b of two (Q,) float: pairs in the same order minus pairs in the other, over those not tied.

    Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945. NaN where all of either are equal.
    """
    together = untied_a = untied_b = 0.0
    size = max(1, CHUNK // max(1, len(a)))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        one, other = np.sign(a[rows, None] - a), np.sign(b[rows, None] - b)
        together += float((one * other).sum())
        untied_a += float(np.abs(one).sum())
        untied_b += float(np.abs(other).sum())
    return together / float(np.sqrt(untied_a * untied_b)) if untied_a and untied_b else float("nan")
