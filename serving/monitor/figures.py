"""The figures of a period, by name: for the page, and as metrics in MLflow."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from serving.monitor.aggregation import Aggregate
from serving.monitor.histograms import UNKNOWN, Estimate, Totals, estimate_latency, estimate_share

TOP_SHARE = 0.01  # of the catalogue: the products that are shown most
LISTED_POSITIONS = 10

Format = Callable[[float], str]


class Figure(NamedTuple):
    """A figure of a period.

    Attributes:
        label: On the page.
        measure: Computes it.
        format: Of its value.
    """

    label: str
    measure: Callable[[Aggregate], Estimate]
    format: Format


def format_share(value: float) -> str:
    """A share as a percentage; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.2f} %"


def format_count(value: float) -> str:
    """A number without decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _exact(value: float) -> Estimate:
    return Estimate(value, math.nan, math.nan)


def measure_volume(aggregate: Aggregate) -> Estimate:
    """Searches per day."""
    return _exact(aggregate.totals.searches / aggregate.days) if aggregate.days else UNKNOWN


def measure_click_through(totals: Totals) -> Estimate:
    """The share of searches with results that have a click."""
    return estimate_share(totals.clicked, totals.with_results)


def measure_position(aggregate: Aggregate, position: int) -> Estimate:
    """The share of the results at a position, from 0, that were clicked."""
    return estimate_share(int(aggregate.clicks[position]), int(aggregate.shown[position]))


def measure_coverage(aggregate: Aggregate) -> Estimate:
    """The share of the catalogue's products that were shown at least once."""
    if not len(aggregate.impressions):
        return UNKNOWN
    return _exact(float((aggregate.impressions > 0).mean()))


def measure_concentration(aggregate: Aggregate) -> Estimate:
    """The share of impressions of the `TOP_SHARE` of the catalogue that is shown most."""
    total = aggregate.impressions.sum()
    if not total:
        return UNKNOWN
    most = math.ceil(TOP_SHARE * len(aggregate.impressions))
    return _exact(float(np.sort(aggregate.impressions)[-most:].sum() / total))


def _measure_latency(percent: int, aggregate: Aggregate) -> Estimate:
    return estimate_latency(aggregate.totals.latencies, percent / 100)


FIGURES: dict[str, Figure] = {
    "searches_per_day": Figure("searches per day", measure_volume, format_count),
    "error_share": Figure(
        "searches that fail",
        lambda part: estimate_share(part.totals.errors, part.totals.searches),
        format_share,
    ),
    **{
        f"latency_ms_p{percent}": Figure(
            f"latency, {percent}th percentile, ms", partial(_measure_latency, percent), format_count
        )
        for percent in (50, 95, 99)
    },
    "empty_share": Figure(
        "searches without a result",
        lambda part: estimate_share(part.totals.empty, part.totals.answered),
        format_share,
    ),
    "click_through": Figure(
        "searches with a click", lambda part: measure_click_through(part.totals), format_share
    ),
    "coverage": Figure("products of the catalogue that were shown", measure_coverage, format_share),
    "concentration": Figure(
        f"impressions of the {100 * TOP_SHARE:g} % of products shown most",
        measure_concentration,
        format_share,
    ),
}


def list_metrics(aggregate: Aggregate) -> dict[str, float]:
    """The figures as metrics for MLflow, also click-through by position; without those that are unknown."""
    values = {name: figure.measure(aggregate).value for name, figure in FIGURES.items()}
    values["searches"] = aggregate.totals.searches
    for position in range(LISTED_POSITIONS):
        values[f"click_through_at_{position + 1}"] = measure_position(aggregate, position).value
    return {name: float(value) for name, value in values.items() if not math.isnan(value)}
