"""Survey ratings: means by model, and their agreement with the offline metric."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import Scores
from vitrine_judge.segments import Segment, segment_means

SCALE = (1.0, 5.0)  # of a rating
CHUNK = 1 << 22  # pairs of queries compared at once


@dataclass(frozen=True)
class Rating:
    """The ratings of a model's results for some queries.

    Attributes:
        model: The rated model.
        answers: Number of ratings.
        segment: The queries and their mean rating; the value of a query is the mean of its ratings.
    """

    model: str
    answers: int
    segment: Segment


@dataclass(frozen=True)
class Agreement:
    """The rank correlation of a metric with ratings, over queries.

    Attributes:
        model: The rated model.
        metric: The compared metric.
        queries: Number of queries with both values.
        tau: Kendall's τ-b, in [−1, 1]; NaN if all ratings or all metric values are equal.
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
        models: (N,) str, the rated model.
        ratings: (N,) float, higher is better.

    Raises:
        JudgeError: columns of different lengths, or a rating that is not finite.
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
        """The queries with ratings of a model, ascending, and the mean and number of ratings of each."""
        mask = self.models == model
        queries, query_index, counts = np.unique(
            self.query_ids[mask], return_inverse=True, return_counts=True
        )
        return queries, np.bincount(query_index, self.ratings[mask], len(queries)) / counts, counts


def mean_ratings(survey: Answers, segments: Mapping[str, str]) -> Iterator[Rating]:
    """The mean rating of every model, over all its queries and then by segment.

    Args:
        survey: The ratings.
        segments: Query → segment; other queries are in the segment "none".
    """
    for model in np.unique(survey.models).tolist():
        queries, means, counts = survey.by_query(model)
        groups = [np.full(len(queries), "all")]
        if segments:
            groups.append(np.array([segments.get(query, "none") for query in queries.tolist()]))
        for labels in groups:
            for part in segment_means(means, labels, SCALE):
                yield Rating(model, int(counts[labels == part.name].sum()), part)


def measure_agreement(
    survey: Answers, scores: Scores, metric: str, confidence: float = 0.95
) -> Iterator[Agreement]:
    """The agreement of a metric with the ratings of every model, over the queries that have both.

    The interval is that of Fieller, Hartley & Pearson, "Tests for rank correlation coefficients", Biometrika 44, 1957:
    atanh τ has a variance of 0.437 / (Q − 4).
    """
    for model in np.unique(survey.models).tolist():
        queries, means, _ = survey.by_query(model)
        common, scored, rated = np.intersect1d(scores.query_ids, queries, return_indices=True)
        tau = kendall(scores.values[metric][scored], means[rated])
        low = high = float("nan")
        if len(common) > 4:
            half_width = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(0.437 / (len(common) - 4))
            centre = np.arctanh(np.clip(tau, -1 + 1e-12, 1 - 1e-12))
            low, high = float(np.tanh(centre - half_width)), float(np.tanh(centre + half_width))
        yield Agreement(model, metric, len(common), tau, low, high)


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's τ-b of two (Q,) float: concordant minus discordant pairs, over untied pairs.

    Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945. NaN if all values of a or of b are equal.
    """
    concordance = untied_a = untied_b = 0.0
    size = max(1, CHUNK // max(1, len(a)))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        signs_a, signs_b = np.sign(a[rows, None] - a), np.sign(b[rows, None] - b)
        concordance += float((signs_a * signs_b).sum())
        untied_a += float(np.abs(signs_a).sum())
        untied_b += float(np.abs(signs_b).sum())
    return concordance / float(np.sqrt(untied_a * untied_b)) if untied_a and untied_b else float("nan")
