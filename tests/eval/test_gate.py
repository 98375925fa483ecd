import json
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from eval.gate import Decision, Evidence, Finding, Rules, decide
from eval.metrics import Scores
from eval.rankings import JudgeError

RULES = Rules(
    primary="ndcg@10",
    min_gain=0.0,
    confidence=0.95,
    floors={},
    ceilings={},
    min_segment=20,
    resamples=1000,
)
RNG = np.random.default_rng(0)
BASE = RNG.random(400)
NOISE = RNG.normal(0, 0.1, 400)
NOISE -= NOISE.mean()
SEGMENTS = np.array(["dress", "shoe", "bag", "hat"] * 100)


def evidence(values: np.ndarray, segments: np.ndarray | None = None, **facts: float) -> Evidence:
    ids = np.array([f"q{i:05d}" for i in range(len(values))])
    scores = Scores(ids, np.ones(len(values), bool), {"ndcg@10": values, "mrr@10": values / 2})
    return Evidence(scores, np.full(len(values), "all") if segments is None else segments, facts)


def finding(decision: Decision, rule: str) -> Finding:
    (found,) = [finding for finding in decision.findings if finding.rule == rule]
    return found


def test_a_clear_gain_passes() -> None:
    decision = decide(evidence(BASE + 0.03 + NOISE, SEGMENTS), evidence(BASE), RULES)
    gain = finding(decision, "gain ndcg@10")
    assert decision.passed
    assert gain.value == pytest.approx(0.03)
    assert gain.low is not None and gain.high is not None
    assert 0 < gain.low < gain.value < gain.high
    assert gain.text.startswith(
        "The candidate is better than the champion: ndcg@10 changes by +0.0300 (95 % inter"
    )
    assert gain.text.endswith("400 queries). More than +0.0000 is required, which is shown.")


def test_identical_scores_do_not_pass() -> None:
    decision = decide(evidence(BASE), evidence(BASE), RULES)
    assert not decision.passed
    assert decision.reasons == [
        "Candidate and champion cannot be told apart: ndcg@10 changes by +0.0000 (95 % interval +0.0000 to "
        "+0.0000, 400 queries). More than +0.0000 is required, which is not shown."
    ]


def test_differences_in_the_last_digits_are_none() -> None:
    decision = decide(evidence(BASE + 1e-15), evidence(BASE), RULES)
    assert not decision.passed
    assert finding(decision, "gain ndcg@10").value == 0.0


@pytest.mark.parametrize("min_gain", [0.01, 0.1])
def test_exactly_the_gain_asked_is_a_tie(min_gain: float) -> None:
    rules = replace(RULES, min_gain=min_gain)
    assert not decide(evidence(BASE + min_gain), evidence(BASE), rules).passed
    assert decide(evidence(BASE + min_gain + 0.001), evidence(BASE), rules).passed


@pytest.mark.parametrize(
    ("change", "min_gain", "verdict"),
    [
        (0.0, 0.0, "Candidate and champion cannot be told apart"),
        (-0.05, 0.0, "The candidate is worse than the champion"),
        (0.03, 0.03, "The candidate is better than the champion"),
        (0.002, 0.03, "Candidate and champion cannot be told apart"),
    ],
)
def test_no_gain_or_too_small_a_one_fails(change: float, min_gain: float, verdict: str) -> None:
    decision = decide(evidence(BASE + change + NOISE), evidence(BASE), replace(RULES, min_gain=min_gain))
    gain = finding(decision, "gain ndcg@10")
    assert not gain.passed
    assert gain.text.startswith(verdict + ":")
    assert gain.text.endswith(f"More than +{min_gain:.4f} is required, which is not shown.")
    assert gain.limit == min_gain


def test_a_handful_of_queries_cannot_promote() -> None:
    """Four wins and no loss: the interval lies above 0, but four coins show heads that often."""
    change = np.zeros(400)
    change[:4] = 0.5
    gain = finding(decide(evidence(BASE + change), evidence(BASE), RULES), "gain ndcg@10")
    assert not gain.passed
    assert gain.text.startswith("Candidate and champion cannot be told apart")


@pytest.mark.parametrize("share", [1.0, 0.03])
def test_noise_is_seldom_promoted(share: float) -> None:
    rng = np.random.default_rng(1)
    gates = 250
    rules = replace(RULES, resamples=400)
    promoted = 0
    for _ in range(gates):
        change = rng.normal(0, 0.1, 150) * (rng.random(150) < share)
        promoted += decide(evidence(BASE[:150] + change), evidence(BASE[:150]), rules).passed
    assert promoted / gates < 0.025 + 3 * sqrt(0.025 * 0.975 / gates)


def test_one_worse_segment_stops_a_better_average_and_is_named() -> None:
    change = np.where(SEGMENTS == "hat", -0.1, 0.08)
    decision = decide(evidence(BASE + change + NOISE, SEGMENTS), evidence(BASE), RULES)
    assert finding(decision, "gain ndcg@10").passed
    assert [f.rule for f in decision.findings if not f.passed] == ["segment hat"]
    assert decision.reasons == [finding(decision, "segment hat").text]
    assert decision.reasons[0].startswith("Segment 'hat' is significantly worse: ndcg@10 changes by -0.0")
    assert "corrected for 4 tested" in decision.reasons[0]


def test_a_segment_that_may_be_worse_by_chance_passes() -> None:
    worse = finding(decide(evidence(BASE + NOISE - 0.004), evidence(BASE), RULES), "segment all")
    assert worse.value == pytest.approx(-0.004)
    assert worse.passed
    assert worse.text.startswith("Segment 'all' is not significantly worse: ndcg@10 changes by -0.0040")


def test_many_segments_of_noise_raise_no_alarm() -> None:
    """Of 40 segments two would be worse by chance at 95 % each: the correction holds them back."""
    rng = np.random.default_rng(2)
    segments = np.repeat([f"s{i}" for i in range(40)], 25)
    base = rng.random(1000)
    rules = replace(RULES, resamples=2000)
    alarms = 0
    for _ in range(10):
        decision = decide(evidence(base + rng.normal(0, 0.1, 1000), segments), evidence(base), rules)
        alarms += any(f.rule.startswith("segment s") and not f.passed for f in decision.findings)
    assert alarms <= 2


def test_small_segments_are_reported_and_not_tested() -> None:
    segments = SEGMENTS.astype("U20")
    segments[:19] = "rare"
    segments[19:39] = "just enough"
    change = np.where(segments == "rare", -0.5, 0.08) + NOISE
    decision = decide(evidence(BASE + change, segments), evidence(BASE), RULES)
    assert (
        finding(decision, "segments not tested").text
        == "Not tested, with fewer than 20 queries: 'rare' (19)."
    )
    assert finding(decision, "segment just enough").passed
    assert not any(f.rule == "segment rare" for f in decision.findings)
    assert finding(decision, "segments not tested").passed


def test_floors() -> None:
    value = float(BASE.mean())
    for limit, passed in ((value - 1e-9, True), (value, True), (value + 1e-9, False)):
        decision = decide(evidence(BASE), None, replace(RULES, floors={"ndcg@10": limit, "mrr@10": 0.0}))
        floor = finding(decision, "floor ndcg@10")
        assert (floor.passed, decision.passed) == (passed, passed)
        assert (floor.value, floor.limit) == (value, limit)
    decision = decide(evidence(np.full(9, 0.25)), None, replace(RULES, floors={"ndcg@10": 0.3}))
    assert decision.reasons == ["ndcg@10 is 0.25; too low: at least 0.3 is required."]


@pytest.mark.parametrize(
    ("facts", "passed", "text"),
    [
        ({"model_mb": 499.0}, True, "model_mb is 499; at most 500 is allowed."),
        ({"model_mb": 500.0}, True, "model_mb is 500; at most 500 is allowed."),
        ({"model_mb": 501.0}, False, "model_mb is 501; too high: at most 500 is allowed."),
        ({"model_mb": float("inf")}, False, "model_mb is inf; too high: at most 500 is allowed."),
        ({}, False, "model_mb was not measured; at most 500 is allowed."),
        ({"model_mb": float("nan")}, False, "model_mb was not measured; at most 500 is allowed."),
    ],
)
def test_ceilings(facts: dict[str, float], passed: bool, text: str) -> None:
    decision = decide(evidence(BASE, **facts), None, replace(RULES, ceilings={"model_mb": 500.0}))
    assert finding(decision, "ceiling model_mb").text == text
    assert decision.passed is passed


def test_every_ceiling_is_looked_at() -> None:
    rules = replace(RULES, ceilings={"unknown": 1.0, "model_mb": 500.0})
    decision = decide(evidence(BASE, model_mb=501.0), None, rules)
    assert decision.reasons == [
        "unknown was not measured; at most 1 is allowed.",
        "model_mb is 501; too high: at most 500 is allowed.",
    ]


@pytest.mark.parametrize(
    ("facts", "passed", "text"),
    [
        ({"rating/3": 4.0}, True, "rating/3 is 4; at least 4 is required."),
        ({"rating/3": 3.5}, False, "rating/3 is 3.5; too low: at least 4 is required."),
        ({}, False, "rating/3 was not measured; at least 4 is required."),
    ],
)
def test_floors_of_facts(facts: dict[str, float], passed: bool, text: str) -> None:
    decision = decide(evidence(BASE, **facts), None, replace(RULES, floors={"rating/3": 4.0}))
    assert finding(decision, "floor rating/3").text == text
    assert decision.passed is passed


def test_without_a_champion_there_is_nothing_to_compare_with() -> None:
    decision = decide(evidence(BASE), None, RULES)
    assert decision.passed
    assert decision.reasons == ["There is no champion yet, so there was nothing to compare with."]


def test_other_queries_are_no_comparison() -> None:
    with pytest.raises(JudgeError, match="judged on other queries"):
        decide(evidence(BASE), evidence(BASE[:-1]), RULES)


@pytest.mark.parametrize("rules", [replace(RULES, primary="err@10"), replace(RULES, floors={"err@10": 0.1})])
def test_a_metric_that_was_not_scored(rules: Rules) -> None:
    with pytest.raises(JudgeError, match=r"err@10 was not scored.*scored are ndcg@10, mrr@10"):
        decide(evidence(BASE), evidence(BASE), rules)


@pytest.mark.parametrize("count", [3, 401])
def test_segments_must_match_the_queries(count: int) -> None:
    with pytest.raises(JudgeError, match=f"{count} segments for 400 queries"):
        decide(evidence(BASE, np.resize(SEGMENTS, count)), evidence(BASE), RULES)


def test_one_query_is_no_segment() -> None:
    segments = np.array(["pair"] * 2 + ["single"] + ["rest"] * 397)
    decision = decide(evidence(BASE + 0.05, segments), evidence(BASE), replace(RULES, min_segment=1))
    assert finding(decision, "segment pair").limit == 0.0
    assert (
        finding(decision, "segments not tested").text
        == "Not tested, with fewer than 2 queries: 'single' (1)."
    )


def test_the_decision_as_json() -> None:
    rules = replace(RULES, floors={"ndcg@10": 0.1}, ceilings={"model_mb": 1.0})
    decision = decide(evidence(BASE + 0.05, SEGMENTS, model_mb=0.5), evidence(BASE), rules)
    plain = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert plain["passed"] is True
    assert [item["rule"] for item in plain["findings"]] == [item.rule for item in decision.findings]
    assert plain["findings"][0] == {
        "rule": "floor ndcg@10",
        "passed": True,
        "text": decision.findings[0].text,
        "value": decision.findings[0].value,
        "low": None,
        "high": None,
        "limit": 0.1,
    }
