"""Limits on a system's own numbers: floors, budgets, and the rating of a survey."""

import math
from collections.abc import Iterator, Mapping

from vitrine_judge.decision import Finding, Verdict
from vitrine_judge.segments import Segment


def check_floors(values: Mapping[str, float | None], floors: Mapping[str, float]) -> Iterator[Finding]:
    """Check that each value is known and at least its floor."""
    for name, limit in sorted(floors.items()):
        yield _check_limit("floor", name, values.get(name), limit, "too low", "at least {:.4g} is required")


def check_budgets(values: Mapping[str, float], budgets: Mapping[str, float]) -> Iterator[Finding]:
    """Check that each value is known and at most its budget."""
    for name, limit in sorted(budgets.items()):
        yield _check_limit("budget", name, values.get(name), limit, "too high", "at most {:.4g} is allowed")


def check_rating(rating: Segment | None, limit: float | None) -> Iterator[Finding]:
    """Check that the mean rating, if there is one, is at least the limit, if there is one."""
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


def _check_limit(
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
