import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.plots import LABEL, Estimate, difference_tone, forest, paired_bars

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = """<script>alert(1)</script>$x^2$ & "quoted" {{ 7 * 7 }}"""
values = st.floats(-1, 1, allow_nan=False)


def parse(svg: str) -> ElementTree.Element:
    """As XML; an HTML page needs no namespaces, a parser does."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return ElementTree.fromstring(str(svg).replace("<svg", head, 1))  # noqa: S314 - our own


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter(f"{SVG}text")]


def test_labels_and_numbers_can_be_read() -> None:
    plot = forest([Estimate("champion", 0.0125, -0.25, 0.5), Estimate("few", -1.0)], "a", "Two lines")
    assert {"champion", "+0.013 (−0.250 to +0.500)", "few", "−1.000"} <= set(texts(plot))
    assert parse(plot).get("aria-label") == "Two lines"
    unsigned = forest([Estimate("bm25", 0.5, 0.25, 0.75)], "a", "", signed=False)
    assert "0.500 (0.250 to 0.750)" in texts(unsigned)


def test_bars_have_both_shares() -> None:
    plot = paired_bars(["shoes", "none"], np.array([0.25, 0.75]), np.array([0.5, 0.5]), "b", "Shares")
    assert {"shoes", "25.0 % → 50.0 %", "none", "75.0 % → 50.0 %"} <= set(texts(plot))


@given(st.lists(st.tuples(st.text(), values, values, values), min_size=1, max_size=5))
def test_any_texts_and_numbers_give_a_plot(rows: list[tuple[str, float, float, float]]) -> None:
    estimates = [Estimate(label, middle, *sorted((low, high))) for label, middle, low, high in rows]
    assert parse(forest(estimates, "a", "any")) is not None


@pytest.mark.filterwarnings("error")
def test_labels_of_any_script_are_drawn_without_a_warning() -> None:
    assert "裙子 платье" in texts(forest([Estimate("裙子 платье", 0.5)], "a", ""))


def test_what_is_hostile_stays_a_text() -> None:
    plot = forest([Estimate(HOSTILE, 0.5)], "a", HOSTILE)
    assert HOSTILE[: LABEL - 1] + "…" in texts(plot)
    assert {element.tag.removeprefix(SVG) for element in parse(plot).iter()} <= {
        "svg", "g", "path", "text", "use", "defs", "clipPath", "rect",
    }  # fmt: skip


def test_two_plots_of_a_page_share_no_identifier_and_ask_for_nothing() -> None:
    plots = [forest([Estimate("a", 0.5, 0.0, 1.0)], name, "") for name in ("one", "two")]
    names = [re.findall(r'\bid="([^"]*)"', plot) for plot in plots]
    assert names[0] and not set(names[0]) & set(names[1])
    for plot, known in zip(plots, names, strict=True):
        references = re.findall(r'(?:href="|url\()#([^")]*)', plot)
        assert references and set(references) <= set(known)
        assert not re.search(r"(?:href=\"|url\()(?!#)|<style|font-family", plot)


def test_colours_are_the_pages_own() -> None:
    plot = forest([Estimate("a", 0.5, 0.25, 1.0, "good"), Estimate("b", -0.5, -1.0, 0.0, "bad")], "a", "")
    assert set(re.findall(r"(?:fill|stroke): (?!none|var)([^;\"]+)", plot)) == set()
    assert {"var(--good)", "var(--bad)", "var(--ink)", "var(--soft)"} <= set(
        re.findall(r"var\([^)]*\)", plot)
    )


def test_the_same_plot_is_the_same_bytes() -> None:
    first, second = (forest([Estimate("a", 0.5, 0.25, 1.0)], "a", "") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("low", "high", "tone"),
    [(0.1, 0.2, "good"), (-0.2, -0.1, "bad"), (-0.1, 0.1, "soft"), (0.0, 0.1, "soft")],
)
def test_a_difference_has_a_colour_only_beyond_chance(low: float, high: float, tone: str) -> None:
    assert difference_tone(low, high) == tone
    assert difference_tone(math.nan, math.nan) == "soft"
