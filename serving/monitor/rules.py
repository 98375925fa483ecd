"""The rules of the section `monitor` of serving.yaml, and their verdicts on a period."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.monitor.aggregation import Aggregate
from serving.monitor.histograms import (
    UNKNOWN,
    Estimate,
    estimate_latency,
    estimate_rate_ratio,
    estimate_ratio,
    estimate_share,
)
from serving.monitor.query_drift import QueryDrift
from serving.params import MonitorParams
from validation.drift import SIGNIFICANCE_LEVEL

LOW_SHARE = 0.05  # of the reference period's searches: a lower best score is a low score

Outcome = Literal["passed", "failed", "undecided", "too few"]


@dataclass(frozen=True)
class Verdict:
    """A rule's verdict on a period.

    Attributes:
        rule: Name of the rule in serving.yaml.
        subject: What is measured.
        estimate: With its interval.
        limit: Of the rule.
        is_maximum: Whether the limit is the largest allowed value, or the smallest.
        searches: Number of searches behind the estimate; of two periods, the smaller one.
        needed: Fewer searches decide nothing.
        significant: Whether the change from the reference is; True for an estimate that is no drift.
    """

    rule: str
    subject: str
    estimate: Estimate
    limit: float
    is_maximum: bool
    searches: int
    needed: int
    significant: bool = True

    @property
    def outcome(self) -> Outcome:
        """Failed if the whole interval is beyond the limit; undecided if only the estimate is."""
        if self.searches < self.needed or math.isnan(self.estimate.value):
            return "too few"
        sign = 1 if self.is_maximum else -1
        is_beyond = [sign * end > sign * self.limit for end in self.estimate]
        if all(is_beyond) and self.significant:
            return "failed"
        return "undecided" if is_beyond[0] else "passed"


def judge_period(
    reference: Aggregate, current: Aggregate, drifts: Sequence[QueryDrift], params: MonitorParams
) -> list[Verdict]:
    """Apply the rules that have a limit; the first are the most severe."""
    return list(_rules(reference, current, drifts, params))


def _rules(
    reference: Aggregate, current: Aggregate, drifts: Sequence[QueryDrift], params: MonitorParams
) -> Iterator[Verdict]:
    before, now, needed = reference.totals, current.totals, params.min_searches

    def at_most(rule: str, subject: str, estimate: Estimate, searches: int) -> Iterator[Verdict]:
        if (limit := getattr(params, rule)) is not None:
            yield Verdict(rule, subject, estimate, limit, True, searches, needed)

    def at_least(rule: str, subject: str, estimate: Estimate, searches: int) -> Iterator[Verdict]:
        if (limit := getattr(params, rule)) is not None:
            yield Verdict(rule, subject, estimate, limit, False, searches, needed)

    volume = estimate_rate_ratio(now.searches, current.days, before.searches, reference.days)
    yield from at_least(
        "min_volume_ratio", "searches per day, relative to the reference", volume, before.searches
    )
    yield from at_most(
        "max_errors", "searches that fail", estimate_share(now.errors, now.searches), now.searches
    )
    latency = estimate_latency(now.latencies, 0.95)
    yield from at_most("max_latency_ms_p95", "latency, 95th percentile, ms", latency, now.answered)
    empty = estimate_share(now.empty, now.answered)
    yield from at_most("max_empty", "searches without a result", empty, now.answered)
    low, scored = measure_low_scores(reference, current, needed)
    yield from at_most("max_low_scores", "searches whose best score is low", low, scored)
    clicks = estimate_ratio(now.clicked, now.with_results, before.clicked, before.with_results)
    smaller = min(now.with_results, before.with_results)
    yield from at_least("min_ctr_ratio", "searches with a click, relative to the reference", clicks, smaller)
    if params.max_drift is not None:
        for item in drifts:
            yield Verdict(
                "max_drift",
                f"drift of {item.drift.name}",
                item.index,
                params.max_drift,
                True,
                item.searches,
                needed,
                item.drift.p < SIGNIFICANCE_LEVEL,
            )


def measure_low_scores(reference: Aggregate, current: Aggregate, needed: int) -> tuple[Estimate, int]:
    """The share of searches whose best score is low, and their number.

    Low is below what `LOW_SHARE` of the reference period's searches had, with the same model version: scores of two
    models have nothing in common. Versions with fewer than `needed` searches in the reference period do not count.
    """
    low = total = 0
    for version, counts in current.top_scores.items():
        earlier = reference.top_scores.get(version)
        if earlier is None or earlier.sum() < needed:
            continue
        threshold = int(np.searchsorted(np.cumsum(earlier), LOW_SHARE * earlier.sum()))
        low += int(counts[:threshold].sum())
        total += int(counts.sum())
    return (estimate_share(low, total), total) if total else (UNKNOWN, 0)
