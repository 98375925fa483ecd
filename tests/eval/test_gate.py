import json
import re
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from vitrine_judge.decision import Decision, Finding
from vitrine_judge.errors import JudgeError
from vitrine_judge.gate import HOLDOUT_LOOKS, POWER, Evidence, Rules, confirm, decide
from vitrine_judge.metrics import Scores
from vitrine_judge.segments import Segment
from vitrine_judge.significance import detectable_difference, largest_change, mean_interval

RULES = Rules("ndcg@10")
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
    (match,) = [finding for finding in decision.findings if finding.rule == rule]
    return match


def test_a_clear_gain_passes() -> None:
    decision = decide(evidence(BASE + 0.03 + NOISE, SEGMENTS), evidence(BASE), RULES)
    gain = finding(decision, "gain ndcg@10")
    assert decision.passed
    assert gain.value == pytest.approx(0.03)
    assert gain.low is not None and gain.high is not None
    assert 0 < gain.low < gain.value < gain.high
    assert gain.text.startswith("ndcg@10 improved: +0.0300 (97.5 % interval ")
    assert gain.text.endswith(
        "400 queries), significantly better than the champion. This is look 1 at these queries, tested at a level of "
        "1.25 %."
    )


def test_identical_scores_do_not_pass() -> None:
    """They may differ on queries that the sample misses."""
    decision = decide(evidence(BASE), evidence(BASE), RULES)
    assert decision.verdict == "undecided"
    (reason,) = decision.reasons
    assert reason.startswith(
        "ndcg@10 may or may not have improved: +0.0000 (97.5 % interval -0.0109 to +0.0109, "
    )
    assert "not significantly different from the champion" in reason


def test_differences_in_the_last_digits_are_none() -> None:
    decision = decide(evidence(BASE + 1e-15), evidence(BASE), RULES)
    assert not decision.passed
    assert finding(decision, "gain ndcg@10").value == 0.0


@pytest.mark.parametrize("min_gain", [0.01, 0.1])
def test_exactly_the_gain_asked_is_a_tie(min_gain: float) -> None:
    rules = replace(RULES, min_gain=min_gain)
    assert not decide(evidence(BASE + min_gain), evidence(BASE), rules).passed
    assert decide(evidence(BASE + min_gain + 0.015), evidence(BASE), rules).passed


@pytest.mark.parametrize(
    ("change", "min_gain", "standing", "verdict", "headline"),
    [
        (0.0, 0.0, "not significantly different from", "undecided", "may or may not have improved"),
        (-0.05, 0.0, "significantly worse than", "failed", "did not improve"),
        (
            0.03,
            0.03,
            "significantly better than",
            "undecided",
            "may or may not have improved by more than 0.0300",
        ),
        (0.002, 0.03, "not significantly different from", "failed", "did not improve by more than 0.0300"),
    ],
)
def test_no_gain_or_too_small_a_one_does_not_pass(
    change: float, min_gain: float, standing: str, verdict: str, headline: str
) -> None:
    decision = decide(evidence(BASE + change + NOISE), evidence(BASE), replace(RULES, min_gain=min_gain))
    gain = finding(decision, "gain ndcg@10")
    assert (gain.verdict, decision.verdict, decision.passed) == (verdict, verdict, False)
    assert gain.headline == f"ndcg@10 {headline}"
    assert gain.text.startswith(f"{gain.headline}: ")
    assert f"400 queries), {standing} the champion." in gain.text
    assert gain.limit == min_gain
    assert ("400 queries detect" in gain.text) == (verdict == "undecided")


@pytest.mark.parametrize(("part", "needed"), [(2.0, "1,600"), (2.5, "2,500")])
def test_too_few_queries_for_a_gain_say_how_many_are_needed(part: float, needed: str) -> None:
    """Half a detectable distance takes four times the queries, since noise falls with their root."""
    reach = largest_change(BASE + NOISE)  # the scores here go a little beyond 1
    detected = detectable_difference(NOISE, 0.0125, lowest=-reach)
    decision = decide(evidence(BASE + detected / part + NOISE), evidence(BASE), RULES)
    assert decision.verdict == "undecided"
    (reason,) = decision.reasons
    assert reason.endswith(
        f" 400 queries detect {detected:.4f} at 80 % power; a distance of {detected / part:.4f} to the limit needs "
        f"about {needed}."
    )
    (reason,) = decide(evidence(BASE - 0.001 + NOISE), evidence(BASE), RULES).reasons
    assert reason.endswith("at 80 % power.")


@pytest.mark.parametrize(
    ("change", "verdict", "headline"),
    [
        (0.01, "passed", "mrr@10 did not drop by 0.0200 or more"),
        (-0.003, "passed", "mrr@10 did not drop by 0.0200 or more"),
        (-0.02, "undecided", "mrr@10 may have dropped by 0.0200 or more"),
        (-0.05, "failed", "mrr@10 dropped by 0.0200 or more"),
    ],
)
def test_another_metric_may_lose_less_than_its_margin(change: float, verdict: str, headline: str) -> None:
    values = BASE + 0.05 + NOISE
    ours, theirs = evidence(values), evidence(BASE)
    scores = {"ndcg@10": values, "mrr@10": BASE / 2 + change + NOISE / 2}
    ours = replace(ours, scores=replace(ours.scores, values=scores))
    decision = decide(ours, theirs, replace(RULES, margins={"mrr@10": 0.02}))
    margin = finding(decision, "margin mrr@10")
    assert (margin.verdict, decision.verdict) == (verdict, verdict)
    assert margin.value == pytest.approx(change)
    assert margin.limit == -0.02
    assert margin.low is not None and margin.high is not None and margin.low < change < margin.high
    assert margin.headline == headline
    assert margin.text.startswith(f"{headline}: {change:+.4f} (90 % interval ")
    assert ("400 queries detect" in margin.text) == (verdict == "undecided")
    assert "never show" not in margin.text


def test_an_undecided_margin_says_what_distance_to_the_limit_these_queries_detect() -> None:
    """The limit is below 0: the distance to it is the change plus the margin, and so is the room for losses less."""
    values, margin, change = BASE + NOISE, 0.05, -0.04
    theirs = evidence(BASE)
    scores = {"ndcg@10": values, "mrr@10": BASE + change + NOISE}
    ours = replace(evidence(values), scores=replace(evidence(values).scores, values=scores))
    theirs = replace(theirs, scores=replace(theirs.scores, values={"ndcg@10": BASE, "mrr@10": BASE}))
    text = finding(decide(ours, theirs, replace(RULES, margins={"mrr@10": margin})), "margin mrr@10").text
    lowest = -(largest_change(BASE + change + NOISE, BASE) - margin)
    detected = detectable_difference(change + NOISE, RULES.harm_level, POWER, lowest)
    assert (
        f" 400 queries detect {detected:.4f} at 80 % power; a distance of 0.0100 to the limit needs " in text
    )


def test_no_change_has_no_sign() -> None:
    decision = decide(evidence(BASE), evidence(BASE), replace(RULES, margins={"mrr@10": 0.02}))
    text = finding(decision, "margin mrr@10").text
    assert text.endswith(": +0.0000 (90 % interval -0.0075 to +0.0075, 400 queries) against the champion.")


def test_a_loss_of_exactly_the_margin_does_not_pass() -> None:
    ours, theirs = evidence(BASE + 0.05), evidence(BASE)
    for loss, verdict in ((0.02, "undecided"), (0.031, "failed")):
        scores = ours.scores.values | {"mrr@10": BASE / 2 - loss}
        changed = replace(ours, scores=replace(ours.scores, values=scores))
        decision = decide(changed, theirs, replace(RULES, margins={"mrr@10": 0.02}))
        assert finding(decision, "margin mrr@10").verdict == verdict


@pytest.mark.parametrize(("queries", "verdict"), [(149, "passed"), (148, "undecided")])
def test_a_margin_needs_enough_queries_even_where_nothing_drops(queries: int, verdict: str) -> None:
    rules = replace(RULES, margins={"mrr@10": 0.02})
    margin = finding(decide(evidence(BASE[:queries]), evidence(BASE[:queries]), rules), "margin mrr@10")
    assert margin.verdict == verdict
    assert ("Fewer than 149 queries never show that a loss is below 0.0200." in margin.text) == (
        verdict != "passed"
    )


def test_what_failed_is_told_before_what_is_undecided() -> None:
    rules = replace(RULES, floors={"mrr@10": 0.9})
    decision = decide(evidence(BASE + NOISE), evidence(BASE), rules)
    assert decision.verdict == "failed"
    assert [reason.split()[0] for reason in decision.reasons] == ["mrr@10", "ndcg@10"]


@pytest.mark.parametrize(
    ("rating", "verdict", "text"),
    [
        (None, "passed", "No survey rated the candidate: no rating is required."),
        (
            4.5,
            "passed",
            "People rated the candidate 4.50 (4.40 to 4.60, 12 queries); at least 4 is required.",
        ),
        (
            4.0,
            "passed",
            "People rated the candidate 4.00 (3.90 to 4.10, 12 queries); at least 4 is required.",
        ),
        (
            3.9,
            "failed",
            "People rated the candidate 3.90 (3.80 to 4.00, 12 queries); too low: at least 4 is required.",
        ),
    ],
)
def test_ratings(rating: float | None, verdict: str, text: str) -> None:
    rated = Segment("all", 12, rating, rating - 0.1, rating + 0.1) if rating else None
    decision = decide(replace(evidence(BASE), rating=rated), None, replace(RULES, min_rating=4.0))
    rating_finding = finding(decision, "rating")
    assert (rating_finding.verdict, rating_finding.text, decision.verdict) == (verdict, text, verdict)
    assert rating_finding.value == rating and rating_finding.limit == (4.0 if rating else None)
    assert rating_finding.headline == re.split(r" \(|:", text)[0] + (
        ", too low" if verdict == "failed" else ""
    )


def test_a_rating_of_one_query_has_no_interval() -> None:
    rated = Segment("all", 1, 5.0, float("nan"), float("nan"))
    rating_finding = finding(
        decide(replace(evidence(BASE), rating=rated), None, replace(RULES, min_rating=4.0)), "rating"
    )
    assert (rating_finding.value, rating_finding.low, rating_finding.high) == (5.0, None, None)
    json.dumps(Decision((rating_finding,)).to_dict(), allow_nan=False)


def test_nothing_is_asked_of_ratings_unless_told() -> None:
    rated = Segment("all", 12, 1.0, 1.0, 1.0)
    rules = {finding.rule for finding in decide(replace(evidence(BASE), rating=rated), None, RULES).findings}
    assert "rating" not in rules


def test_a_handful_of_queries_cannot_promote() -> None:
    """Four wins and no loss."""
    change = np.zeros(400)
    change[:4] = 0.5
    gain = finding(decide(evidence(BASE + change), evidence(BASE), RULES), "gain ndcg@10")
    assert gain.verdict == "undecided"
    assert "not significantly different from the champion" in gain.text


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.03])
@pytest.mark.parametrize("clusters", [None, 50])
def test_noise_is_seldom_promoted(share: float, clusters: int | None) -> None:
    rng = np.random.default_rng(1)
    gates, queries = 250, 200
    labels = None if clusters is None else np.arange(queries) % clusters
    promoted = 0
    for _ in range(gates):
        change = rng.normal(0, 0.1, queries) * (rng.random(queries) < share)
        if labels is not None:
            change += rng.normal(0, 0.1, clusters)[labels]
        base = evidence(BASE[:queries])
        candidate = replace(evidence(BASE[:queries] + change), clusters=labels)
        promoted += decide(candidate, base, RULES).passed
    assert promoted / gates < 0.0125 + 3 * sqrt(0.0125 * 0.9875 / gates)


def test_queries_that_hang_together_are_counted_as_what_they_are_worth() -> None:
    labels = np.repeat(np.arange(100), 4).astype(str)
    shift = np.random.default_rng(7).normal(0.05, 0.1, 100)[labels.astype(int)]
    candidate, champion = evidence(BASE + shift), evidence(BASE)
    independent = finding(decide(candidate, champion, RULES), "gain ndcg@10")
    clustered = finding(decide(replace(candidate, clusters=labels), champion, RULES), "gain ndcg@10")
    assert re.search(r"400 queries in 100 clusters, which are worth \d\d independent ones", clustered.text)
    assert clustered.value == independent.value
    assert (
        clustered.low is not None and independent.low is not None and clustered.low < independent.low - 0.005
    )


@pytest.mark.parametrize(("clusters", "enough"), [(None, True), (400, True), (50, True), (49, False)])
def test_too_few_independent_queries_do_not_pass(clusters: int | None, enough: bool) -> None:
    candidate = evidence(BASE + 0.5)
    if clusters:
        candidate = replace(candidate, clusters=np.arange(400) % clusters)
    decision = decide(candidate, evidence(BASE), RULES)
    assert decision.passed == enough
    if not enough:
        assert decision.reasons == [
            "There are too few independent queries: 49; a comparison needs at least 50."
        ]
    assert decide(candidate, None, RULES).passed


@pytest.mark.parametrize(("look", "verdict"), [(1, "passed"), (3, "passed"), (40, "undecided")])
def test_each_look_at_the_same_queries_asks_for_more(look: float, verdict: str) -> None:
    change = 0.023 + NOISE
    gain = finding(decide(evidence(BASE + change), evidence(BASE), RULES, look=look), "gain ndcg@10")
    assert gain.verdict == verdict
    assert f"This is look {look} at these queries, tested at a level of " in gain.text


BETTER, WORSE = evidence(BASE + 0.05 + NOISE), evidence(BASE - 0.05 + NOISE)
BASELINES = {
    "bm25": evidence(BASE).scores,
    "image-only": evidence(np.where(SEGMENTS == "hat", BASE + 0.2, BASE / 2)).scores,
}


@pytest.mark.parametrize("champion", [None, evidence(BASE)])
def test_a_baseline_must_not_be_better(champion: Evidence | None) -> None:
    """Also of a first model, which has no champion to beat."""
    rules = replace(RULES, baselines={"bm25": 0.02})
    assert decide(BETTER, champion, rules, BASELINES).passed
    worse = decide(WORSE, champion, rules, BASELINES)
    assert worse.verdict == "failed"
    (text,) = [reason for reason in worse.reasons if "bm25" in reason and "segment" not in reason]
    assert text.startswith("ndcg@10 is below bm25 by 0.0200 or more: -0.0500 (90 % interval -0.0")
    assert text.endswith("400 queries) against bm25.")
    unsure = decide(evidence(BASE - 0.018 + NOISE), champion, rules, BASELINES)
    assert finding(unsure, "baseline bm25").verdict == "undecided"
    missing = finding(decide(BETTER, champion, rules), "baseline bm25")
    assert (missing.verdict, missing.text) == ("passed", "The baseline bm25 was not scored: no comparison.")


def test_a_baseline_that_was_not_scored_hides_no_other() -> None:
    rules = replace(RULES, baselines={"absent": 0.0, "bm25": 0.0})
    decision = decide(WORSE, None, rules, BASELINES)
    assert [item.verdict for item in decision.findings if item.rule.startswith("baseline")] == [
        "passed",
        "failed",
    ]


def test_a_segment_in_which_a_baseline_is_better_is_noted() -> None:
    candidate = replace(BETTER, segments=SEGMENTS)
    decision = decide(candidate, evidence(BASE), RULES, BASELINES)
    assert decision.passed
    note = finding(decision, "weakness image-only hat")
    assert note.verdict == "noted"
    assert note.headline == "image-only is significantly better in segment 'hat'"
    assert decision.reasons[-1] == note.text
    assert note.text.startswith(f"{note.headline}: ndcg@10 -0.1") and "100 queries (p = " in note.text
    assert [item.rule for item in decision.findings if item.verdict == "noted"] == [note.rule]


@pytest.mark.parametrize(("change", "noted"), [(-0.002, False), (0.05, False), (-0.05, True)])
def test_only_a_significant_weakness_is_noted(change: float, noted: bool) -> None:
    decision = decide(evidence(BASE + change + NOISE), None, RULES, {"bm25": evidence(BASE).scores})
    assert [item.rule for item in decision.findings if item.verdict == "noted"] == [
        "weakness bm25 all"
    ] * noted


def test_a_baseline_on_other_queries_is_no_comparison() -> None:
    with pytest.raises(JudgeError, match="scored on different queries"):
        decide(BETTER, None, replace(RULES, baselines={"bm25": 0.0}), {"bm25": evidence(BASE[:-1]).scores})


@pytest.mark.parametrize(
    ("gain", "look", "verdict", "headline"),
    [
        (0.02, 1, "passed", "The holdout confirms the gain in ndcg@10"),
        (-0.001, 1, "undecided", "The holdout does not confirm the gain in ndcg@10"),
        (-0.09, 1, "failed", "The holdout refutes the gain in ndcg@10"),
        (0.02, HOLDOUT_LOOKS, "passed", "The holdout confirms the gain in ndcg@10"),
        (0.02, HOLDOUT_LOOKS + 1, "undecided", f"The holdout was used {HOLDOUT_LOOKS} times and is spent"),
    ],
)
def test_a_holdout_confirms_a_gain(gain: float, look: int, verdict: str, headline: str) -> None:
    decision = decide(BETTER, evidence(BASE), RULES)
    held = BASE[:100]
    confirmation = confirm(decision, evidence(held + gain), evidence(held), RULES, look)
    assert confirmation.findings[:-1] == decision.findings
    assert confirmation.verdict == verdict
    last = confirmation.findings[-1]
    assert (last.rule, last.verdict, last.headline) == ("holdout", verdict, headline)
    assert last.value == pytest.approx(gain)
    assert (
        f"The gain on the test queries is +0.0500, so over-fitting to them is {0.05 - gain:+.4f}; "
        in last.text
    )
    assert f"look {look} of 10 at the holdout" in last.text


def test_the_holdouts_interval_is_that_of_the_mean() -> None:
    held, gain = BASE[:100], 0.02 + NOISE[:100]
    confirmation = confirm(
        decide(BETTER, evidence(BASE), RULES), evidence(held + gain), evidence(held), RULES
    )
    last, reach = confirmation.findings[-1], largest_change(held + gain, held)
    assert (last.low, last.high) == pytest.approx(mean_interval(gain, (-reach, reach), RULES.confidence))
    assert "(95 % interval " in last.text and "; look 1 of 10 " in last.text


def test_the_holdout_is_compared_with_the_gain_among_all_findings() -> None:
    change = np.where(SEGMENTS == "hat", 0.07, 0.03) + NOISE
    rules = replace(RULES, floors={"mrr@10": 0.0}, margins={"mrr@10": 0.05}, min_rating=3.0)
    rated = replace(evidence(BASE + change, SEGMENTS), rating=Segment("all", 12, 4.0, 3.9, 4.1))
    decision = decide(rated, evidence(BASE), rules)
    last = confirm(decision, evidence(BASE[:100] + 0.02), evidence(BASE[:100]), rules).findings[-1]
    assert "The gain on the test queries is +0.0400, so over-fitting to them is +0.0200" in last.text


def test_a_holdout_is_spent_after_ten_looks() -> None:
    decision = decide(BETTER, evidence(BASE), RULES)
    last = confirm(decision, evidence(BASE[:100] + 0.02), evidence(BASE[:100]), RULES, 12).findings[-1]
    assert (last.verdict, last.headline) == ("undecided", "The holdout was used 11 times and is spent")


def test_who_did_not_pass_is_not_judged_on_the_holdout() -> None:
    decision = decide(WORSE, evidence(BASE), RULES)
    assert confirm(decision, BETTER, evidence(BASE), RULES) is decision


def test_one_worse_segment_stops_a_better_average_and_is_named() -> None:
    change = np.where(SEGMENTS == "hat", -0.1, 0.08)
    decision = decide(evidence(BASE + change + NOISE, SEGMENTS), evidence(BASE), RULES)
    assert finding(decision, "gain ndcg@10").verdict == "passed"
    assert [f.rule for f in decision.findings if f.verdict != "passed"] == ["segment hat"]
    assert decision.reasons == [finding(decision, "segment hat").text]
    assert decision.reasons[0].startswith("Segment 'hat' is significantly worse: ndcg@10 changed by -0.0")
    assert "corrected for 4 segments" in decision.reasons[0]


def test_a_segment_a_tenth_worse_stops_a_better_average() -> None:
    """The average is 6 % better, of which three segments have more and one has a tenth less than before."""
    loss = -0.1 * BASE[SEGMENTS == "hat"].mean()
    gain = (4 * 0.06 * BASE.mean() - loss) / 3
    decision = decide(
        evidence(BASE + np.where(SEGMENTS == "hat", loss, gain) + NOISE, SEGMENTS), evidence(BASE), RULES
    )
    value = finding(decision, "gain ndcg@10").value
    assert value == pytest.approx(0.06 * BASE.mean())
    assert finding(decision, "gain ndcg@10").verdict == "passed"
    assert decision.verdict == "failed"
    (reason,) = decision.reasons
    assert reason.startswith("Segment 'hat' is significantly worse")


def test_a_segment_that_may_be_worse_by_chance_passes() -> None:
    worse = finding(decide(evidence(BASE + NOISE - 0.004), evidence(BASE), RULES), "segment all")
    assert worse.value == pytest.approx(-0.004)
    assert worse.verdict == "passed"
    assert worse.text.startswith("Segment 'all' is not significantly worse: ndcg@10 changed by -0.0040")


def test_the_p_value_of_a_segment_is_that_of_equal_losses() -> None:
    """All ten queries of a segment lose as much as any query changes, so p is the chance that the imaginary query has
    half of the Dirichlet weights: 2 ** −10; twice that, corrected for two segments."""
    segments = np.array(["few"] * 10 + ["rest"] * 390)
    change = np.where(segments == "few", -0.1, 0.1)
    rules = replace(RULES, min_segment=5, max_segment_loss=1.0)
    few = finding(decide(evidence(BASE + change, segments), evidence(BASE), rules), "segment few")
    assert few.text.endswith(f"over 10 queries (p = {2 * 2**-10:.2g}, corrected for 2 segments).")


def test_many_segments_of_noise_raise_no_alarm() -> None:
    """Of 40 segments two would be worse by chance at 95 % each: the correction holds them back."""
    rng = np.random.default_rng(2)
    segments = np.repeat([f"s{i}" for i in range(40)], 25)
    base = rng.random(1000)
    alarms = 0
    for _ in range(10):
        decision = decide(evidence(base + rng.normal(0, 0.1, 1000), segments), evidence(base), RULES)
        alarms += any(f.rule.startswith("segment s") and f.verdict != "passed" for f in decision.findings)
    assert alarms <= 2


def test_small_segments_are_tested_together() -> None:
    segments = SEGMENTS.astype("U20")
    for start, name in enumerate(["rare", "scarce", "few"]):
        segments[9 * start : 9 * start + 9] = name
    change = np.where(np.isin(segments, ["rare", "scarce", "few"]), -0.3, 0.12) + NOISE
    decision = decide(evidence(BASE + change, segments), evidence(BASE), RULES)
    assert finding(decision, "segment small segments").verdict == "failed"
    assert not any(item.rule == "segment rare" for item in decision.findings)


def test_many_segments_hide_no_disaster() -> None:
    """Eight of 520 segments of 20 queries fall from .8 to 0, and the average rises all the same."""
    segments = np.repeat([f"s{number:03d}" for number in range(520)], 20)
    base = np.full(len(segments), 0.8)
    values = np.where(segments < "s008", 0.0, 0.9)
    decision = decide(evidence(values, segments), evidence(base), RULES)
    assert finding(decision, "gain ndcg@10").verdict == "passed"
    failed = [item.rule for item in decision.findings if item.verdict != "passed"]
    assert failed == [f"segment s{number:03d}" for number in range(8)]
    assert decision.verdict == "failed"


def test_small_segments_hide_no_disaster() -> None:
    """Two of 60 segments of 19 queries fall from .8 to 0: too small to be tested, too bad to be passed."""
    segments = np.repeat([f"s{number:02d}" for number in range(60)], 19)
    base = np.full(len(segments), 0.8)
    decision = decide(evidence(np.where(segments < "s02", 0.0, 0.9), segments), evidence(base), RULES)
    assert [item.rule for item in decision.findings if item.verdict != "passed"] == [
        "segment s00",
        "segment s01",
    ]
    assert decision.verdict == "undecided"
    assert decision.reasons[0] == (
        "Segment 's00' lost more than 0.2: ndcg@10 changed by -0.8000 over 19 queries."
    )
    assert finding(decision, "segment s00").limit == -0.2


@pytest.mark.parametrize(("size", "verdict"), [(9, None), (10, "undecided"), (15, "undecided")])
@pytest.mark.parametrize("name", ["a", "z"])  # before and after the name of the pool
def test_a_pooled_segment_of_ten_queries_may_not_lose_too_much(
    size: int, verdict: str | None, name: str
) -> None:
    segments = np.array([name] * size + ["little"] * 15 + ["rest"] * (400 - size - 15))
    change = np.where(segments == name, -0.3, 0.1)
    decision = decide(evidence(BASE + change, segments), evidence(BASE), RULES)
    assert [item.verdict for item in decision.findings if item.rule == f"segment {name}"] == [verdict] * bool(
        verdict
    )


def test_six_queries_and_a_millionth_do_not_pass() -> None:
    values = np.linspace(0.2, 0.8, 6)
    decision = decide(evidence(values + 1e-6), evidence(values), RULES)
    assert decision.verdict == "undecided"
    assert {item.rule for item in decision.findings if item.verdict != "passed"} == {
        "gain ndcg@10",
        "queries",
    }


@pytest.mark.parametrize(
    ("loss", "size", "verdict"),
    [(0.19, 10, "passed"), (0.21, 10, "undecided"), (0.21, 9, "passed"), (0.21, 12, "undecided")],
)
def test_a_segment_may_not_lose_too_much_by_chance_either(loss: float, size: int, verdict: str) -> None:
    segments = np.array(["few"] * size + ["rest"] * (400 - size))
    noise = np.where(segments == "few", np.resize([0.6, -0.6], 400), 0)
    if size % 2:
        noise[0] = 0
    change = np.where(segments == "few", -loss, 0.05) + noise
    decision = decide(evidence(BASE + change, segments), evidence(BASE), replace(RULES, min_segment=5))
    few = finding(decision, "segment few")
    assert few.verdict == verdict
    assert ("lost more than 0.2" in few.headline) == (verdict == "undecided")


def test_floors() -> None:
    value = float(BASE.mean())
    for limit, passed in ((value - 1e-9, True), (value, True), (value + 1e-9, False)):
        decision = decide(evidence(BASE), None, replace(RULES, floors={"ndcg@10": limit, "mrr@10": 0.0}))
        floor = finding(decision, "floor ndcg@10")
        assert (floor.verdict == "passed", decision.passed) == (passed, passed)
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
def test_budgets(facts: dict[str, float], passed: bool, text: str) -> None:
    decision = decide(evidence(BASE, **facts), None, replace(RULES, budgets={"model_mb": 500.0}))
    assert finding(decision, "budget model_mb").text == text
    assert finding(decision, "budget model_mb").headline == text.partition(": at")[0].partition("; at")[
        0
    ].replace(";", ",")
    assert decision.passed is passed


def test_every_budget_is_looked_at() -> None:
    rules = replace(RULES, budgets={"unknown": 1.0, "model_mb": 500.0})
    decision = decide(evidence(BASE, model_mb=501.0), None, rules)
    assert decision.reasons == [
        "model_mb is 501; too high: at most 500 is allowed.",
        "unknown was not measured; at most 1 is allowed.",
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
    assert finding(decision, "floor rating/3").headline == text.partition(": at")[0].partition("; at")[
        0
    ].replace(";", ",")
    assert decision.passed is passed


def test_without_a_champion_there_is_nothing_to_compare_with() -> None:
    decision = decide(evidence(BASE), None, RULES)
    assert decision.passed
    assert decision.reasons == ["There is no champion yet: no comparison with it is needed."]


def test_other_queries_are_no_comparison() -> None:
    with pytest.raises(JudgeError, match="scored on different queries"):
        decide(evidence(BASE), evidence(BASE[:-1]), RULES)


@pytest.mark.parametrize("rules", [replace(RULES, primary="err@10"), replace(RULES, floors={"err@10": 0.1})])
def test_a_metric_that_was_not_scored(rules: Rules) -> None:
    with pytest.raises(JudgeError, match=r"err@10 was not scored.*scored are ndcg@10, mrr@10"):
        decide(evidence(BASE), evidence(BASE), rules)


def test_a_single_query_is_tested() -> None:
    segments = np.array(["single"] + ["rest"] * 399)
    decision = decide(evidence(BASE + 0.05, segments), evidence(BASE), replace(RULES, min_segment=1))
    single = finding(decision, "segment single")
    assert (single.verdict, single.limit) == ("passed", 0.0)


@pytest.mark.parametrize("kind", ["segments", "clusters"])
@pytest.mark.parametrize("count", [3, 401])
def test_labels_must_match_the_queries(kind: str, count: int) -> None:
    with pytest.raises(JudgeError, match=f"{count} {kind} for 400 queries"):
        decide(replace(evidence(BASE), **{kind: np.full(count, "a")}), None, RULES)


def test_the_decision_as_json() -> None:
    rules = replace(RULES, floors={"ndcg@10": 0.1}, budgets={"model_mb": 1.0})
    decision = decide(evidence(BASE + 0.05, SEGMENTS, model_mb=0.5), evidence(BASE), rules)
    plain = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert plain["verdict"] == "passed"
    assert [item["rule"] for item in plain["findings"]] == [item.rule for item in decision.findings]
    assert plain["findings"][0] == {
        "rule": "floor ndcg@10",
        "verdict": "passed",
        "text": decision.findings[0].text,
        "value": decision.findings[0].value,
        "low": None,
        "high": None,
        "limit": 0.1,
        "headline": decision.findings[0].headline,
    }
    assert all(item.headline and item.headline.split()[0] in item.text for item in decision.findings)
