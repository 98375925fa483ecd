"""What customers prefer, day by day: a plot and a table for pages."""

from markupsafe import Markup

from vitrine_judge.online import UNITS, OnlineResult
from vitrine_judge.pages import Cell, Table
from vitrine_judge.plots import Estimate, difference_tone, sequence


def plot_online(result: OnlineResult, confidence: float, limit: float = 0.0) -> Markup:
    """The preference for the candidate after each day, with its confidence sequence.

    Args:
        result: Of an experiment.
        confidence: Of the sequence.
        limit: The preference that the gate requires.
    """
    estimates = [
        Estimate(
            f"{after.sessions:,} sessions",
            after.mean,
            after.low,
            after.high,
            difference_tone(after.low, after.high),
        )
        for after in result.measure(confidence)
    ]
    last, dates = estimates[-1], [day.date for day in result.days]
    summary = (
        f"Preference from {dates[0]} to {dates[-1]}: at the end {last.value:+.3f} ({last.low:+.3f} to "
        f"{last.high:+.3f}); the table shows each day"
    )
    return sequence(dates, estimates, "online", summary, limit)


def table_online(result: OnlineResult, confidence: float) -> Table:
    """The outcomes of each day, and the preference after it."""
    rows = [
        [
            Cell.of_text(day.date),
            *(Cell.of_count(count) for count in (day.won, day.tied, day.lost)),
            Cell.of_difference(after.mean, difference_tone(after.low, after.high)),
            Cell.of_difference(after.low, "soft"),
            Cell.of_difference(after.high, "soft"),
        ]
        for day, after in zip(result.days, result.measure(confidence), strict=True)
    ]
    heads = ["Day", "won", "tied", "lost", "preference", f"{100 * confidence:g} % from", "to"]
    note = (
        f"Outcomes of {UNITS[result.kind]} that ended on a day (UTC); preference of all since the start. The interval "
        "is valid at any time."
    )
    return Table("What customers prefer, day by day", heads, rows, note)
