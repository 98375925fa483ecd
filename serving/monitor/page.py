"""The page monitor.html: verdicts, figures, drift, clicks by position, segments."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from vitrine_judge.pages import Cell, Table, template_environment
from vitrine_judge.plots import paired_bars

from serving.monitor.aggregation import LANGUAGE, Aggregate
from serving.monitor.figures import (
    FIGURES,
    LISTED_POSITIONS,
    Format,
    format_count,
    format_share,
    measure_click_through,
    measure_position,
)
from serving.monitor.histograms import Estimate, Totals, estimate_latency, estimate_share
from serving.monitor.query_drift import QueryDrift
from serving.monitor.rules import Verdict
from serving.params import MonitorParams
from validation.drift import BINS

PAGE = "monitor.html"
TONES = {"passed": "good", "failed": "bad", "undecided": "", "too few": "soft"}
SHARES = {"max_errors", "max_empty", "max_low_scores"}  # rules whose limit is a share


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        model: Name of the model.
        reference, current: The sums of both periods.
        verdicts: Of `judge_period`.
        drifts: Of `measure_query_drift`.
        languages: Period → language → the searches of its sample.
        notes: What could not be measured, and why.
    """

    model: str
    reference: Aggregate
    current: Aggregate
    verdicts: Sequence[Verdict]
    drifts: Sequence[QueryDrift]
    languages: tuple[dict[str, Totals], dict[str, Totals]]
    notes: Sequence[str]

    @property
    def failures(self) -> list[Verdict]:
        """The rules that fail."""
        return [verdict for verdict in self.verdicts if verdict.outcome == "failed"]

    @property
    def outcome(self) -> str:
        """Of all rules."""
        return "failed" if self.failures else "passed"


def describe_verdict(verdict: Verdict) -> str:
    """One sentence: what was measured, its interval, the limit."""
    form = rule_format(verdict.rule)
    limit = f"{'at most' if verdict.is_maximum else 'at least'} {form(verdict.limit)}"
    if verdict.outcome == "too few":
        return f"{verdict.subject}: too few searches, {verdict.searches:,} of {verdict.needed:,}; {limit}"
    return f"{verdict.subject}: {format_estimate(verdict.estimate, form)}; {limit}"


def rule_format(rule: str) -> Format:
    """How the values of a rule are written."""
    if rule in SHARES:
        return format_share
    return format_count if rule.startswith("max_latency") else lambda value: f"{value:.3f}"


def format_estimate(estimate: Estimate, form: Format) -> str:
    """A value with its interval, if it has one."""
    if math.isnan(estimate.low):
        return form(estimate.value)
    return f"{form(estimate.value)} ({form(estimate.low)} to {form(estimate.high)})"


def render(report: Report, params: MonitorParams) -> str:
    """Render the page."""
    template = template_environment(Path(__file__).parent).get_template("monitor.html.jinja")
    order = ("failed", "undecided", "too few", "passed")
    return template.render(
        report=report,
        params=params,
        verdicts=sorted(report.verdicts, key=lambda verdict: order.index(verdict.outcome)),
        describe=describe_verdict,
        drifts=[(item, _plot_drift(item)) for item in report.drifts],
        positions=_plot_positions(report),
        tables=[_tabulate_rules(report), _tabulate_figures(report), *_tabulate_positions(report)],
        segments=_tabulate_segments(report),
    )


def _plot_drift(item: QueryDrift) -> Markup:
    drift, first = item.drift, slice(0, BINS + 2)
    name = f"drift-{drift.name.replace(' ', '-')}"
    summary = f"Shares of searches by {drift.name}; the table has the numbers"
    return paired_bars(drift.bins[first], drift.reference[first], drift.current[first], name, summary)


def _listed_positions(report: Report) -> list[int]:
    shown = np.maximum(report.reference.shown, report.current.shown)[:LISTED_POSITIONS]
    return np.flatnonzero(shown).tolist()


def _plot_positions(report: Report) -> Markup | None:
    positions = _listed_positions(report)
    if not positions:
        return None
    labels = [f"position {position + 1}" for position in positions]
    before, after = (
        np.nan_to_num([measure_position(part, position).value for position in positions])
        for part in (report.reference, report.current)
    )
    return paired_bars(
        labels, before, after, "positions", "Click-through by position; the table has the numbers"
    )


def _tabulate_rules(report: Report) -> Table:
    rows = []
    for verdict in report.verdicts:
        form = rule_format(verdict.rule)
        cells = [
            Cell.of_text(verdict.subject),
            Cell.of_text(verdict.outcome, TONES[verdict.outcome]),
            Cell(verdict.estimate.value, format_estimate(verdict.estimate, form)),
            Cell(verdict.limit, f"{'≤' if verdict.is_maximum else '≥'} {form(verdict.limit)}"),
            Cell.of_count(verdict.searches),
            Cell.of_text(f"monitor.{verdict.rule}", "soft"),
        ]
        rows.append(cells)
    return Table("Every rule", ["Measured", "result", "value", "limit", "searches", "rule"], rows)


def _tabulate_figures(report: Report) -> Table:
    rows = [
        [
            Cell.of_text(figure.label),
            *_cells([figure.measure(part) for part in _parts(report)], figure.format),
        ]
        for figure in FIGURES.values()
    ]
    return Table("Figures", ["Figure", "reference", "this period"], rows, "With 95 % intervals.")


def _tabulate_positions(report: Report) -> Iterator[Table]:
    positions = _listed_positions(report)
    rows = [
        [
            Cell.of_text(f"position {position + 1}"),
            *_cells([measure_position(part, position) for part in _parts(report)], format_share),
        ]
        for position in positions
    ]
    note = "The share of the results at a position that were clicked within an hour."
    if rows:
        yield Table("Click-through by position", ["Position", "reference", "this period"], rows, note)


def _parts(report: Report) -> tuple[Aggregate, Aggregate]:
    return report.reference, report.current


def _cells(estimates: Sequence[Estimate], form: Format) -> list[Cell]:
    return [
        Cell("" if math.isnan(estimate.value) else estimate.value, format_estimate(estimate, form))
        for estimate in estimates
    ]


def _tabulate_segments(report: Report) -> list[Table]:
    """A table per dimension; one of languages, from the samples, if texts are kept."""
    dimensions = dict.fromkeys(key[0] for part in _parts(report) for key in part.segments)
    tables = [
        _tabulate_segment(
            name, _select_dimension(report.reference, name), _select_dimension(report.current, name)
        )
        for name in dimensions
    ]
    if any(report.languages):
        tables.append(
            _tabulate_segment(LANGUAGE, *report.languages, note="Of the samples of searches with a text.")
        )
    return tables


def _select_dimension(aggregate: Aggregate, dimension: str) -> dict[str, Totals]:
    return {value: totals for (name, value), totals in aggregate.segments.items() if name == dimension}


def _tabulate_segment(
    dimension: str, reference: dict[str, Totals], current: dict[str, Totals], note: str = ""
) -> Table:
    heads = [dimension, "searches, reference", "searches"]
    heads += [f"{name}{period}" for name in _SEGMENT_FIGURES for period in (", reference", "")]
    rows = []
    for value in sorted(reference.keys() | current.keys()):
        pair = [part.get(value, Totals()) for part in (reference, current)]
        cells = [Cell.of_text(value), *(Cell.of_count(totals.searches) for totals in pair)]
        for measure, form in _SEGMENT_FIGURES.values():
            cells += _cells([measure(totals) for totals in pair], form)
        rows.append(cells)
    return Table(f"By {dimension}", heads, rows, note)


_SEGMENT_FIGURES = {
    "without a result": (lambda totals: estimate_share(totals.empty, totals.answered), format_share),
    "with a click": (measure_click_through, format_share),
    "latency p95, ms": (lambda totals: estimate_latency(totals.latencies, 0.95), format_count),
}
