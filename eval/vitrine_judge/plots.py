"""Plots as inline SVG, drawn by matplotlib: in the colours of the page, without scripts and requests."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Narrow enough for a phone at full size; on a wider screen the page scales it up.
WIDTH, ROW, TOP, AXIS = 340, 36, 6, 20  # pixels
SEQUENCE_ROWS = 4  # height of a plot over time, with the line of numbers
LABEL = 26  # characters of a label that fit in the line with the numbers
# matplotlib knows no CSS variables: it draws in these unique colours, which are then replaced by variables.
COLOURS = {
    "ink": "#010101",
    "soft": "#020202",
    "good": "#030303",
    "bad": "#040404",
    "line": "#050505",
    "accent": "#060606",
}
# Removed: the description of the file, style rules that apply to the whole page, and matplotlib's font.
UNWANTED = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;\"]*;?", re.DOTALL)
IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')

Tone = Literal["good", "bad", "soft", "accent"]


@dataclass(frozen=True)
class Estimate:
    """A line of a forest plot.

    Attributes:
        label: Name of the line.
        value: The estimate.
        low, high: Its interval; NaN for no interval.
        tone: Its colour, by meaning.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    tone: Tone = "soft"

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; without one, the value twice."""
        return (self.value, self.value) if math.isnan(self.low) else (self.low, self.high)


def difference_tone(low: float, high: float) -> Tone:
    """The colour of a difference: good above zero, bad below, soft if its interval contains zero or is missing."""
    return "good" if low > 0 else "bad" if high < 0 else "soft"


def forest(
    estimates: Sequence[Estimate],
    name: str,
    summary: str,
    signed: bool = True,
    limit: float | None = None,
) -> Markup:
    """A forest plot: each line has a label, the estimate and interval as numbers, and a drawing of both below.

    Args:
        estimates: From top to bottom; at least one.
        name: Unique on the page; letters, digits and hyphens.
        summary: Description for screen readers.
        signed: Whether the values are differences, which get a sign and a mark at zero.
        limit: A value to mark with a dashed line.

    Returns:
        An `svg` element.
    """
    with _plot(len(estimates), name, summary) as (axes, result):
        _scale(axes, estimates, signed, limit)
        for row, estimate in enumerate(estimates):
            _draw(axes, row, estimate, signed)
    return result[0]


def paired_bars(
    labels: Sequence[str], before: np.ndarray, after: np.ndarray, name: str, summary: str
) -> Markup:
    """Two bars per line, one below the other, with a label and both shares as numbers.

    Args:
        labels: From top to bottom; at least one.
        before, after: Shares, float (N,), in [0, 1].
        name: Unique on the page; letters, digits and hyphens.
        summary: Description for screen readers.

    Returns:
        An `svg` element.
    """
    with _plot(len(labels), name, summary, axis=0) as (axes, result):
        axes.set_xlim(0, max(before.max(), after.max()) or 1)
        axes.set_xticks([])
        rows = np.arange(len(labels))
        axes.barh(rows + 0.6, before, height=0.16, color=COLOURS["soft"])
        axes.barh(rows + 0.78, after, height=0.16, color=COLOURS["accent"])
        for row, label in enumerate(labels):
            _write(axes, row, label, f"{100 * before[row]:.1f} % → {100 * after[row]:.1f} %", "ink")
    return result[0]


def sequence(
    labels: Sequence[str], estimates: Sequence[Estimate], name: str, summary: str, limit: float = 0.0
) -> Markup:
    """Differences that change over time, as a line in the band of their intervals; the last one as numbers.

    Early intervals may be wide: the plot shows twice the range of the last one and cuts off the rest.

    Args:
        labels: Of the points in time; the first and the last are drawn.
        estimates: One per point in time, with intervals; at least one.
        name: Unique on the page; letters, digits and hyphens.
        summary: Description for screen readers.
        limit: A value to mark with a dashed line, if it is not 0.

    Returns:
        An `svg` element.
    """
    last, points = estimates[-1], estimates if len(estimates) > 1 else [*estimates] * 2
    bottom, top = min(0.0, limit, last.low), max(0.0, limit, last.high)
    margin = (top - bottom) / 2 or 0.01

    def place(values: Sequence[float]) -> np.ndarray:  # counted downwards, as rows are
        heights = (top + margin - np.array(values)) / (top - bottom + 2 * margin)
        return np.asarray(0.6 + np.clip(heights, 0, 1) * (SEQUENCE_ROWS - 0.7))

    lows, means, highs = (
        place(values)
        for values in zip(*((point.low, point.value, point.high) for point in points), strict=True)
    )
    with _plot(SEQUENCE_ROWS, name, summary) as (axes, result):
        _write(axes, 0, last.label, _in_numbers(last, signed=True), last.tone)
        steps = np.arange(len(points))
        axes.fill_between(steps, lows, highs, color=COLOURS["line"], linewidth=0)
        axes.plot(steps, means, color=COLOURS[last.tone], linewidth=2)
        axes.plot(steps[-1:], means[-1:], "o", color=COLOURS[last.tone], markersize=5, clip_on=False)
        for value, style in {0.0: "solid", limit: "dashed" if limit else "solid"}.items():
            axes.axhline(float(place([value])[0]), color=COLOURS["ink"], linewidth=1, linestyle=style)
        axes.set_xlim(0, steps[-1])
        axes.set_xticks(
            steps[[0, -1]][-len(labels) :], [_printable(label) for label in labels[:: len(labels) - 1 or 1]]
        )
        axes.tick_params(axis="x", length=0, labelsize=10, labelcolor=COLOURS["soft"], pad=2)
        dates = axes.get_xticklabels()
        dates[0].set_horizontalalignment("left")
        dates[-1].set_horizontalalignment("right")
    return result[0]


@contextmanager
def _plot(rows: int, name: str, summary: str, axis: int = AXIS) -> "Iterator[tuple[Axes, list[Markup]]]":
    """Axes of `rows` lines, counted from the top. After the `with` block the list holds the `svg` element."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    height = TOP + ROW * rows + axis
    result: list[Markup] = []
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11}),
        warnings.catch_warnings(),
    ):
        figure = Figure(figsize=(WIDTH / 72, height / 72), frameon=False)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.03, axis / height, 0.94, 1 - (axis + TOP) / height), frameon=False)
        axes.set_ylim(rows, 0)
        axes.set_yticks([])
        yield axes, result
        stream = io.StringIO()
        # the page draws the text in its own font, so a glyph missing from matplotlib's font does not matter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator")))
        result.append(_inline(stream.getvalue(), name, summary))


def _scale(axes: "Axes", estimates: Sequence[Estimate], signed: bool, limit: float | None) -> None:
    ends = [end for estimate in estimates for end in estimate.ends]
    marks = [(0.0, "solid")] * signed + ([(limit, (0, (2, 2)))] if limit is not None else [])
    low, high = (extreme([*ends, *(x for x, _ in marks)]) for extreme in (min, max))
    margin = 0.03 * (high - low) or 0.05
    axes.set_xlim(low - margin, high + margin)
    ticks = [0.0] if signed else [low]
    # closer labels would overlap
    ticks += [end for end in (low, high) if all(abs(end - tick) > 0.2 * (high - low) for tick in ticks)]
    axes.set_xticks(ticks, [_number(tick, signed) for tick in ticks])
    axes.tick_params(axis="x", length=0, labelsize=10, labelcolor=COLOURS["soft"], pad=2)
    for row in range(len(estimates)):  # next to the intervals only, not through the text
        for x, style in marks:
            axes.plot([x] * 2, [row + 0.5, row + 0.86], color=COLOURS["ink"], linewidth=1, linestyle=style)


def _draw(axes: "Axes", row: int, estimate: Estimate, signed: bool) -> None:
    colour = COLOURS[estimate.tone]
    _write(axes, row, estimate.label, _in_numbers(estimate, signed), estimate.tone)
    if not math.isnan(estimate.low):
        axes.plot(
            estimate.ends,
            [row + 0.68] * 2,
            color=colour,
            linewidth=2.5,
            solid_capstyle="round",
            clip_on=False,
        )
    axes.plot([estimate.value], [row + 0.68], "o", color=colour, markersize=6, clip_on=False)


def _write(axes: "Axes", row: int, label: str, numbers: str, tone: str) -> None:
    text: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "baseline", "parse_math": False}
    short = label if len(label) <= LABEL else label[: LABEL - 1] + "…"
    axes.text(0, row + 0.42, _printable(short), ha="left", color=COLOURS["ink"], **text)
    axes.text(1, row + 0.42, numbers, ha="right", color=COLOURS[tone], **text)


def _in_numbers(estimate: Estimate, signed: bool) -> str:
    value = _number(estimate.value, signed)
    if math.isnan(estimate.low):
        return value
    return f"{value} ({_number(estimate.low, signed)} to {_number(estimate.high, signed)})"


def _number(value: float, signed: bool) -> str:
    return (f"{value + 0.0:+.3f}" if signed else f"{value:.3f}").replace("-", "−")


def _printable(text: str) -> str:
    """The text without characters that XML forbids."""
    return "".join(character if character.isprintable() else " " for character in text)


def _inline(svg: str, name: str, summary: str) -> Markup:
    """An SVG file of matplotlib as an element of a page: no header, no size, and identifiers unique on the page."""
    svg = svg[svg.index("<svg") :]
    for title, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{title})")
    svg = UNWANTED.sub("", svg)
    svg = IDENTIFIER.sub(rf"\g<1>{name}-", svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    opening = f'<svg class="plot" role="img" aria-label="{escape(summary)}" {view[0] if view else ""}>'
    return Markup(opening + body)  # noqa: S704 - matplotlib escapes the texts
