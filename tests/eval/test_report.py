import base64
import csv
import html
import io
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from vitrine_judge.decision import Decision, Finding
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import Scores
from vitrine_judge.online import Day, OnlineResult, OnlineRule
from vitrine_judge.pages import data_uri
from vitrine_judge.people import Agreement, Rating
from vitrine_judge.report import (
    Example,
    FrequentQuery,
    Report,
    Result,
    ResultExplanation,
    best_other,
    most_changed_queries,
    render,
)
from vitrine_judge.review import Review, Version, compare_costs
from vitrine_judge.segments import INTERVAL_QUERIES, Segment
from vitrine_judge.significance import PairedResult, mean_interval

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
        ResultExplanation(
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
            "text": PairedResult(0.2, 0.25, -0.1, 0.5, 0.95, 100.0),
            HOSTILE: PairedResult(0.5, 0.0001, 0.4, 0.6, 0.95, 100.0),
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
    VOID = ("meta", "img", "br", "source")

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

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

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


ONLINE = (
    OnlineResult("interleaving", (Day("2026-11-01", 10, 80, 10), Day("2026-11-02", 50, 500, 250))),
    OnlineRule(),
)


def decision(verdict: str = "failed") -> Decision:
    return Decision(
        (
            Finding("floor ndcg@10", "passed", "ndcg@10 is 0.6; at least 0.3 is required."),
            Finding("gain ndcg@10", verdict, "ndcg@10 did not improve."),
            Finding("segment shoe", "undecided", "Not enough queries of 'shoe'."),
        )[: 3 if verdict == "failed" else 2]
    )


def review(**changes: object) -> Review:
    fields: dict = {
        "model": "product-search",
        "candidate": Version("7", "2026-11-28 20:01 UTC"),
        "champion": Version("5", "2026-11-02 08:30 UTC"),
        "decision": decision(),
        "aliases": [],
        "costs": compare_costs(
            {"latency_ms_p95": 12.0, "model_mb": 32.0}, {"latency_ms_p95": 10.0, "model_mb": 32.0}
        ),
        "data": ["+120 products", "Drift 0.02."],
        "link": "http://127.0.0.1:5000/#/models/product-search/versions/7",
    }
    return Review(**(fields | changes))


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert page.texts("h1") == ["Fused & friends"]
    assert page.texts("h2") == [
        "ndcg@10 against its rivals",
        "Differences by segment",
        "Queries with the largest gain against text",
        "Queries with the largest loss against text",
        "Every system",
        "Tables",
    ]


def test_tables_hold_the_numbers(page: Page) -> None:
    rows = page.texts("tr")
    assert rows[:4] == [
        "System ndcg@10 mrr@10 ndcg@10: 95 % from to judged@10 unanswered",
        "fused 0.600 0.300 – – 62.5 % 0",
        "text 0.400 0.200 – – 62.5 % 0",
        f"{HOSTILE} 0.100 0.050 – – 62.5 % 2",
    ]
    assert rows[5] == "text +0.200 −0.100 +0.500 0.250 1 1 1"
    assert rows[6] == f"{HOSTILE} +0.500 +0.400 +0.600 < 0.001 3 0 0"
    assert rows[8:] == [
        "shoe queries 2 – – 0.650 0.350 0.150",
        "dress queries 1 – – 0.500 0.500 0.000",
    ]


def test_a_group_of_enough_queries_has_an_interval_and_a_smaller_one_has_none() -> None:
    values = np.linspace(0, 1, INTERVAL_QUERIES + 4)
    groups = np.array(["many"] * INTERVAL_QUERIES + ["few"] * 4)
    systems = {"fused": scores(*values), "text": scores(*values[::-1])}
    tests = {"text": PairedResult(0.2, 0.25, -0.1, 0.5, 0.95, 100.0)}
    html = render(report(systems=systems, comparisons=tests, segments={"segment": groups}, won=[], lost=[]))
    low, high = mean_interval(values[:INTERVAL_QUERIES], (0.0, 1.0))
    rows = Page(html).texts("tr")
    assert f"many queries {INTERVAL_QUERIES} {low:.3f} {high:.3f}" in " ".join(rows)
    assert "few queries 4 – –" in " ".join(rows)
    (plot,) = (svg for svg in html.split("<svg") if 'aria-label="fused minus text, by segment' in svg)
    assert plot[: plot.index("</svg>")].count(" to ") == 1, "the numbers of one interval"


def test_every_table_can_be_copied_as_csv() -> None:
    page = render(report(segments={"segment": np.array(["=1+1", "dress", "=1+1"])}))
    texts = [
        html.unescape(text) for text in re.findall(r'<pre class="csv"[^>]*>(.*?)</pre>', page, re.DOTALL)
    ]
    tables = [list(csv.reader(io.StringIO(text))) for text in texts]
    assert [table[0][0] for table in tables] == ["System", "Against", "segment"]
    assert tables[0][1][:3] == ["fused", "0.6", "0.3"]
    assert float(tables[1][2][4]) == 0.0001, "in full precision"
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    assert all(not cell.startswith("=") for table in tables for row in table for cell in row)


def test_segments_never_share_a_name_with_a_system() -> None:
    page = Page(render(report(segments={"segment": np.array(["text", "fused", "text"])})))
    first_cells = [row.rpartition(" queries")[0] for row in page.texts("tr") if " queries " in row]
    assert "text" in first_cells and "fused" in first_cells
    assert not [row for row in page.texts("tr")[7:] if row.startswith(("text 2", "fused 1"))]


def test_what_people_say() -> None:
    rated = [
        Rating("3", 12, Segment("all", 25, 3.5, 3.0, 4.0)),
        Rating("3", 1, Segment(HOSTILE, 1, 2.0, math.nan, math.nan)),
    ]
    agreed = [
        Agreement("3", "ndcg@10", 5, 0.25, -0.5, 0.75),
        Agreement("4", "ndcg@10", 2, math.nan, math.nan, math.nan),
        Agreement("5", "ndcg@10", 1, math.nan, math.nan, math.nan),
    ]
    page = Page(render(report(ratings=rated, agreements=agreed)))
    rows = page.texts("tr")
    assert "3 all queries 12 25 3.50 3.000 4.000" in rows
    assert f"3 {HOSTILE} queries 1 1 2.00 – –" in rows
    lines = [text for text in page.texts("p") if text.startswith("Rank correlation")]
    assert len(lines) == 2
    assert "Kendall’s τ +0.250 (-0.500 to 0.750), over 5 queries" in lines[0]
    assert "Kendall’s τ is undefined, as all values are equal, over 2 queries" in lines[1]


def test_the_best_are_marked_all_of_them() -> None:
    html = render(report())
    assert html.count('<td class="best"><bdi>0.600</bdi></td>') == 1
    assert html.count('<td class="best"><bdi>0.500</bdi></td>') == 2  # both systems, for the dress
    assert '<td class="best"><bdi>0.400</bdi></td>' not in html


def test_the_first_result_is_explained_in_sentences(page: Page) -> None:
    assert "Why fused puts Red dress first" in page.texts("summary"), "where there is an explanation"
    sentences = page.texts("p")
    assert "It matches mainly through its text." in sentences
    assert "The words that matter most: “red”." in sentences
    assert "The query names the color “red”; the text of the product names no color." in sentences
    assert f"Both name the brand “{HOSTILE}”." in sentences
    assert "Score 2.500. Without its text: 2.250, image: 2.625." in sentences
    marks = [(a.get("class"), a.get("style")) for tag, a in page.tags if tag == "mark"]
    assert marks == [(None, "--share:60%"), (None, "--share:0%"), ("against", "--share:30%")]


def test_results_carry_rank_grade_title_and_score(page: Page) -> None:
    items = [text for text in page.texts("li") if "score" in text or text == "no results"]
    assert items[:4] == [
        "1 exact Red dress score 2.500",
        f"no picture 2 not judged {HOSTILE} score 1.500",
        "no picture 3 irrelevant Hat score 0.500",
        "no results",
    ]
    assert page.texts("h3") == [HOSTILE, "Search by picture"]
    assert page.texts("h4")[:2] == ["fused ndcg@10 0.875", "text ndcg@10 0.125"]


def test_a_clip_moves_unless_the_reader_wants_no_motion() -> None:
    result = Result("Fan", 1.0, 3, picture("JPEG"), picture("WEBP"))
    page = Page(render(report(won=[Example("q", {"fused": [result]}, {"fused": 1.0})], lost=[])))
    (still,) = (a for tag, a in page.tags if tag == "source")
    assert still["media"] == "(prefers-reduced-motion: reduce)"
    assert str(still["srcset"]).startswith("data:image/jpeg")
    assert [str(a["src"])[:15] for tag, a in page.tags if tag == "img"] == ["data:image/webp"]


# The decision page


def test_the_verdict_stands_first_and_what_failed_before_what_passed() -> None:
    page = Page(render(report(review=review())))
    assert page.texts("h1") == ["Do not promote version 7"]
    items = page.texts("li")
    assert items[:3] == [
        "ndcg@10 did not improve.",
        "Not enough queries of 'shoe'.",
        "ndcg@10 is 0.6; at least 0.3 is required.",
    ]


@pytest.mark.parametrize(
    ("verdict", "aliases", "headline"),
    [
        ("failed", [], "Do not promote version 7"),
        ("undecided", [], "Do not promote version 7 yet"),
        ("passed", ["challenger"], "Version 7 may be promoted"),
        ("passed", ["champion"], "Version 7 is the champion now"),
    ],
)
def test_the_headline_is_the_verdict_in_words(verdict: str, aliases: list[str], headline: str) -> None:
    page = render(report(review=review(decision=decision(verdict), aliases=aliases)))
    assert Page(page).texts("h1") == [headline]
    override = "promote 7 --force" in page
    assert override == (verdict != "passed")


QUESTIONS = {  # of a reviewer → what answers it
    "verdict": "Gate failed",
    "why": "ndcg@10 did not improve.",
    "which version": "product-search: version 7, registered 2026-11-28 20:01 UTC",
    "since when is the champion that": "champion is version 5, since 2026-11-02 08:30 UTC",
    "worst segment": "Worst segment none is worse",
    "which queries changed": "Queries that differ from text 1 better, 1 worse",
    "cost": "12 ms champion 10 ms, +20 %",
    "data": "+120 products",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_on_the_first_screen(browser: Chrome, tmp_path: Path, question: str) -> None:
    text = first_screen(browser, tmp_path)
    assert QUESTIONS[question] in text


def first_screen(browser: Chrome, tmp_path: Path) -> str:
    """What stands within the first 844 pixels of a page 1400 wide."""
    values = [0.9] * 12 + [0.5] * 12 + [0.4]
    systems = {"fused": scores(*values), "text": scores(0.1, *values[1:24], 0.6)}
    tests = {"text": PairedResult(0.02, 0.25, -0.1, 0.1, 0.95, 100.0)}
    groups = {"segment": np.array(["shoe"] * 24 + ["dress"])}
    page = report(
        systems=systems, comparisons=tests, segments=groups, review=review(), rivals=["text"], won=[], lost=[]
    )
    (tmp_path / "decision.html").write_text(render(page), encoding="utf-8")
    size = {"width": 1400, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "decision.html").as_uri())
    seen = """
        return [...document.querySelectorAll('h1, p, li, svg')].filter(e => e.getBoundingClientRect().bottom <= 844)
          .map(e => e.textContent.split(/\\s+/).join(' ').trim()).join('\\n')"""
    return browser.execute_script(seen)


@pytest.mark.parametrize("anchor", ["promote", "data", "cost", "systems", "examples"])
def test_the_rest_is_a_click_away(anchor: str) -> None:
    page = Page(render(report(review=review())))
    assert f"#{anchor}" in [a.get("href") for tag, a in page.tags if tag == "a"]
    assert anchor in [a.get("id") for _, a in page.tags]


def test_what_customers_prefer_is_shown_where_it_is_known() -> None:
    page = Page(render(report(review=review(online=ONLINE))))
    assert "What customers prefer" in page.texts("h2")
    assert any(row.startswith("2026-11-02 250 500 50 +0.222") for row in page.texts("tr"))
    assert "What customers prefer" not in render(report(review=review()))


def test_how_to_promote_and_how_to_undo() -> None:
    page = render(report(review=review()))
    assert "python -m registry promote 7 --force --reason" in page
    assert "python -m registry rollback" in page
    assert 'href="http://127.0.0.1:5000/#/models/product-search/versions/7"' in page


def test_the_most_frequent_queries_are_shown_where_frequencies_are_known() -> None:
    frequent = [FrequentQuery(HOSTILE, 1200, 0.75, 1.0), FrequentQuery("mug", 9, 0.5, 0.5)]
    rows = Page(render(report(frequent=frequent))).texts("tr")
    assert f"{HOSTILE} 1,200 0.750 1.000 −0.250" in rows and "mug 9 0.500 0.500 +0.000" in rows
    tiles = Page(render(report(frequent=frequent))).texts("li")
    assert "The 2 most frequent queries 0 better, 1 worse than text" in tiles
    assert "most frequent queries" not in render(report())


# Safety


def test_nothing_hostile_gets_through() -> None:
    page = Page(render(report(review=review(model=HOSTILE, data=[HOSTILE]))))
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "link", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "49" not in page.texts("h1")[0], "a template within a text is a text"


def test_nothing_is_fetched(page: Page) -> None:
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert (
        len(sources) == 5
    )  # three JPEGs of results, PNGs of the query and the overlay; the SVG is not shown
    assert all(re.match(r"data:image/(jpeg|png);base64,", source) for source in sources)
    assert "default-src 'none'" in str(page.tags)
    links = [
        value
        for _, a in page.tags
        for name, value in a.items()
        if name in ("href", "srcset", "action", "xlink:href")
    ]
    assert all(str(link).startswith("#") for link in links)
    assert not re.search(r"url\((?!#)", render(report()))
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
    assert page.texts("h2") == ["Differences by segment", "Every system", "Tables"]


def test_without_rivals_the_worst_segment_has_the_lowest_mean() -> None:
    values = [0.75] * INTERVAL_QUERIES + [0.25] * INTERVAL_QUERIES
    groups = {"segment": np.repeat(["shoe", "dress"], INTERVAL_QUERIES)}
    html = render(
        report(systems={"fused": scores(*values)}, comparisons={}, segments=groups, won=[], lost=[])
    )
    assert "Worst segment dress queries 0.250" in Page(html).texts("li")


def test_other_sources_of_judgements_have_a_table() -> None:
    clicks = {"fused": scores(0.5, 0.25), "text": scores(0.75, 0.0), HOSTILE: scores(0.75, 0.0)}
    page = Page(render(report(judged_by="human", scores_by_judge={"implicit": clicks})))
    assert "3 judged queries (human), 3 systems." in page.texts("p")[0]
    assert "ndcg@10 by source of judgements" in page.texts("summary")
    assert page.texts("tr")[-1] == "implicit 2 – – 0.375 0.375 0.375"


def test_grades_of_other_scales() -> None:
    example = Example("q", {"fused": [Result("a", 1.0, 1), Result("b", 0.5, 0.5)]}, {"fused": 1.0})
    page = Page(render(report(grades={1: "relevant", 0: "not relevant"}, won=[example], lost=[])))
    items = [text for text in page.texts("li") if "score" in text]
    assert items == ["no picture 1 relevant a score 1.000", "no picture 2 grade 0.5 b score 0.500"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "other"}, "'other' is not among the systems fused, text"),
        (
            {"comparisons": {HOSTILE: PairedResult(0, 1, 0, 0, 0.95, 100.0)}},
            "'fused' is not compared with 'text'",
        ),
        ({"segments": {"kind": np.array(["a"])}}, "1 segments for 3 queries"),
        (
            {"systems": {"fused": scores(1.0, 0.0), "text": scores(1.0)}},
            "'text' and 'fused' were scored on different queries",
        ),
        ({"rivals": ["bm25"]}, "the rival 'bm25' has no comparison; known are text"),
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
    alike = np.full(5, "shoe")
    assert most_changed_queries(ours, theirs, "ndcg@10", alike, 5) == (["q1", "q3"], ["q2", "q4"])
    assert most_changed_queries(ours, theirs, "ndcg@10", alike, 1) == (["q1"], ["q2"])


def test_extremes_are_of_every_kind_before_a_second_of_one() -> None:
    ours, theirs = scores(0.9, 0.8, 0.7, 0.1, 0.2), scores(0.0, 0.0, 0.0, 0.0, 0.0)
    kinds = np.array(["shoe", "shoe", "shoe", "dress", "hat"])
    assert most_changed_queries(ours, theirs, "ndcg@10", kinds, 4)[0] == ["q0", "q4", "q3", "q1"]


def test_among_equal_gains_the_one_on_all_metrics_comes_first() -> None:
    ours = Scores(
        np.array(["a", "b"]), np.ones(2, bool), {"ndcg@10": np.ones(2), "mrr@10": np.array([0.0, 1.0])}
    )
    theirs = Scores(np.array(["a", "b"]), np.ones(2, bool), {"ndcg@10": np.zeros(2), "mrr@10": np.zeros(2)})
    assert most_changed_queries(ours, theirs, "ndcg@10", np.array(["x", "x"]), 2)[0] == ["b", "a"]


# In a browser


@pytest.fixture(params=["report", "decision"])
def shown(
    browser: Chrome,
    width: int,
    requested: Callable[[], list[str]],  # the log of earlier pages is read before this one opens
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> Chrome:
    page = (
        report()
        if request.param == "report"
        else report(review=review(online=ONLINE), rivals=["text", HOSTILE])
    )
    (tmp_path / "report.html").write_text(render(page), encoding="utf-8")
    browser.get_log("browser")  # of pages before
    browser.get((tmp_path / "report.html").as_uri())
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(shown: Chrome, axe: Callable[[], list[str]], scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    shown.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert axe() == []
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_runs_over_the_edge(shown: Chrome) -> None:
    beyond = """
        const wide = document.documentElement.clientWidth;
        return [...document.querySelectorAll('body *')]
          .filter(e => !e.closest('.wide, .strip, pre') && e.getBoundingClientRect().right > wide + 0.5)
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
    reached: list[str] = []
    for _ in range(200):
        ActionChains(shown).send_keys(Keys.TAB).perform()
        name = shown.execute_script(
            "const e = document.activeElement; return e === document.body ? '' : e.tagName + e.className"
        )
        if not name:  # behind the last
            break
        if name.startswith("SUMMARY"):
            ActionChains(shown).send_keys(Keys.ENTER).perform()
        reached.append(name)
    assert shown.execute_script("return document.querySelector('details').open")
    moving = """
        return [...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth
          && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map(e => e.tagName + e.className)"""
    assert set(shown.execute_script(moving)) <= set(reached)


def test_pictures_show_and_nothing_else_is_loaded(shown: Chrome, requested: Callable[[], list[str]]) -> None:
    shown.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    sizes = shown.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert sizes == [4] * 5
    assert requested() == []
    assert shown.get_log("browser") == []
