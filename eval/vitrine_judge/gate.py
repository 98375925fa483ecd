"""The promotion gate: pure functions of scores, facts and rules."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import Scores, is_metric
from vitrine_judge.segments import Segment
from vitrine_judge.significance import (
    bootstrap_interval,
    detectable_difference,
    differences,
    holm,
    paired_test,
    sign_flip,
)

Verdict = Literal["passed", "failed", "undecided"]
POWER = 0.8  # statistical power of the detectable difference that an undecided finding states


@dataclass(frozen=True)
class Rules:
    """The requirements for a candidate.

    Attributes:
        primary: The metric that must improve.
        min_gain: The gain over the champion must exceed this, absolute.
        confidence: Of all intervals and segment tests.
        margins: Other metric → it must drop by less than this against the champion, absolute, above 0.
        floors: Metric or fact → lowest allowed mean or value.
        budgets: Fact → highest allowed value.
        min_rating: Lowest allowed mean rating, if a survey rated the candidate; None for no such rule.
        min_segment: Smaller segments are not tested.
        resamples, seed: Of the tests and intervals.
    """

    primary: str
    min_gain: float
    confidence: float
    margins: Mapping[str, float]
    floors: Mapping[str, float]
    budgets: Mapping[str, float]
    min_rating: float | None
    min_segment: int
    resamples: int = 10_000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements of one system.

    Attributes:
        scores: Of Q queries.
        segments: (Q,) str, the segment of each query.
        facts: Other measured values by name.
        rating: The mean rating of a survey over all queries; None without a survey.
    """

    scores: Scores
    segments: np.ndarray
    facts: Mapping[str, float]
    rating: Segment | None = None


@dataclass(frozen=True)
class Finding:
    """The verdict of one rule, as text and in numbers.

    Attributes:
        rule: Name of the rule.
        verdict: Passed, failed or undecided.
        text: A full sentence.
        value: The measured value.
        low, high: Its interval, where it is an estimate.
        limit: What the rule compares with.
        headline: The text without details, for sentences about several findings.
    """

    rule: str
    verdict: Verdict
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    headline: str = ""


@dataclass(frozen=True)
class Decision:
    """The findings of all rules."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed if any rule failed, else undecided if any is undecided, else passed."""
        verdicts = {finding.verdict for finding in self.findings}
        return "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"

    @property
    def passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return self.verdict == "passed"

    @property
    def reasons(self) -> list[str]:
        """The texts of failed, then undecided findings; of passed ones if all passed."""
        order = ("failed", "undecided") if not self.passed else ("passed",)
        return [finding.text for verdict in order for finding in self.findings if finding.verdict == verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"verdict": self.verdict, "findings": [asdict(finding) for finding in self.findings]}


def decide(candidate: Evidence, champion: Evidence | None, rules: Rules) -> Decision:
    """Judge a candidate by its own numbers and, if there is a champion, against it.

    The candidate passes if all of these hold:

    - every metric and fact in `rules.floors` is known and at least its floor;
    - every fact in `rules.budgets` is known and at most its budget;
    - its rating, if a survey has one, is at least `min_rating`;
    - its gain on the primary metric significantly exceeds `min_gain`: the two-sided interval lies above it, and a
      randomisation test agrees, since the interval is too narrow where few queries differ. A tie never passes;
    - every metric in `rules.margins` drops by significantly less than its margin, by the same tests;
    - no segment of `min_segment` or more queries is significantly worse on the primary metric, by randomisation tests
      corrected for the number of segments (Holm).

    A gain or margin is undecided if neither side is significant: more queries are needed, and the finding says how
    many.

    Raises:
        JudgeError: a metric that was not scored, segments that do not match the queries, or a champion that was
            scored on other queries.
    """
    findings = [
        *_check_floors(candidate, rules),
        *_check_budgets(candidate, rules),
        *_check_rating(candidate, rules),
    ]
    if champion is None:
        headline = "There is no champion yet"
        text = f"{headline}: no comparison is needed."
        findings.append(Finding("champion", "passed", text, headline=headline))
    else:
        if not np.array_equal(candidate.scores.query_ids, champion.scores.query_ids):
            raise JudgeError(
                "candidate and champion were scored on different queries; score both on the same ones"
            )
        gains = differences(_values(candidate, rules.primary), _values(champion, rules.primary))
        findings += [_check_gain(gains, rules), *_check_margins(candidate, champion, rules)]
        findings += _check_segments(gains, candidate.segments, rules)
    return Decision(tuple(findings))


def _check_floors(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    for name, limit in sorted(rules.floors.items()):
        value = float(_values(candidate, name).mean()) if is_metric(name) else candidate.facts.get(name)
        yield _check_bound("floor", name, value, limit, "too low", "at least {:.4g} is required")


def _check_budgets(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    for name, limit in sorted(rules.budgets.items()):
        value = candidate.facts.get(name)
        yield _check_bound("budget", name, value, limit, "too high", "at most {:.4g} is allowed")


def _check_bound(
    kind: str, name: str, value: float | None, limit: float, problem: str, requirement: str
) -> Finding:
    required = requirement.format(limit)
    if value is None or math.isnan(value):
        headline = f"{name} was not measured"
        return Finding(f"{kind} {name}", "failed", f"{headline}; {required}.", limit=limit, headline=headline)
    passed = value >= limit if kind == "floor" else value <= limit
    headline = f"{name} is {value:.4g}" + ("" if passed else f", {problem}")
    text = f"{name} is {value:.4g}; {'' if passed else f'{problem}: '}{required}."
    verdict: Verdict = "passed" if passed else "failed"
    return Finding(f"{kind} {name}", verdict, text, value=value, limit=limit, headline=headline)


def _check_rating(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    limit, rating = rules.min_rating, candidate.rating
    if limit is None:
        return
    if rating is None:
        headline = "No survey rated the candidate"
        yield Finding("rating", "passed", f"{headline}: no rating is required.", headline=headline)
        return
    passed = rating.mean >= limit
    headline = f"People rated the candidate {rating.mean:.2f}"
    low, high = (None if math.isnan(end) else end for end in (rating.low, rating.high))
    interval = "" if low is None else f"{rating.low:.2f} to {rating.high:.2f}, "
    text = (
        f"{headline} ({interval}{rating.queries:,} queries); {'' if passed else 'too low: '}at least {limit:.4g} is "
        "required."
    )
    headline += "" if passed else ", too low"
    yield Finding(
        "rating", "passed" if passed else "failed", text, rating.mean, low, high, limit, headline=headline
    )


@dataclass(frozen=True)
class _Change:
    """The mean of a difference, its interval, and whether it lies above a limit.

    Attributes:
        value: The mean.
        low, high: Its interval.
        verdict: Passed above the limit, failed at or below it, undecided if neither is significant.
        hint: How many queries would decide; empty if they are enough.
    """

    value: float
    low: float
    high: float
    verdict: Verdict
    hint: str

    def describe(self, queries: int, rules: Rules) -> str:
        """The mean, its interval and the number of queries."""
        return (
            f"{self.value:+.4f} ({100 * rules.confidence:g} % interval {self.low:+.4f} to {self.high:+.4f}, "
            f"{queries:,} queries)"
        )


def _measure_change(difference: np.ndarray, limit: float, rules: Rules) -> _Change:
    excess = difference - limit
    test = paired_test(excess, np.zeros_like(excess), rules.resamples, rules.seed, rules.confidence)
    # round away the rounding error of adding the limit; + 0.0 turns −0.0 into 0.0
    value, low, high = (round(limit + x, 12) + 0.0 for x in (test.difference, test.low, test.high))
    if test.low > 0 and test.p_value <= 1 - rules.confidence:
        return _Change(value, low, high, "passed", "")
    if test.high <= 0:
        return _Change(value, low, high, "failed", "")
    return _Change(value, low, high, "undecided", _power_hint(excess, test.difference, rules.confidence))


def _power_hint(excess: np.ndarray, distance: float, confidence: float) -> str:
    """The difference that these queries detect, and how many queries detect the measured distance to the limit."""
    detected = detectable_difference(excess, POWER, confidence)
    hint = f" {len(excess):,} queries detect {detected:.4f} at {100 * POWER:g} % power"
    if distance > 0:
        needed = float(f"{len(excess) * (detected / distance) ** 2:.2g}")
        hint += f"; a distance of {distance:.4f} to the limit needs about {needed:,.0f}"
    return f"{hint}."


def _check_gain(difference: np.ndarray, rules: Rules) -> Finding:
    change = _measure_change(difference, rules.min_gain, rules)
    if change.low > 0 and (change.verdict == "passed" or rules.min_gain > 0):
        comparison = "significantly better than"
    elif change.high < 0:
        comparison = "significantly worse than"
    else:
        comparison = "not significantly different from"
    amount = f" by more than {rules.min_gain:.4f}" if rules.min_gain else ""
    headline = {
        "passed": f"{rules.primary} improved{amount}",
        "failed": f"{rules.primary} did not improve{amount}",
        "undecided": f"{rules.primary} may or may not have improved{amount}",
    }[change.verdict]
    text = f"{headline}: {change.describe(len(difference), rules)}, {comparison} the champion.{change.hint}"
    return Finding(
        f"gain {rules.primary}",
        change.verdict,
        text,
        change.value,
        change.low,
        change.high,
        rules.min_gain,
        headline,
    )


def _check_margins(candidate: Evidence, champion: Evidence, rules: Rules) -> Iterator[Finding]:
    for metric, margin in sorted(rules.margins.items()):
        difference = differences(_values(candidate, metric), _values(champion, metric))
        change = _measure_change(difference, -margin, rules)
        headline = {
            "passed": f"{metric} did not drop by {margin:.4f} or more",
            "failed": f"{metric} dropped by {margin:.4f} or more",
            "undecided": f"{metric} may have dropped by {margin:.4f} or more",
        }[change.verdict]
        text = f"{headline}: {change.describe(len(difference), rules)} against the champion.{change.hint}"
        yield Finding(
            f"margin {metric}",
            change.verdict,
            text,
            change.value,
            change.low,
            change.high,
            -margin,
            headline,
        )


def _check_segments(difference: np.ndarray, segments: np.ndarray, rules: Rules) -> Iterator[Finding]:
    if np.shape(segments) != difference.shape:
        raise JudgeError(f"{np.size(segments)} segments for {len(difference)} queries; give one per query")
    names, segment_index, sizes = np.unique(segments, return_inverse=True, return_counts=True)
    min_size = max(rules.min_segment, 2)
    is_tested = sizes >= min_size
    parts = [difference[segment_index == index] for index in np.flatnonzero(is_tested)]
    p_values = holm(np.array([sign_flip(part, rules.resamples, rules.seed) for part in parts]))
    for name, part, p_value in zip(names[is_tested].tolist(), parts, p_values.tolist(), strict=True):
        yield _check_segment(name, part, p_value, len(parts), rules)
    if not is_tested.all():
        small = zip(names[~is_tested].tolist(), sizes[~is_tested].tolist(), strict=True)
        listed = ", ".join(f"'{name}' ({size})" for name, size in small)
        headline = f"Segments with fewer than {min_size} queries are not tested"
        yield Finding("segments not tested", "passed", f"{headline}: {listed}.", headline=headline)


def _check_segment(name: str, difference: np.ndarray, p_value: float, segments: int, rules: Rules) -> Finding:
    value = float(difference.mean())
    passed = value >= 0 or p_value > 1 - rules.confidence
    low, high = bootstrap_interval(difference, rules.resamples, rules.seed, rules.confidence)
    headline = f"Segment '{name}' is {'not ' if passed else ''}significantly worse"
    text = (
        f"{headline}: {rules.primary} changed by {value:+.4f} over {len(difference):,} queries (p = {p_value:.2g}, "
        f"corrected for {segments} segments)."
    )
    verdict: Verdict = "passed" if passed else "failed"
    return Finding(f"segment {name}", verdict, text, value, low, high, 0.0, headline)


def _values(evidence: Evidence, metric: str) -> np.ndarray:
    try:
        return evidence.scores.values[metric]
    except KeyError:
        known = ", ".join(evidence.scores.values)
        raise JudgeError(f"{metric} was not scored, but a rule needs it; scored are {known}") from None
