"""The promotion gate: pure functions of scores, facts and rules."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vitrine_judge.decision import Decision, Finding, Verdict
from vitrine_judge.errors import JudgeError
from vitrine_judge.limits import check_budgets, check_floors, check_rating
from vitrine_judge.looks import look_level
from vitrine_judge.metrics import Scores, is_metric
from vitrine_judge.online import OnlineRule
from vitrine_judge.segments import Segment, pool_segments
from vitrine_judge.significance import (
    count_clusters,
    detectable_difference,
    differences,
    effective_queries,
    fewest_queries,
    holm,
    largest_change,
    lower_bound,
    p_above,
)

POWER = 0.8  # statistical power of the detectable difference that an undecided finding states
NOTABLE_QUERIES = 10  # a large loss of fewer queries is noise: `max_segment_loss` does not apply
HOLDOUT_LOOKS = 10  # a sign is a bit: after ten, a holdout has been searched


@dataclass(frozen=True)
class Rules:
    """The requirements for a candidate.

    Attributes:
        primary: The metric that must improve.
        min_gain: The gain over the champion must exceed this, absolute.
        confidence: Of the gain: 1 − confidence is the two-sided level of all looks together (`vitrine_judge.looks`).
        min_queries: With fewer independent queries no comparison passes.
        margins: Other metric → it must drop by less than this against the champion, absolute, above 0.
        baselines: System → the primary metric must be below that of the system by less than this, absolute.
        harm_level: Of the one-sided tests of margins, baselines and segments.
        floors: Metric or fact → lowest allowed mean or value.
        budgets: Fact → highest allowed value.
        min_rating: Lowest allowed mean rating, if a survey rated the candidate; None for no such rule.
        min_segment: Smaller segments are tested together with others, see `vitrine_judge.segments.pool_segments`.
        max_segment_loss: No segment of `NOTABLE_QUERIES` or more queries may lose more than this, significant or not.
        online: What customers must prefer on live traffic, see `vitrine_judge.online.confirm_online`; None for no such
            rule.
    """

    primary: str
    min_gain: float = 0.0
    confidence: float = 0.95
    min_queries: int = 50
    margins: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    harm_level: float = 0.05
    floors: Mapping[str, float] = field(default_factory=dict)
    budgets: Mapping[str, float] = field(default_factory=dict)
    min_rating: float | None = None
    min_segment: int = 20
    max_segment_loss: float = 0.2
    online: OnlineRule | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements of one system.

    Attributes:
        scores: Of Q queries.
        segments: (Q,) str, the segment of each query.
        facts: Other measured values by name.
        rating: The mean rating of a survey over all queries; None without a survey.
        clusters: (Q,) str, equal for queries that hang together; None if all are independent.
    """

    scores: Scores
    segments: np.ndarray
    facts: Mapping[str, float]
    rating: Segment | None = None
    clusters: np.ndarray | None = None


def decide(
    candidate: Evidence,
    champion: Evidence | None,
    rules: Rules,
    baselines: Mapping[str, Scores] | None = None,
    look: float = 1.0,
) -> Decision:
    """Judge a candidate by its own numbers, against baselines and, if there is a champion, against it.

    The candidate passes if all of these hold:

    - every metric and fact in `rules.floors` is known and at least its floor;
    - every fact in `rules.budgets` is known and at most its budget;
    - its rating, if a survey has one, is at least `min_rating`;
    - it is significantly less than its margin below every system in `rules.baselines`, as far as they were scored;
    - its gain over the champion on the primary metric is significantly above `min_gain`: the interval lies above it, at
      the level of this look. A tie never passes;
    - every metric in `rules.margins` drops by significantly less than its margin;
    - no segment is significantly worse on the primary metric, corrected for the number of segments (Holm), and none
      loses more than `max_segment_loss`;
    - comparisons have at least `min_queries` independent queries.

    All tests are `vitrine_judge.significance.p_above`. A gain or margin is undecided if neither side is significant:
    more queries are needed, and the finding says how many.

    Args:
        candidate: To judge.
        champion: None for no champion.
        rules: The requirements.
        baselines: System → scores of the same queries.
        look: The number of this look at these queries with this champion, of `vitrine_judge.looks.number_look`.

    Raises:
        JudgeError: a metric that was not scored, segments or clusters that do not match the queries, or a champion or
            baseline that was scored on other queries.
    """
    _check_shapes(candidate)
    findings = [
        *check_floors(_list_values(candidate, rules.floors), rules.floors),
        *check_budgets(candidate.facts, rules.budgets),
        *check_rating(candidate.rating, rules.min_rating),
        *_check_baselines(candidate, baselines or {}, rules),
        *_check_champion(candidate, champion, rules, look),
    ]
    if champion is not None or rules.baselines:
        findings += _check_queries(candidate, rules)
    return Decision(tuple(findings))


def confirm(
    decision: Decision, candidate: Evidence, champion: Evidence, rules: Rules, look: float = 1.0
) -> Decision:
    """Judge a candidate that passed on queries that no candidate was judged on: the holdout.

    Its gain there must be above `min_gain`, and the holdout must not have confirmed or refused too many candidates
    before. The test queries have shown the gain to be significant; here a gain that only adapts to them disappears.

    Args:
        decision: Of `decide`, on the test queries.
        candidate, champion: Their scores on the holdout.
        rules: The requirements.
        look: The number of this look at the holdout with this champion, from 1.

    Returns:
        The decision with one more finding, if it passed; else the same.
    """
    if not decision.passed:
        return decision
    gain = _compare(candidate, champion.scores, rules.primary)
    low, high = gain.interval((1 - rules.confidence) / 2)
    tested = next(item.value for item in decision.findings if item.rule == f"gain {rules.primary}") or 0.0
    verdict: Verdict = "passed"
    headline = f"The holdout confirms the gain in {rules.primary}"
    if high <= rules.min_gain:
        verdict, headline = "failed", f"The holdout refutes the gain in {rules.primary}"
    elif look > HOLDOUT_LOOKS:
        verdict, headline = "undecided", f"The holdout was used {look - 1:.3g} times and is spent"
    elif gain.mean <= rules.min_gain:
        verdict, headline = "undecided", f"The holdout does not confirm the gain in {rules.primary}"
    text = (
        f"{headline}: {gain.describe(low, high, rules.confidence)}. The gain on the test queries is {tested:+.4f}, so "
        f"over-fitting to them is {tested - gain.mean:+.4f}; look {look:.3g} of {HOLDOUT_LOOKS} at the holdout."
    )
    finding = Finding("holdout", verdict, text, gain.mean, low, high, rules.min_gain, headline)
    return Decision((*decision.findings, finding))


@dataclass(frozen=True, eq=False)
class _Change:
    """The differences between two systems on the same queries.

    Attributes:
        values: (Q,) candidate − other.
        reach: The largest possible difference of a query.
        clusters: As in `Evidence`.
    """

    values: np.ndarray
    reach: float
    clusters: np.ndarray | None

    @property
    def mean(self) -> float:
        return round(float(self.values.mean()), 12) + 0.0  # + 0.0 turns −0.0 into 0.0

    def interval(self, level: float) -> tuple[float, float]:
        """The ends that the test rejects at a one-sided level each."""
        low = lower_bound(self.values, level, -self.reach, self.clusters)
        return low, -lower_bound(-self.values, level, -self.reach, self.clusters) + 0.0

    def select(self, mask: np.ndarray) -> "_Change":
        """The differences of some queries."""
        clusters = None if self.clusters is None else self.clusters[mask]
        return replace(self, values=self.values[mask], clusters=clusters)

    def describe(self, low: float, high: float, confidence: float) -> str:
        """The mean, its interval and the number of queries."""
        queries = f"{len(self.values):,} queries"
        if self.clusters is not None:
            count, effective = count_clusters(self.values, self.clusters), self.effective
            queries += f" in {count:,} clusters, which are worth {effective:,.0f} independent ones"
        return f"{self.mean:+.4f} ({100 * confidence:.5g} % interval {low:+.4f} to {high:+.4f}, {queries})"

    @property
    def effective(self) -> float:
        return effective_queries(self.values, self.clusters)

    def power_hint(self, limit: float, level: float) -> str:
        """The difference that these queries detect, and how many queries detect the measured distance to the limit."""
        reach = self.reach + limit
        detected = detectable_difference(self.values, level, POWER, -reach, self.clusters)
        hint = f" {len(self.values):,} queries detect {detected:.4f} at {100 * POWER:g} % power"
        distance = self.mean - limit
        if distance > 0:
            needed = float(f"{len(self.values) * (detected / distance) ** 2:.2g}")
            hint += f"; a distance of {distance:.4f} to the limit needs about {needed:,.0f}"
        return f"{hint}."


def _compare(candidate: Evidence, other: Scores, metric: str) -> _Change:
    if not np.array_equal(candidate.scores.query_ids, other.query_ids):
        raise JudgeError(
            "candidate and champion were scored on different queries; score both on the same ones"
        )
    ours, theirs = _values(candidate.scores, metric), _values(other, metric)
    return _Change(differences(ours, theirs), largest_change(ours, theirs), candidate.clusters)


def _judge_change(change: _Change, limit: float, level: float) -> tuple[Verdict, float, float]:
    """Passed significantly above the limit, failed significantly below it, else undecided; and the interval."""
    low, high = change.interval(level)
    return ("passed" if low > limit else "failed" if high <= limit else "undecided"), low, high


def _check_champion(
    candidate: Evidence, champion: Evidence | None, rules: Rules, look: float
) -> Iterator[Finding]:
    if champion is None:
        headline = "There is no champion yet"
        text = f"{headline}: no comparison with it is needed."
        yield Finding("champion", "passed", text, headline=headline)
        return
    gain = _compare(candidate, champion.scores, rules.primary)
    yield _check_gain(gain, rules, look)
    yield from _check_margins(candidate, champion, rules)
    yield from _check_segments(gain, candidate.segments, rules)


def _check_gain(change: _Change, rules: Rules, look: float) -> Finding:
    level = look_level((1 - rules.confidence) / 2, look)
    verdict, low, high = _judge_change(change, rules.min_gain, level)
    comparison = "better than" if low > 0 else "worse than" if high < 0 else "different from"
    significantly = "significantly" if low > 0 or high < 0 else "not significantly"
    amount = f" by more than {rules.min_gain:.4f}" if rules.min_gain else ""
    headline = {
        "passed": f"{rules.primary} improved{amount}",
        "failed": f"{rules.primary} did not improve{amount}",
        "undecided": f"{rules.primary} may or may not have improved{amount}",
    }[verdict]
    text = (
        f"{headline}: {change.describe(low, high, 1 - 2 * level)}, {significantly} {comparison} the champion. This is "
        f"look {look:.3g} at these queries, tested at a level of {100 * level:.3g} %."
    )
    if verdict == "undecided":
        text += change.power_hint(rules.min_gain, level)
    return Finding(f"gain {rules.primary}", verdict, text, change.mean, low, high, rules.min_gain, headline)


def _check_margins(candidate: Evidence, champion: Evidence, rules: Rules) -> Iterator[Finding]:
    for metric, margin in sorted(rules.margins.items()):
        change = _compare(candidate, champion.scores, metric)
        headlines = {
            "passed": f"{metric} did not drop by {margin:.4f} or more",
            "failed": f"{metric} dropped by {margin:.4f} or more",
            "undecided": f"{metric} may have dropped by {margin:.4f} or more",
        }
        yield _check_loss(f"margin {metric}", change, margin, rules, headlines.__getitem__, "the champion")


def _check_baselines(candidate: Evidence, baselines: Mapping[str, Scores], rules: Rules) -> Iterator[Finding]:
    for system, margin in sorted(rules.baselines.items()):
        if system not in baselines:
            headline = f"The baseline {system} was not scored"
            yield Finding(f"baseline {system}", "passed", f"{headline}: no comparison.", headline=headline)
            continue
        change = _compare(candidate, baselines[system], rules.primary)
        limit = f" by {margin:.4f} or more" if margin else ""
        headlines = {
            "passed": f"{rules.primary} is not below {system}{limit}",
            "failed": f"{rules.primary} is below {system}{limit}",
            "undecided": f"{rules.primary} may be below {system}{limit}",
        }
        yield _check_loss(f"baseline {system}", change, margin, rules, headlines.__getitem__, system)
    yield from _note_weaknesses(candidate, baselines, rules)


def _check_loss(
    rule: str, change: _Change, margin: float, rules: Rules, headline: Callable[[str], str], other: str
) -> Finding:
    """Non-inferiority: the loss against another system must be significantly less than the margin."""
    verdict, low, high = _judge_change(change, -margin, rules.harm_level)
    text = f"{headline(verdict)}: {change.describe(low, high, 1 - 2 * rules.harm_level)} against {other}."
    if verdict == "undecided":
        text += change.power_hint(-margin, rules.harm_level)
        if margin and change.effective < (fewest := fewest_queries(margin, rules.harm_level)):
            text += f" Fewer than {fewest:,} queries never show that a loss is below {margin:.4f}."
    return Finding(rule, verdict, text, change.mean, low, high, -margin, headline(verdict))


def _note_weaknesses(candidate: Evidence, baselines: Mapping[str, Scores], rules: Rules) -> Iterator[Finding]:
    """Note the segments in which a baseline is significantly better, corrected for all of them and all baselines."""
    labels = pool_segments(candidate.segments, rules.min_segment)
    names = [(system, segment) for system in baselines for segment in np.unique(labels).tolist()]
    parts = [
        _compare(candidate, baselines[system], rules.primary).select(labels == segment)
        for system, segment in names
    ]
    p_values = holm(np.array([_p_worse(part, part.reach) for part in parts]))
    for (system, segment), part, p_value in zip(names, parts, p_values.tolist(), strict=True):
        if part.mean < 0 and p_value <= rules.harm_level:
            headline = f"{system} is significantly better in segment '{segment}'"
            text = f"{headline}: {rules.primary} {part.mean:+.4f}, {len(part.values):,} queries (p = {p_value:.2g})."
            yield Finding(f"weakness {system} {segment}", "noted", text, part.mean, headline=headline)


def _check_queries(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    count = count_clusters(candidate.segments, candidate.clusters)
    if count < rules.min_queries:
        headline = f"There are too few independent queries: {count:,}"
        text = f"{headline}; a comparison needs at least {rules.min_queries:,}."
        yield Finding("queries", "undecided", text, count, limit=rules.min_queries, headline=headline)


def _check_segments(change: _Change, segments: np.ndarray, rules: Rules) -> Iterator[Finding]:
    labels = pool_segments(segments, rules.min_segment)
    names = np.unique(labels).tolist()
    parts = [change.select(labels == name) for name in names]
    seen = float(np.abs(change.values).max())
    p_values = holm(np.array([_p_worse(part, seen) for part in parts])).tolist()
    for name, part, p_value in zip(names, parts, p_values, strict=True):
        yield _check_segment(name, part, p_value, len(parts), rules)
    for name in np.unique(segments[segments != labels]).tolist():
        part = change.select(segments == name)
        if len(part.values) >= NOTABLE_QUERIES and part.mean < -rules.max_segment_loss:
            yield _limit_segment(name, part, "", rules)


def _check_segment(name: str, part: _Change, p_value: float, segments: int, rules: Rules) -> Finding:
    test = f"p = {p_value:.2g}, corrected for {segments} segments"
    worse = part.mean < 0 and p_value <= rules.harm_level
    if not worse and len(part.values) >= NOTABLE_QUERIES and part.mean < -rules.max_segment_loss:
        return _limit_segment(name, part, f" ({test})", rules)
    headline = f"Segment '{name}' is {'' if worse else 'not '}significantly worse"
    text = (
        f"{headline}: {rules.primary} changed by {part.mean:+.4f} over {len(part.values):,} queries ({test})."
    )
    verdict: Verdict = "failed" if worse else "passed"
    return Finding(f"segment {name}", verdict, text, part.mean, limit=0.0, headline=headline)


def _limit_segment(name: str, part: _Change, test: str, rules: Rules) -> Finding:
    headline = f"Segment '{name}' lost more than {rules.max_segment_loss:.4g}"
    text = f"{headline}: {rules.primary} changed by {part.mean:+.4f} over {len(part.values):,} queries{test}."
    limit = -rules.max_segment_loss
    return Finding(f"segment {name}", "undecided", text, part.mean, limit=limit, headline=headline)


def _p_worse(part: _Change, seen: float) -> float:
    """P-value of the hypothesis that a segment did not become worse.

    Its queries are assumed to change by no more than the largest change `seen` on any query. Where a gain must be
    shown, that would be too bold; here it makes harm easier to show.
    """
    return p_above(-part.values, 0.0, -seen, part.clusters)


def _list_values(evidence: Evidence, names: Mapping[str, Any]) -> dict[str, float | None]:
    """The mean of each metric, and the value of each fact."""
    return {
        name: float(_values(evidence.scores, name).mean()) if is_metric(name) else evidence.facts.get(name)
        for name in names
    }


def _check_shapes(evidence: Evidence) -> None:
    queries = len(evidence.scores.query_ids)
    for kind, labels in (("segments", evidence.segments), ("clusters", evidence.clusters)):
        if labels is not None and np.shape(labels) != (queries,):
            raise JudgeError(f"{np.size(labels)} {kind} for {queries} queries; give one per query")


def _values(scores: Scores, metric: str) -> np.ndarray:
    try:
        return scores.values[metric]
    except KeyError:
        known = ", ".join(scores.values)
        raise JudgeError(f"{metric} was not scored, but a rule needs it; scored are {known}") from None
