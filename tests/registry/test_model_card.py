from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.decision import Decision, Finding
from vitrine_judge.gate import Evidence
from vitrine_judge.metrics import Scores

from registry.model_card import (
    DESCRIPTION_LENGTH,
    escape_markdown,
    render_description,
    render_model_card,
    summarize_verdict,
)
from scoring.params import EvaluateParams
from scoring.systems import BM25, CANDIDATE, HYBRID

GAIN = Finding("gain ndcg@10", "failed", "ndcg@10 did not improve: -0.1.", headline="ndcg@10 did not improve")
SEGMENT = replace(GAIN, rule="segment a", text="Segment 'a' is worse: -0.2.", headline="Segment 'a' is worse")
MARGIN = replace(
    GAIN, verdict="undecided", text="mrr@10 may have dropped: 0.", headline="mrr@10 may have dropped"
)
FLOOR = replace(GAIN, verdict="passed", text="ndcg@10 is 0.5; at least 0.3.", headline="ndcg@10 is 0.5")

ONLINE = Finding("online", "undecided", "No online result yet.", headline="No online result yet")


def make_card(
    *findings: Finding,
    segment: str = "text",
    rescored: str = "",
    systems: Sequence[str] = (CANDIDATE,),
    joint: str | None = None,
    lineage: Mapping[str, str] | None = None,
    online: str = "",
) -> str:
    ids = np.array([f"q{n}" for n in range(20)])
    scores = Scores(ids, np.ones(20, bool), {"ndcg@10": np.linspace(0, 1, 20)})
    encoders = {"text_encoder": "bilstm", "image_encoder": "lite0", "video_encoder": "conv3d"}
    params = {
        "featurize": encoders | {"joint_encoder": joint},
        "train": {"fusion": "concat", "dim": 8, "loss": "x", "alpha": 1, "beta": 1, "gamma": 0, "delta": 0},
        "evaluate": EvaluateParams(metrics=["ndcg@10"]).model_dump(mode="json"),
    }
    validation = {
        "rules": [],
        "champion": None,
        "counts": {"tables": {"products": 20}, "splits": {"test": 20}},
    }
    return render_model_card(
        "product-search",
        "3",
        Decision(findings),
        Evidence(scores, np.full(20, segment), {"hybrid_weight": 0.8}),
        None,
        dict.fromkeys(systems, scores),
        {"params": params},
        validation,
        {"vitrine.data": "abc"} | dict(lineage or {}),
        "ndcg@10",
        rescored,
        online,
    )


@pytest.mark.parametrize(
    ("findings", "sentence"),
    [
        ([FLOOR], "Gate passed: version 3 may be promoted with python -m registry promote 3."),
        (
            [FLOOR, GAIN],
            "Gate failed: do not promote version 3; ndcg@10 did not improve; see the decision page.",
        ),
        (
            [MARGIN, SEGMENT, FLOOR, GAIN],
            "Gate failed: do not promote version 3; Segment 'a' is worse, ndcg@10 did not improve, and 1 more; see "
            "the decision page.",
        ),
        (
            [FLOOR, MARGIN],
            "Gate undecided: do not promote version 3 yet; mrr@10 may have dropped; judge more queries (number: see "
            "the decision page).",
        ),
        (
            [FLOOR, ONLINE],
            "Gate undecided: do not promote version 3 yet; No online result yet; compare it with the champion on live "
            "traffic (docs/interleaving.md).",
        ),
    ],
)
def test_the_first_sentence_says_what_to_do_and_why(findings: list[Finding], sentence: str) -> None:
    assert summarize_verdict(Decision(tuple(findings)), "3") == sentence
    text = make_card(*findings)
    assert text.startswith(f"# product-search, version 3\n\n**{sentence}**\n\n## What the gate checked\n\n- ")


def test_failures_come_first_then_undecided_then_passed_findings() -> None:
    lines = [line for line in make_card(FLOOR, MARGIN, GAIN, SEGMENT).splitlines() if line.startswith("- ")]
    assert [line[2] for line in lines[:4]] == ["✗", "✗", "?", "✓"]


def test_a_rescored_champion_is_mentioned() -> None:
    assert "\n\nThe champion was rescored.\n\n## Quality on" in make_card(
        FLOOR, rescored="The champion was rescored."
    )
    assert "\n\n\n" not in make_card(FLOOR).partition("## Quality")[0]


def test_the_online_result_stands_in_the_card_with_its_plot() -> None:
    names = ("kind", "sessions", "preference", "low", "high", "confidence", "since", "until", "champion")
    tags = {f"vitrine.online.{name}": f"<{name}>" for name in names}
    card = make_card(FLOOR, lineage=tags, online="#/page")
    _, _, section = card.partition("## What customers prefer\n\n")
    text = section.partition("\n\n## Quality")[0]
    assert all(f"<{name}>" in text for name in names) and text.endswith("[Plot of all days](#/page)")
    assert card.count("<sessions>") == 1, "not in the lineage"
    assert "customers" not in make_card(FLOOR, lineage=tags)


def test_the_description_has_the_verdict_and_the_link_first() -> None:
    page = "#/experiments/1/runs/a/artifacts/decision.html"
    text = render_description(make_card(GAIN, FLOOR), page)
    verdict, link, heading, _ = text.split("\n\n", 3)
    assert verdict == summarize_verdict(Decision((GAIN, FLOOR)), "3")
    assert (link, heading) == (f"[Open the decision page]({page})", "## What the gate checked")


def test_the_card_says_what_is_served_and_how_grades_count() -> None:
    grades = "How grades count: gains 0:0 1:0.01 2:0.1 3:1; relevant from grade 3."
    card = make_card(FLOOR, systems=[CANDIDATE, BM25, HYBRID])
    assert f"The model alone is served, without BM25. {grades}" in card
    assert "| 95 % interval | bm25 | hybrid |" in card
    card = make_card(FLOOR, systems=[HYBRID, BM25, CANDIDATE])
    assert "The hybrid is served: for queries with text, 0.8 · model + 0.2 · BM25" in card and grades in card
    assert "| 95 % interval | bm25 | fused |" in card
    assert "System 'fused' is as good or better" in card and "System 'hybrid'" not in card


def test_the_card_names_the_encoders() -> None:
    assert "video encoder `conv3d`, fusion `concat`" in make_card(FLOOR)
    assert "video encoder `conv3d`, joint encoder `st:Model`, fusion" in make_card(FLOOR, joint="st:Model")


def test_a_long_description_is_cut_after_a_section() -> None:
    many = [replace(GAIN, text=f"Finding {n} " + "x" * 60 + ".") for n in range(55)]
    text = render_description(make_card(*many), "#/page")
    assert len(text) <= DESCRIPTION_LENGTH
    assert text.startswith("Gate failed") and "Finding 54" in text and "## Lineage" not in text


@given(st.text(min_size=1))
def test_names_of_segments_are_data(name: str) -> None:
    text = escape_markdown(f"{name}<img src=x onerror=alert(1)>[a](javascript:alert(1))|`x`")
    assert len(text.splitlines()) == 1
    plain = text.replace("\\\\", "")
    for character in "<>[]|`*":
        assert plain.count(character) == plain.count(f"\\{character}")


def test_a_segment_cannot_break_the_card() -> None:
    text = make_card(replace(GAIN, text="Segment 'a|<b>'\n# fell."), segment="a|<b>")
    assert "<b>" not in text.replace("\\<b\\>", "") and "a\\|\\<b\\>" in text and "\n# fell" not in text
