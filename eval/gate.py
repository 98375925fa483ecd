"""May this model be promoted? Pure functions of scores, facts and rules."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.metrics import Scores, is_metric
from eval.rankings import JudgeError
from eval.significance import differences, holm, paired_test, sign_flip


@dataclass(frozen=True)
class Rules:
    """What a candidate must meet.

    Attributes:
        primary: The metric on which it must win.
        min_gain: Gain on it over the champion, absolute, that must be exceeded.
        confidence: Of that gain, and of the finding that a segment got worse.
        floors: Metric or fact → lowest mean, or value, allowed.
        ceilings: Fact → highest value allowed.
        min_segment: Queries that a segment needs before it is tested.
        resamples, seed: Of the tests and intervals.
    """

    primary: str
    min_gain: float
    confidence: float
    floors: Mapping[str, float]
    ceilings: Mapping[str, float]
    min_segment: int
    resamples: int = 10_000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one system: its scores on Q queries, their segments (Q,) str, and measured facts."""

    scores: Scores
    segments: np.ndarray
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Finding:
    """One rule's verdict, in one sentence and in numbers; an estimated `value` lies in [`low`, `high`]."""

    rule: str
    passed: bool
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Decision:
    """The verdict: passed where every finding is."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return all(finding.passed for finding in self.findings)

    @property
    def reasons(self) -> list[str]:
        """Why: what failed, or, where nothing did, what passed."""
        return [finding.text for finding in self.findings if finding.passed == self.passed]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"passed": self.passed, "findings": [asdict(finding) for finding in self.findings]}


def decide(candidate: Evidence, champion: Evidence | None, rules: Rules) -> Decision:
    """Judge a candidate by its own numbers and, where there is one, against the champion.

    The candidate passes if all of these hold:

    - the mean of every metric in `rules.floors` is at least its floor; every fact there is known and likewise;
    - every fact in `rules.ceilings` is known and at most its ceiling;
    - its gain on the primary metric exceeds `min_gain`, beyond noise: the two-sided interval lies above it,
      and a randomisation test agrees, since the interval is too narrow where few queries differ. A tie never
      passes;
    - no segment of `min_segment` or more queries is significantly worse on the primary metric, by
      randomisation tests corrected for the number of segments (Holm).

    Raises:
        JudgeError: a metric that was not scored, segments that do not match the queries, or a champion judged
            on other queries.
    """
    findings = [*_floors(candidate, rules), *_ceilings(candidate, rules)]
    if champion is None:
        text = "There is no champion yet, so there was nothing to compare with."
        findings.append(Finding("champion", True, text))
    else:
        if not np.array_equal(candidate.scores.query_ids, champion.scores.query_ids):
            raise JudgeError(
                "candidate and champion were judged on other queries; score both on the same ones"
            )
        difference = differences(_values(candidate, rules.primary), _values(champion, rules.primary))
        findings += [_gain(difference, rules), *_segments(difference, candidate.segments, rules)]
    return Decision(tuple(findings))


def _floors(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    for name, limit in rules.floors.items():
        value = float(_values(candidate, name).mean()) if is_metric(name) else candidate.facts.get(name)
        yield _bound("floor", name, value, limit, "too low: ", "at least {:.4g} is required")


def _ceilings(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    for name, limit in rules.ceilings.items():
        yield _bound(
            "ceiling", name, candidate.facts.get(name), limit, "too high: ", "at most {:.4g} is allowed"
        )


def _bound(kind: str, name: str, value: float | None, limit: float, wrong: str, asked: str) -> Finding:
    if value is None or math.isnan(value):
        return Finding(
            f"{kind} {name}", False, f"{name} was not measured; {asked.format(limit)}.", limit=limit
        )
    passed = value >= limit if kind == "floor" else value <= limit
    text = f"{name} is {value:.4g}; {'' if passed else wrong}{asked.format(limit)}."
    return Finding(f"{kind} {name}", passed, text, value=value, limit=limit)


def _gain(difference: np.ndarray, rules: Rules) -> Finding:
    excess = difference - rules.min_gain
    test = paired_test(excess, np.zeros_like(excess), rules.resamples, rules.seed, rules.confidence)
    value, low, high = (rules.min_gain + x for x in (test.difference, test.low, test.high))
    passed = test.low > 0 and test.p_value <= 1 - rules.confidence
    if low > 0 and (passed or rules.min_gain > 0):
        verdict = "The candidate is better than the champion"
    elif high < 0:
        verdict = "The candidate is worse than the champion"
    else:
        verdict = "Candidate and champion cannot be told apart"
    text = (
        f"{verdict}: {rules.primary} changes by {value:+.4f} ({100 * rules.confidence:g} % interval "
        f"{low:+.4f} to {high:+.4f}, {len(difference):,} queries). More than {rules.min_gain:+.4f} is "
        f"required, which is {'shown' if passed else 'not shown'}."
    )
    return Finding(f"gain {rules.primary}", passed, text, value, low, high, rules.min_gain)


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
        text = (
            f"Segment '{name}' is {'not ' if passed else ''}significantly worse: {rules.primary} changes by "
            f"{value:+.4f} over {len(part):,} queries (p = {p_value:.2g}, corrected for {len(parts)} tested)."
        )
        yield Finding(f"segment {name}", passed, text, value=value, limit=0.0)
    if not large.all():
        small = zip(names[~large].tolist(), sizes[~large].tolist(), strict=True)
        listed = ", ".join(f"'{name}' ({size})" for name, size in small)
        text = f"Not tested, with fewer than {least} queries: {listed}."
        yield Finding("segments not tested", True, text)


def _values(evidence: Evidence, metric: str) -> np.ndarray:
    try:
        return evidence.scores.values[metric]
    except KeyError:
        known = ", ".join(evidence.scores.values)
        raise JudgeError(f"{metric} was not scored, so no rule can use it; scored are {known}") from None
