import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitrine_judge.decision import Decision, Finding
from vitrine_judge.interleaving import required_sessions
from vitrine_judge.online import Day, OnlineResult, OnlineRule, confirm_online
from vitrine_judge.online_plot import plot_online, table_online

RULE = OnlineRule()
PASSED = Decision((Finding("gain ndcg@10", "passed", "ndcg@10 improved."),))
FAILED = Decision((Finding("gain ndcg@10", "failed", "ndcg@10 did not improve."),))
COUNTS = st.integers(0, 400)
DAYS = st.lists(st.tuples(COUNTS, COUNTS, COUNTS).filter(any), min_size=1, max_size=6).map(
    lambda rows: tuple(Day(f"2026-11-{number:02d}", *row) for number, row in enumerate(rows, start=1))
)


def texts(plot: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", plot)


def measured(lost: int, tied: int, won: int) -> OnlineResult:
    return OnlineResult("interleaving", (Day("2026-11-01", 1, 2, 3), Day("2026-11-03", lost, tied, won)))


BETTER, EQUAL, WORSE = measured(50, 500, 250), measured(100, 500, 120), measured(250, 500, 50)


@pytest.mark.parametrize(
    ("result", "verdict", "start"),
    [
        (BETTER, "passed", "Customers prefer this version: preference +0.2506 (95 % interval +0.1"),
        (EQUAL, "undecided", "Customers may or may not prefer this version: preference +0.0"),
        (WORSE, "failed", "Customers do not prefer this version: preference -0.2"),
    ],
)
def test_the_rule_compares_the_interval_with_its_limit(
    result: OnlineResult, verdict: str, start: str
) -> None:
    decision = confirm_online(PASSED, result, RULE)
    finding = decision.findings[-1]
    assert (decision.verdict, finding.rule) == (verdict, "online")
    assert finding.text.startswith(start) and "2026-11-01 to 2026-11-03" in finding.text
    last = result.measure(0.95)[-1]
    assert (finding.value, finding.low, finding.high, finding.limit) == (last.mean, last.low, last.high, 0.0)


def test_a_limit_above_and_below_zero() -> None:
    last = BETTER.measure(0.95)[-1]
    for limit, verdict in ((last.low, "undecided"), (last.low - 1e-9, "passed"), (last.high, "failed")):
        assert confirm_online(PASSED, BETTER, replace(RULE, min_preference=limit)).verdict == verdict
    assert (
        "by more than -0.1000"
        in confirm_online(PASSED, EQUAL, replace(RULE, min_preference=-0.1)).reasons[-1]
    )


def test_a_minimum_of_sessions_delays_what_is_good_but_not_what_is_bad() -> None:
    rule = replace(RULE, min_sessions=1000)
    decision = confirm_online(PASSED, BETTER, rule)
    assert decision.verdict == "undecided" and decision.reasons[-1].endswith(" At least 1,000 are required.")
    assert confirm_online(PASSED, WORSE, rule).verdict == "failed"
    assert confirm_online(PASSED, BETTER, replace(rule, min_sessions=806)).passed


def test_what_is_undecided_says_how_many_sessions_are_needed() -> None:
    last = EQUAL.measure(0.95)[-1]
    needed = float(f"{required_sessions(last.mean, last.decisive):.2g}")
    assert f"needs about {needed:,.0f} for 80 % power." in confirm_online(PASSED, EQUAL, RULE).reasons[-1]


def test_more_confidence_needs_more() -> None:
    result = measured(100, 500, 150)
    verdicts = [
        confirm_online(PASSED, result, replace(RULE, confidence=share)).verdict for share in (0.9, 0.9999)
    ]
    assert verdicts == ["passed", "undecided"]


def test_without_a_result_only_a_candidate_that_passed_awaits_an_experiment() -> None:
    waiting = confirm_online(PASSED, None, RULE)
    assert waiting.verdict == "undecided" and waiting.awaits_experiment
    assert waiting.reasons[0].startswith(
        "There is no online result against the champion yet: start an experiment"
    )
    assert confirm_online(FAILED, None, RULE) is FAILED and not FAILED.awaits_experiment
    assert confirm_online(FAILED, BETTER, RULE).verdict == "failed"
    assert confirm_online(PASSED, EQUAL, RULE).awaits_experiment
    assert not confirm_online(PASSED, WORSE, RULE).awaits_experiment
    assert not confirm_online(PASSED, BETTER, RULE).awaits_experiment
    undecided = Decision((replace(PASSED.findings[0], verdict="undecided"),))
    assert not confirm_online(undecided, EQUAL, RULE).awaits_experiment


@pytest.mark.parametrize("result", [None, BETTER, WORSE])
def test_without_the_rule_nothing_changes(result: OnlineResult | None) -> None:
    assert confirm_online(PASSED, result, None) is PASSED


@given(DAYS)
@settings(max_examples=15)
def test_a_result_survives_json_and_each_day_measures_all_before_it(days: tuple[Day, ...]) -> None:
    result = OnlineResult("ab", days)
    assert OnlineResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    for number, after in enumerate(result.measure(0.95), start=1):
        assert after == OnlineResult("ab", days[:number]).measure(0.95)[-1]
        assert after.sessions == sum(sum(day[1:]) for day in days[:number])


def test_the_date_of_the_verdict_is_the_first_day_with_a_winner() -> None:
    assert BETTER.find_verdict_date(0.95) == WORSE.find_verdict_date(0.95) == "2026-11-03"
    assert EQUAL.find_verdict_date(0.95) == ""


def test_plot_and_table_have_the_numbers() -> None:
    plot, table = plot_online(BETTER, 0.95, 0.02), table_online(BETTER, 0.95)
    last = BETTER.measure(0.95)[-1]
    numbers = f"{last.mean:+.3f} ({last.low:+.3f} to {last.high:+.3f})"
    assert {"2026-11-01", "2026-11-03", "806 sessions", numbers} <= set(texts(plot))
    assert numbers in plot, "for screen readers too"
    assert [cell.text for cell in table.rows[1][:4]] == ["2026-11-03", "250", "500", "50"]
    assert table.rows[1][5].value == last.low


@given(DAYS)
@settings(max_examples=15)
def test_any_result_has_a_plot(days: tuple[Day, ...]) -> None:
    dates = [
        text for text in texts(plot_online(OnlineResult("interleaving", days), 0.95)) if text[:4] == "2026"
    ]
    assert dates == ([days[0].date, days[-1].date] if len(days) > 1 else [days[0].date])
