"""Compare a system with others on several metrics, with a correction for the number of comparisons."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitrine_judge.metrics import Scores
from vitrine_judge.significance import (
    Contest,
    PairedResult,
    detectable_difference,
    differences,
    holm,
    largest_change,
    paired_test,
)


@dataclass(frozen=True)
class MetricComparison:
    """Two systems on one metric.

    Attributes:
        metric: Its name.
        against: The name of the other system.
        ours, theirs: Means.
        difference: ours − theirs.
        won, drawn, lost: Numbers of queries.
        low, high: Interval of the difference.
        p_value: Of the paired test.
        p_holm: The same, corrected for all comparisons that are made at once.
        detectable: The true difference that these queries detect at 80 % power; None if they detect none.

    The last five are None for fewer queries than `deciding_queries`.
    """

    metric: str
    against: str
    ours: float
    theirs: float
    difference: float
    won: int
    drawn: int
    lost: int
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None


def deciding_queries(confidence: float) -> int:
    """The fewest queries that can show any difference: with n of them, no p-value is below 2^(1 − n).

    That is the p-value of `paired_test` where one system has the best possible score on every query and the other one
    the worst.
    """
    return math.ceil(math.log2(2 / (1 - confidence)) - 1e-9)


def compare_systems(
    scores: Scores, others: Mapping[str, Scores], metrics: Sequence[str], confidence: float = 0.95
) -> list[MetricComparison]:
    """Compare a system with each other system on each metric.

    Args:
        scores: Of the system.
        others: Name → scores of the same queries.
        metrics: Names.
        confidence: Of the intervals, in (0, 1).

    Raises:
        JudgeError: as for `vitrine_judge.significance.paired_test`.
    """
    rows = [
        _compare(metric, name, scores.values[metric], other.values[metric], confidence)
        for name, other in others.items()
        for metric in metrics
    ]
    corrected = holm(np.array([row.p_value for row in rows if row.p_value is not None]))
    # All comparisons are on the same queries: either each has a p-value, or none.
    return (
        [replace(row, p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)]
        if len(corrected)
        else rows
    )


def compare_with_others(
    systems: Mapping[str, Scores], subject: str, metric: str, clusters: np.ndarray | None = None
) -> dict[str, PairedResult]:
    """Compare the subject with every other system: system → paired test of the subject minus this system.

    Args:
        systems: Name → scores of the same Q queries.
        subject: A name of `systems`.
        metric: To compare.
        clusters: (Q,) str, equal for queries that hang together; None if all are independent.
    """
    values = systems[subject].values[metric]
    return {
        name: paired_test(values, scores.values[metric], clusters=clusters)
        for name, scores in systems.items()
        if name != subject
    }


def _compare(
    metric: str, against: str, ours: np.ndarray, theirs: np.ndarray, confidence: float
) -> MetricComparison:
    change = differences(ours, theirs)
    contest = Contest.from_differences(change)
    row = MetricComparison(
        metric,
        against,
        float(ours.mean()),
        float(theirs.mean()),
        float(change.mean()),
        contest.won,
        contest.drawn,
        contest.lost,
    )
    if len(change) < deciding_queries(confidence):
        return row
    test = paired_test(ours, theirs, confidence)
    reach = largest_change(ours, theirs)
    detectable = detectable_difference(change, (1 - confidence) / 2, lowest=-reach)
    return replace(
        row,
        low=test.low,
        high=test.high,
        p_value=test.p_value,
        detectable=detectable if detectable <= reach else None,
    )
