import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys

from eval.metrics import Scores
from eval.pages import data_uri
from eval.people import Agreement, Rating
from eval.rankings import JudgeError
from eval.report import Example, Report, Result, Why, best_other, extremes, render
from eval.segments import Segment
from eval.significance import PairedResult, bootstrap_interval

HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>{{ 7 * 7 }}"""
GRADES = {3: "exact", 2: "substitute", 1: "complement", 0: "irrelevant"}


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, kind)
    return stream.getvalue()


def scores(*ndcg: float) -> Scores:
    values = np.array(ndcg)
    answered = values > 0
    return Scores(
        np.array([f"q{i}" for i in range(len(ndcg))]),
        answered,
        {"ndcg@10": values, "mrr@10": values[::-1] / 2, "judged@10": np.full(len(ndcg), 0.625)},
    )


def report(**changes: object) -> Report:
    results = [
        Result("Red dress", 2.5, 3, picture("JPEG")),
        Result(HOSTILE, 1.5, None, b"<svg onload=alert(3)>"),
        Result("Hat", 0.5, 0, None),
    ]
    example = Example(
        "q0",
        {"fused": results, "text": []},
        {"fused": 0.875, "text": 0.125},
        HOSTILE,
        picture("PNG"),
        HOSTILE,
        Why(
            {"text": 0.25, "image": -0.125},
            [("red", 0.5), (HOSTILE, 0.0)],
            [("dress", -0.25)],
            {"color": ("red", ""), "brand": (HOSTILE, HOSTILE)},
            picture("PNG"),
        ),
    )
    fields: dict = {
        "title": "Fused & friends",
        "subject": "fused",
        "primary": "ndcg@10",
        "systems": {
            "fused": scores(0.9, 0.5, 0.4),
            "text": scores(0.1, 0.5, 0.6),
            HOSTILE: scores(0.3, 0.0, 0.0),
        },
        "comparisons": {
            "text": PairedResult(0.2, 0.25, -0.1, 0.5, 0.95),
            HOSTILE: PairedResult(0.5, 0.0001, 0.4, 0.6, 0.95),
        },
        "segments": {"segment": np.array(["shoe", "dress", "shoe"])},
        "grades": GRADES,
        "won": [example],
        "lost": [Example("q2", {"fused": results, "text": results}, {"fused": 0.4, "text": 0.6})],
    }
    return Report(**(fields | changes))


class Page(HTMLParser):
    """Tags, their attributes, and the text of every table row, list item and heading."""

    BLOCKS = ("tr", "li", "h1", "h2", "h3", "h4", "p", "summary", "dt", "dd")
    VOID = ("meta", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.blocks: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in self.BLOCKS:
            self.blocks.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.blocks and "style" not in self.open:
            tag, text = self.blocks[-1]
            self.blocks[-1] = tag, " ".join(f"{text} {data}".split())

    def texts(self, tag: str) -> list[str]:
        return [text for kind, text in self.blocks if kind == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(report()))


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert page.texts("h1") == ["Fused & friends"]
    assert page.texts("h2") == [
        "How good is each system?",
        "Is fused better, or is it chance?",
        "Where is it good?",
        "Most won",
        "Most lost",
    ]


def interval(*values: float) -> str:
    low, high = bootstrap_interval(np.array(values))
    return f"{low:.3f} to {high:.3f}"


def test_tables_hold_the_numbers(page: Page) -> None:
    rows = page.texts("tr")
    assert rows[:4] == [
        "System ndcg@10 mrr@10 95 % of ndcg@10 judged@10 unanswered",
        f"fused 0.600 0.300 {interval(0.9, 0.5, 0.4)} 62.5 % 0",
        f"text 0.400 0.200 {interval(0.1, 0.5, 0.6)} 62.5 % 0",
        f"{HOSTILE} 0.100 0.050 {interval(0.3, 0.0, 0.0)} 62.5 % 2",
    ]
    assert rows[5] == "text +0.200 −0.100 to +0.500 (95 %) 0.250 1 1 1"
    assert rows[6] == f"{HOSTILE} +0.500 +0.400 to +0.600 (95 %) < 0.001 3 0 0"
    assert rows[8:] == [f"shoe 2 {interval(0.9, 0.4)} 0.650 0.350 0.150", "dress 1 – 0.500 0.500 0.000"]


def test_differences_are_drawn_but_for_draws(page: Page) -> None:
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert figures == ["lost 1, drawn 1, won 1", "lost 0, drawn 0, won 3"]
    bars = [(a["class"], a["height"]) for tag, a in page.tags if tag == "rect"]
    assert bars == [("bad", "56.0"), ("good", "56.0"), *[("good", "56.0")] * 3]


def test_what_people_said() -> None:
    rated = [
        Rating("3", 12, Segment("all", 5, 3.5, 3.0, 4.0)),
        Rating("3", 1, Segment(HOSTILE, 1, 2.0, math.nan, math.nan)),
    ]
    agreed = [
        Agreement("3", "ndcg@10", 5, 0.25, -0.5, 0.75),
        Agreement("4", "ndcg@10", 2, math.nan, math.nan, math.nan),
        Agreement("5", "ndcg@10", 1, math.nan, math.nan, math.nan),
    ]
    page = Page(render(report(ratings=rated, agreements=agreed)))
    rows = page.texts("tr")
    assert "3 all 12 5 3.50 3.000 to 4.000" in rows
    assert f"3 {HOSTILE} 1 1 2.00 –" in rows
    asked = [text for text in page.texts("p") if text.startswith("Does")]
    assert len(asked) == 2
    assert "Kendall’s τ +0.250 (-0.500 to 0.750), over 5 queries" in asked[0]
    assert "Kendall’s τ cannot be told, over 2 queries" in asked[1]


def test_the_best_are_marked_all_of_them() -> None:
    html = render(report())
    assert html.count('<td class="best">0.600</td>') == 1
    assert html.count('<td class="best">0.500</td>') == 2  # both systems, in the segment of the dress
    assert '<td class="best">0.400</td>' not in html


def test_the_first_result_is_explained(page: Page) -> None:
    assert page.texts("summary") == ["Why fused puts Red dress first"], "where there is an explanation"
    words = "red where they speak for it, blue where against"
    assert page.texts("dt") == [
        "Its score of 2.500, without its",
        f"Words of the query, {words}",
        f"Words of the result, {words}",
        "What the query names: what the result has",
    ]
    assert page.texts("dd") == [
        "text −0.250 , image +0.125",
        f"red {HOSTILE}",
        "dress",
        f"color red : nothing ; brand {HOSTILE} : {HOSTILE}",
    ]
    marks = [
        tuple(attributes.get(name) for name in ("class", "style", "title"))
        for tag, attributes in page.tags
        if tag == "mark"
    ]
    assert marks == [
        (None, "--share:60%", "−0.500 without it"),
        (None, "--share:0%", "+0.000 without it"),
        ("against", "--share:30%", "+0.250 without it"),
    ]


def test_results_carry_rank_grade_title_and_score(page: Page) -> None:
    assert page.texts("li")[:4] == [
        "1 exact Red dress score 2.500",
        f"no picture 2 not judged {HOSTILE} score 1.500",
        "no picture 3 irrelevant Hat score 0.500",
        "no results",
    ]
    assert page.texts("h3") == [HOSTILE, "Search by picture"]
    assert page.texts("h4")[:2] == ["fused ndcg@10 0.875", "text ndcg@10 0.125"]


def test_nothing_hostile_gets_through(page: Page) -> None:
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "div"),
        *("h1", "h2", "h3", "h4", "p", "strong", "span", "bdi", "i", "b", "ol", "li", "img"),
        *("table", "thead", "tbody", "tr", "th", "td"),
        *("details", "summary", "dl", "dt", "dd", "mark"),
        *("figure", "figcaption", "svg", "rect", "line"),
    }
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nothing_is_fetched(page: Page) -> None:
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert (
        len(sources) == 5
    )  # three JPEGs of results, PNGs of the query and the overlay; the SVG is not shown
    assert all(re.match(r"data:image/(jpeg|png);base64,", source) for source in sources)
    assert "default-src 'none'" in str(page.tags)
    assert not [
        name for _, attributes in page.tags for name in attributes if name in ("href", "srcset", "action")
    ]
    assert "url(" not in render(report())
    assert "@import" not in render(report())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_pictures_are_told_by_their_bytes(kind: str) -> None:
    uri = data_uri(picture(kind))
    assert uri is not None
    head, _, body = uri.partition(",")
    assert head == f"data:image/{kind.lower()};base64"
    assert base64.b64decode(body) == picture(kind)


@pytest.mark.parametrize("data", [None, b"", b"<svg/>", b"RIFF0000WAVE", b"\xff\xd8"])
def test_what_is_no_picture_is_left_out(data: bytes | None) -> None:
    assert data_uri(data) is None


def test_one_system_alone_and_no_examples() -> None:
    page = Page(render(report(systems={"fused": scores(0.0, 1.0, 0.5)}, comparisons={}, won=[], lost=[])))
    assert page.texts("h2") == ["How good is each system?", "Where is it good?"]


def test_grades_of_other_scales() -> None:
    example = Example("q", {"fused": [Result("a", 1.0, 1), Result("b", 0.5, 0.5)]}, {"fused": 1.0})
    page = Page(render(report(grades={1: "relevant", 0: "not relevant"}, won=[example], lost=[])))
    assert page.texts("li") == ["no picture 1 relevant a score 1.000", "no picture 2 grade 0.5 b score 0.500"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "other"}, "'other' is not among the systems fused, text"),
        ({"comparisons": {HOSTILE: PairedResult(0, 1, 0, 0, 0.95)}}, "'fused' is not compared with 'text'"),
        ({"segments": {"kind": np.array(["a"])}}, "1 segments for 3 queries"),
        ({"systems": {"fused": scores(1.0, 0.0), "text": scores(1.0)}}, "'text' was judged on other queries"),
    ],
)
def test_reports_that_do_not_add_up(changes: dict, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        render(report(**changes))


def test_the_best_other_system() -> None:
    systems = {"fused": scores(1.0, 1.0), "a": scores(0.2, 0.2), "b": scores(0.3, 0.3)}
    assert best_other(systems, "fused", "ndcg@10") == "b"


def test_extremes() -> None:
    ours, theirs = scores(0.5, 0.9, 0.2, 0.5, 0.0), scores(0.5, 0.4, 0.8, 0.0, 0.1)
    assert extremes(ours, theirs, "ndcg@10", 5) == (["q1", "q3"], ["q2", "q4"])
    assert extremes(ours, theirs, "ndcg@10", 1) == (["q1"], ["q2"])


# In a browser


@pytest.fixture(params=[390, 1400])
def shown(browser: Chrome, request: pytest.FixtureRequest, tmp_path: Path) -> Chrome:
    size = {"width": request.param, "height": 844, "deviceScaleFactor": 1, "mobile": request.param < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    (tmp_path / "report.html").write_text(render(report()), encoding="utf-8")
    for log in ("browser", "performance"):
        browser.get_log(log)  # of pages before
    browser.get((tmp_path / "report.html").as_uri())
    return browser


def test_nothing_runs_over_the_edge(shown: Chrome) -> None:
    beyond = """
        const wide = document.documentElement.clientWidth;
        return [...document.querySelectorAll('body *')]
          .filter(e => !e.closest('.wide, .strip') && e.getBoundingClientRect().right > wide + 0.5)
          .map(e => e.outerHTML.slice(0, 80))"""
    assert shown.execute_script(beyond) == []
    assert shown.execute_script("const d = document.documentElement; return d.scrollWidth <= d.clientWidth")


def test_text_is_large_and_clear_enough_to_read(shown: Chrome) -> None:
    """At least 12 pixels, and a contrast of at least 4.5, as WCAG 2.2 asks for (1.4.3)."""
    poor = """
        const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const rgb = text => text.match(/[\\d.]+/g).map(Number);
        const ground = e => { const c = rgb(getComputedStyle(e).backgroundColor);
          return c.length < 4 ? c : ground(e.parentElement) };
        return [...document.querySelectorAll('body *')]
          .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.checkVisibility()
            && !e.closest('svg, mark'))
          .map(e => { const s = getComputedStyle(e);
            const l = [rgb(s.color).slice(0, 3), ground(e)].map(light).sort((a, b) => b - a);
            return [e.outerHTML.slice(0, 60), parseFloat(s.fontSize), (l[0] + 0.05) / (l[1] + 0.05)] })
          .filter(([_, size, contrast]) => size < 12 || contrast < 4.5)"""
    assert shown.execute_script(poor) == []


def test_the_keyboard_reaches_everything_that_moves(shown: Chrome) -> None:
    reached = []
    for _ in range(60):
        ActionChains(shown).send_keys(Keys.TAB).perform()
        name = shown.execute_script(
            "const e = document.activeElement; return e === document.body ? '' : e.tagName + e.className"
        )
        if name.startswith("SUMMARY"):
            ActionChains(shown).send_keys(Keys.ENTER).perform()
        reached.append(name)
    assert shown.execute_script("return document.querySelector('details').open")
    moving = """
        return [...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth
          && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map(e => e.tagName + e.className)"""
    assert set(shown.execute_script(moving)) <= set(reached)


def test_pictures_show_and_nothing_else_is_loaded(shown: Chrome) -> None:
    shown.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    sizes = shown.execute_script("return [...document.images].map(one => one.naturalWidth)")
    assert sizes == [4] * 5
    asked = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    sent = [one["params"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    urls = {one["request"]["url"] for one in sent if one["documentURL"] == shown.current_url}
    assert shown.current_url in urls
    assert [url for url in urls - {shown.current_url} if not url.startswith("data:")] == []
    assert shown.get_log("browser") == []
