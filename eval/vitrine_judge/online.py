"""What customers prefer on live traffic: the result of an experiment, and the gate's rule `online`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from vitrine_judge.decision import ONLINE, Decision, Finding, Verdict
from vitrine_judge.interleaving import Preference, preference_from_counts, required_sessions

Kind = Literal["interleaving", "ab"]
UNITS: dict[Kind, str] = {"interleaving": "interleaved sessions", "ab": "pairs of sessions of an A/B test"}


@dataclass(frozen=True)
class OnlineRule:
    """The requirement for what customers prefer.

    Attributes:
        min_preference: The interval of the preference for the candidate over the champion must lie above this.
        min_sessions: With fewer sessions no candidate passes.
        confidence: Of the interval, which holds at any time: people may look every day.
    """

    min_preference: float = 0.0
    min_sessions: int = 0
    confidence: float = 0.95


class Day(NamedTuple):
    """The outcomes of one day: how many sessions the candidate lost, tied and won.

    Attributes:
        date: When the sessions ended, as YYYY-MM-DD in UTC.
    """

    date: str
    lost: int
    tied: int
    won: int


@dataclass(frozen=True)
class OnlineResult:
    """The result of an experiment: the outcomes of a candidate against a champion, day by day.

    Attributes:
        kind: How the two were compared.
        days: At least one, ascending, each with at least one session.
    """

    kind: Kind
    days: tuple[Day, ...]

    def measure(self, confidence: float) -> list[Preference]:
        """The preference for the candidate after each day; the last one is the result."""
        totals = np.cumsum([day[1:] for day in self.days], axis=0).tolist()
        return [preference_from_counts(lost, tied, won, confidence) for lost, tied, won in totals]

    def find_verdict_date(self, confidence: float) -> str:
        """The first day after which one of the two was better by the interval; "" for none."""
        measured = zip(self.days, self.measure(confidence), strict=True)
        return next((day.date for day, after in measured if after.winner != "undecided"), "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"kind": self.kind, "days": [day._asdict() for day in self.days]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result of `to_dict`."""
        return cls(values["kind"], tuple(Day(**day) for day in values["days"]))


def confirm_online(decision: Decision, result: OnlineResult | None, rule: OnlineRule | None) -> Decision:
    """Judge a candidate by what customers prefer, after all other rules.

    Nobody shows a candidate that fails offline to customers, so a missing result is a finding only if all other rules
    passed.

    Args:
        decision: On all other rules, against a champion.
        result: Against the same champion; None for no experiment yet.
        rule: None for no such rule.

    Returns:
        The decision with one more finding, or the same.
    """
    if rule is None or (result is None and not decision.passed):
        return decision
    finding = _miss_result(rule) if result is None else _check_result(result, rule)
    return Decision((*decision.findings, finding))


def _miss_result(rule: OnlineRule) -> Finding:
    headline = "There is no online result against the champion yet"
    text = f"{headline}: start an experiment on live traffic, and judge this version again with its result."
    return Finding(ONLINE, "undecided", text, limit=rule.min_preference, headline=headline)


def _check_result(result: OnlineResult, rule: OnlineRule) -> Finding:
    measured = result.measure(rule.confidence)[-1]
    verdict: Verdict = "undecided"
    if measured.high <= rule.min_preference:
        verdict = "failed"
    elif measured.low > rule.min_preference and measured.sessions >= rule.min_sessions:
        verdict = "passed"
    amount = f" by more than {rule.min_preference:+.4f}" if rule.min_preference else ""
    headline = {
        "passed": f"Customers prefer this version{amount}",
        "failed": f"Customers do not prefer this version{amount}",
        "undecided": f"Customers may or may not prefer this version{amount}",
    }[verdict]
    first, last = result.days[0].date, result.days[-1].date
    text = (
        f"{headline}: preference {measured.mean:+.4f} ({100 * rule.confidence:.5g} % interval {measured.low:+.4f} to "
        f"{measured.high:+.4f}, {measured.sessions:,} {UNITS[result.kind]}, {100 * measured.decisive:.3g} % with a "
        f"winner, {first} to {last})."
    )
    if verdict == "undecided":
        text += _hint_sessions(measured, rule)
    return Finding(
        ONLINE,
        verdict,
        text,
        measured.mean,
        measured.low,
        measured.high,
        rule.min_preference,
        headline,
    )


def _hint_sessions(measured: Preference, rule: OnlineRule) -> str:
    """How many sessions are needed: at least the minimum, and those that show the measured preference."""
    if measured.low > rule.min_preference:
        return f" At least {rule.min_sessions:,} are required."
    distance = measured.mean - rule.min_preference
    if distance <= 0:
        return ""
    needed = required_sessions(distance, max(measured.decisive, distance), rule.confidence)
    return f" A preference {distance:.4f} above the limit needs about {float(f'{needed:.2g}'):,.0f} for 80 % power."
