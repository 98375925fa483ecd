"""May this model be promoted? Pure functions of scores, facts and rules."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from eval.metrics import Scores, is_metric
from eval.rankings import JudgeError
from eval.segments import Segment
from eval.significance import bootstrap_interval, detectable, differences, holm, paired_test, sign_flip

Verdict = Literal["passed", "failed", "undecided"]
POWER = 0.8  # with which a verdict that noise prevented says what would have been seen


@dataclass(frozen=True)
class Rules:
    """What a candidate must meet.

    Attributes:
        primary: The metric on which it must win.
        min_gain: Gain on it over the champion, absolute, that must be exceeded.
        confidence: Of every interval, and of the finding that a segment got worse.
        margins: Other metric → how much of it may be lost against the champion, absolute, above 0.
        floors: Metric or fact → lowest mean, or value, allowed.
        budgets: Fact → highest value allowed.
        min_rating: Lowest mean rating allowed, where a survey rated the candidate; None asks for nothing.
        min_segment: Queries that a segment needs before it is tested.
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
    """What is known of one system.

    Attributes:
        scores: Of Q queries.
        segments: (Q,) str, of those queries.
        facts: What was measured, by name.
        rating: What a survey said of it, over all queries; None where it was not asked.
    """

    scores: Scores
    segments: np.ndarray
    facts: Mapping[str, float]
    rating: Segment | None = None


@dataclass(frozen=True)
class Finding:
    """One rule's verdict, in a person's words and in numbers; an estimated `value` lies in [`low`, `high`].

    `headline` is the text without its details: what a sentence of several findings says of each.
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
    """What every rule found."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed where any rule is, else undecided where any is: only what passed may be promoted."""
        found = {finding.verdict for finding in self.findings}
        return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"

    @property
    def passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return self.verdict == "passed"

    @property
    def reasons(self) -> list[str]:
        """Why: what failed and what could not be decided or, where nothing did, what passed."""
        order = ("failed", "undecided") if not self.passed else ("passed",)
        return [finding.text for verdict in order for finding in self.findings if finding.verdict == verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"verdict": self.verdict, "findings": [asdict(finding) for finding in self.findings]}


def decide(candidate: Evidence, champion: Evidence | None, rules: Rules) -> Decision:
    """Judge a candidate by its own numbers and, where there is one, against the champion.

    The candidate passes if all of these hold:

    - the mean of every metric in `rules.floors` is at least its floor; every fact there is known and likewise;
    - every fact in `rules.budgets` is known and at most its budget;
    - its rating, where a survey has one, is at least `min_rating`;
    - its gain on the primary metric exceeds `min_gain`, beyond noise: the two-sided interval lies above it,
      and a randomisation test agrees, since the interval is too narrow where few queries differ. A tie never
      passes;
    - of every metric in `rules.margins` it loses less than the margin, beyond noise in the same sense;
    - no segment of `min_segment` or more queries is significantly worse on the primary metric, by
      randomisation tests corrected for the number of segments (Holm).

    Where noise hides on which side of a gain or a margin the candidate is, the rule is undecided: more queries are
    needed, and the finding says how many.

    Raises:
        JudgeError: a metric that was not scored, segments that do not match the queries, or a champion judged
            on other queries.
    """
    findings = [*_floors(candidate, rules), *_budgets(candidate, rules), *_rating(candidate, rules)]
    if champion is None:
        headline = "There is no champion yet"
        text = f"{headline}, so there was nothing to compare with."
        findings.append(Finding("champion", "passed", text, headline=headline))
    else:
        if not np.array_equal(candidate.scores.query_ids, champion.scores.query_ids):
            raise JudgeError(
                "candidate and champion were judged on other queries; score both on the same ones"
            )
        change = differences(_values(candidate, rules.primary), _values(champion, rules.primary))
        findings += [_gain(change, rules), *_margins(candidate, champion, rules)]
        findings += _segments(change, candidate.segments, rules)
    return Decision(tuple(findings))


def _floors(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    for name, limit in sorted(rules.floors.items()):
        value = float(_values(candidate, name).mean()) if is_metric(name) else candidate.facts.get(name)
        yield _bound("floor", name, value, limit, "too low", "at least {:.4g} is required")


def _budgets(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    for name, limit in sorted(rules.budgets.items()):
        value = candidate.facts.get(name)
        yield _bound("budget", name, value, limit, "too high", "at most {:.4g} is allowed")


def _bound(kind: str, name: str, value: float | None, limit: float, wrong: str, asked: str) -> Finding:
    required = asked.format(limit)
    if value is None or math.isnan(value):
        headline = f"{name} was not measured"
        return Finding(f"{kind} {name}", "failed", f"{headline}; {required}.", limit=limit, headline=headline)
    passed = value >= limit if kind == "floor" else value <= limit
    headline = f"{name} is {value:.4g}" + ("" if passed else f", {wrong}")
    text = f"{name} is {value:.4g}; {'' if passed else f'{wrong}: '}{required}."
    verdict: Verdict = "passed" if passed else "failed"
    return Finding(f"{kind} {name}", verdict, text, value=value, limit=limit, headline=headline)


def _rating(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    limit, rating = rules.min_rating, candidate.rating
    if limit is None:
        return
    if rating is None:
        headline = "No survey rated the candidate"
        yield Finding("rating", "passed", f"{headline}, so no rating is required.", headline=headline)
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
    """The mean of a difference, its interval, and whether it lies above a limit."""

    value: float
    low: float
    high: float
    verdict: Verdict
    hint: str

    @classmethod
    def of(cls, difference: np.ndarray, limit: float, rules: Rules) -> "_Change":
        excess = difference - limit
        test = paired_test(excess, np.zeros_like(excess), rules.resamples, rules.seed, rules.confidence)
        # without the last digits that the limit brought, and without the sign of a zero
        value, low, high = (round(limit + x, 12) + 0.0 for x in (test.difference, test.low, test.high))
        if test.low > 0 and test.p_value <= 1 - rules.confidence:
            return cls(value, low, high, "passed", "")
        if test.high <= 0:
            return cls(value, low, high, "failed", "")
        seen = detectable(excess, POWER, rules.confidence)
        hint = f" {len(excess):,} queries detect {seen:.4f} at {100 * POWER:g} % power"
        if test.difference > 0:
            needed = float(f"{len(excess) * (seen / test.difference) ** 2:.2g}")
            hint += f"; this distance of {test.difference:.4f} needs about {needed:,.0f}"
        return cls(value, low, high, "undecided", f"{hint}.")

    def numbers(self, queries: int, rules: Rules) -> str:
        return (
            f"{self.value:+.4f} ({100 * rules.confidence:g} % interval {self.low:+.4f} to {self.high:+.4f}, "
            f"{queries:,} queries)"
        )


def _gain(difference: np.ndarray, rules: Rules) -> Finding:
    change = _Change.of(difference, rules.min_gain, rules)
    if change.low > 0 and (change.verdict == "passed" or rules.min_gain > 0):
        standing = "significantly better than"
    elif change.high < 0:
        standing = "significantly worse than"
    else:
        standing = "not significantly different from"
    amount = f" by more than {rules.min_gain:.4f}" if rules.min_gain else ""
    headline = {
        "passed": f"{rules.primary} improved{amount}",
        "failed": f"{rules.primary} did not improve{amount}",
        "undecided": f"{rules.primary} may or may not have improved{amount}",
    }[change.verdict]
    text = f"{headline}: {change.numbers(len(difference), rules)}, {standing} the champion.{change.hint}"
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


def _margins(candidate: Evidence, champion: Evidence, rules: Rules) -> Iterator[Finding]:
    for metric, margin in sorted(rules.margins.items()):
        difference = differences(_values(candidate, metric), _values(champion, metric))
        change = _Change.of(difference, -margin, rules)
        headline = {
            "passed": f"{metric} did not drop by {margin:.4f} or more",
            "failed": f"{metric} dropped by {margin:.4f} or more",
            "undecided": f"{metric} may have dropped by {margin:.4f} or more",
        }[change.verdict]
        text = f"{headline}: {change.numbers(len(difference), rules)} against the champion.{change.hint}"
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


def _segments(difference: np.ndarray, segments: np.ndarray, rules: Rules) -> Iterator[Finding]:
    if np.shape(segments) != difference.shape:
        raise JudgeError(f"{np.size(segments)} segments for {len(difference)} queries; give each query one")
    names, of, sizes = np.unique(segments, return_inverse=True, return_counts=True)
    least = max(rules.min_segment, 2)
    large = sizes >= least
    parts = [difference[of == index] for index in np.flatnonzero(large)]
    p_values = holm(np.array([sign_flip(part, rules.resamples, rules.seed) for part in parts]))
    for name, part, p_value in zip(names[large].tolist(), parts, p_values.tolist(), strict=True):
        value = float(part.mean())
        passed = value >= 0 or p_value > 1 - rules.confidence
        low, high = bootstrap_interval(part, rules.resamples, rules.seed, rules.confidence)
        headline = f"Segment '{name}' is {'not ' if passed else ''}significantly worse"
        text = (
            f"{headline}: {rules.primary} changed by {value:+.4f} over {len(part):,} queries (p = {p_value:.2g}, "
            f"corrected for {len(parts)} segments)."
        )
        verdict: Verdict = "passed" if passed else "failed"
        yield Finding(f"segment {name}", verdict, text, value, low, high, 0.0, headline)
    if not large.all():
        small = zip(names[~large].tolist(), sizes[~large].tolist(), strict=True)
        listed = ", ".join(f"'{name}' ({size})" for name, size in small)
        headline = f"Segments with fewer than {least} queries are not tested"
        yield Finding("segments not tested", "passed", f"{headline}: {listed}.", headline=headline)


def _values(evidence: Evidence, metric: str) -> np.ndarray:
    try:
        return evidence.scores.values[metric]
    except KeyError:
        known = ", ".join(evidence.scores.values)
        raise JudgeError(f"{metric} was not scored, so no rule can use it; scored are {known}") from None
