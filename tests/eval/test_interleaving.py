from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitrine_judge.errors import JudgeError
from vitrine_judge.interleaving import (
    BETS,
    OUTCOMES,
    Preference,
    credit,
    log_capital,
    preference,
    preference_from_counts,
    required_sessions,
    team_draft,
)

RANKINGS = st.lists(st.integers(0, 15), max_size=12)
SEEDS = st.integers(0, 1000)
RESULTS = st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0]), min_size=1, max_size=60).map(np.array)


def draft(
    first: list[int], second: list[int], k: int = 10, seed: int = 0
) -> tuple[list[int], list[int], list[list[int]]]:
    """The list, its teams, and the picks of each team."""
    ids, teams = team_draft(first, second, k, np.random.default_rng(seed))
    picks = [[item for item, owner in zip(ids, teams, strict=True) if owner == team] for team in (0, 1)]
    return ids, teams, picks


@given(RANKINGS, RANKINGS, st.integers(1, 30), SEEDS)
def test_a_list_holds_the_best_results_of_both_without_duplicates(
    first: list[int], second: list[int], k: int, seed: int
) -> None:
    ids, teams, picks = draft(first, second, k, seed)
    assert len(ids) == len(set(ids)) == len(teams) == min(k, len({*first, *second}))
    for ranking, team_picks in zip((first, second), picks, strict=True):
        distinct = list(dict.fromkeys(ranking))
        places = [distinct.index(item) for item in team_picks]
        assert places == sorted(places), "a team's picks are in its order"
        # nothing better than a pick of the team is missing: the list holds a prefix of either ranking
        prefix = distinct[: places[-1] + 1 if places else 0]
        assert set(prefix) <= set(ids)


@given(RANKINGS, RANKINGS, st.integers(1, 30), SEEDS)
def test_teams_pick_in_turns_while_both_have_results(
    first: list[int], second: list[int], k: int, seed: int
) -> None:
    ids, teams, _ = draft(first, second, k, seed)
    for position in range(len(ids)):
        rest = set(ids[:position])
        if set(first) - rest and set(second) - rest:
            picks = [teams[: position + 1].count(team) for team in (0, 1)]
            assert abs(picks[0] - picks[1]) <= 1


@given(st.lists(st.integers(), unique=True, max_size=12), st.integers(1, 15), SEEDS)
def test_equal_rankings_give_that_ranking_with_half_for_each_team(
    ranking: list[int], k: int, seed: int
) -> None:
    ids, teams, _ = draft(ranking, ranking, k, seed)
    assert ids == ranking[:k]
    assert abs(teams.count(0) - teams.count(1)) == len(ids) % 2


@given(RANKINGS, RANKINGS, SEEDS)
def test_the_seed_fixes_the_list(first: list[int], second: list[int], seed: int) -> None:
    assert draft(first, second, seed=seed) == draft(first, second, seed=seed)


def test_each_team_picks_first_in_half_of_the_rounds() -> None:
    rng = np.random.default_rng(5)
    teams = np.array([team_draft(range(10), range(10, 20), 4, rng)[1] for _ in range(1000)])
    assert teams.mean(0) == pytest.approx(0.5, abs=0.06)
    assert np.mean(teams[:, 0] == teams[:, 2]) == pytest.approx(0.5, abs=0.06), "each round has a coin"


def test_a_short_ranking_leaves_the_rest_to_the_other_team() -> None:
    ids, teams, picks = draft([1, 1, 2], [3, 1, 4, 5, 6], 6)
    assert set(ids) == {1, 2, 3, 4, 5, 6}
    assert picks[0] in ([1, 2], [2]) and teams[-2:] == [1, 1]
    assert draft([], [7, 8])[:2] == ([7, 8], [1, 1])
    assert draft([], [])[:2] == ([], [])


def test_a_list_without_results_is_refused() -> None:
    with pytest.raises(JudgeError, match="k is 0"):
        team_draft([1], [2], 0, np.random.default_rng(0))


def test_the_team_with_more_clicked_results_wins_the_session() -> None:
    sessions = np.array(["b", "a", "b", "a", "b", "c", "d", "d"])
    teams = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    clicks = np.array([True, True, True, False, True, False, True, True])
    assert credit(teams, clicks, sessions).tolist() == [-1, 1, 0, 0]
    assert credit(np.zeros(3, int), np.full(3, True), np.zeros(3, int)).tolist() == [1], (
        "by how much is no matter"
    )


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 5)), min_size=1), SEEDS)
def test_credit_depends_on_neither_order_nor_which_ranker_is_first(
    rows: list[tuple[int, bool, int]], seed: int
) -> None:
    teams, clicks, sessions = map(np.array, zip(*rows, strict=True))
    outcomes = credit(teams, clicks, sessions)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert credit(teams[order], clicks[order], sessions[order]).tolist() == outcomes.tolist()
    assert credit(1 - teams, clicks, sessions).tolist() == (-outcomes).tolist()


@pytest.mark.parametrize(
    ("teams", "message"),
    [([0, 1], "shapes"), ([0, 1, 2], "the team at index 2 is 2"), ([[0, 1, 1]], "shapes")],
)
def test_credit_refuses_what_it_cannot_read(teams: list[int], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        credit(np.array(teams), np.array([True, False, True]), np.array([1, 1, 2]))


def test_capital_is_what_the_bets_earn() -> None:
    outcomes, limit = np.array([1, 1, -1, 0, 0.5]), 0.2
    earned = np.mean([np.prod(1 + bet * ((outcomes + 1) / (limit + 1) - 1)) for bet in BETS])
    assert log_capital(outcomes, np.ones(5), limit) == pytest.approx(np.log(earned))


@given(RESULTS, st.floats(-0.99, 1))
def test_capital_is_expected_not_to_grow_at_the_mean(values: np.ndarray, limit: float) -> None:
    """A fair bet: with one more session whose expected outcome is the limit, the expected capital is the same."""
    before, chance = log_capital(values, np.ones(len(values)), limit), (limit + 1) / 2
    after = [log_capital(np.append(values, last), np.ones(len(values) + 1), limit) for last in (1.0, -1.0)]
    expected = chance * np.exp(after[0]) + (1 - chance) * np.exp(after[1])
    assert expected == pytest.approx(np.exp(before), rel=1e-9)


@given(RESULTS, st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_the_ends_are_where_the_capital_reaches_the_threshold(values: np.ndarray, confidence: float) -> None:
    measured, threshold = preference(values, confidence), np.log(2 / (1 - confidence))
    assert -1 <= measured.low <= measured.mean <= measured.high <= 1
    assert measured.sessions == len(values)
    for sign, end in ((1, measured.low), (-1, -measured.high)):
        if end > -1 + 1e-9:
            assert log_capital(sign * values, np.ones(len(values)), end) == pytest.approx(threshold, abs=1e-6)


@given(RESULTS, SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_preference_is_symmetric_and_ignores_the_order(values: np.ndarray, seed: int) -> None:
    measured = preference(values)
    shuffled = preference(np.random.default_rng(seed).permutation(values))
    for field in ("mean", "low", "high"):
        assert getattr(shuffled, field) == pytest.approx(getattr(measured, field), abs=1e-12)
    negated = preference(-values)
    assert (negated.low, negated.high) == pytest.approx((-measured.high, -measured.low), abs=1e-12)


@given(st.tuples(*[st.integers(0, 50)] * 3).filter(any), st.floats(0.5, 0.999))
def test_counts_of_outcomes_are_enough(counts: tuple[int, int, int], confidence: float) -> None:
    assert preference_from_counts(*counts, confidence) == preference(np.repeat(OUTCOMES, counts), confidence)


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 5, 5)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(JudgeError, match="a preference needs sessions"):
        preference_from_counts(*counts)


def test_the_interval_holds_the_preference_at_all_times() -> None:
    """For unequal outcomes, with looks after each of 500 sessions, far less than 5 % may leave it."""
    rng, shares = np.random.default_rng(8), [0.1, 0.6, 0.3]
    outcomes = rng.choice(OUTCOMES, (1000, 500), p=shares)
    counts = np.stack([outcomes == value for value in OUTCOMES], axis=2).cumsum(1)
    threshold = np.log(2 / 0.05)
    leaves = (log_capital(OUTCOMES, counts, 0.2) >= threshold) | (
        log_capital(-OUTCOMES, counts, -0.2) >= threshold
    )
    assert 0 < leaves.any(1).mean() <= 0.05


@pytest.mark.parametrize(("share", "winner"), [(0.3, "first"), (0.1, "undecided"), (0.02, "second")])
def test_the_better_ranker_wins(share: float, winner: str) -> None:
    outcomes = np.repeat([1, 0, -1], [int(1000 * share), 900 - int(1000 * share), 100])
    measured = preference(outcomes)
    assert measured.winner == winner
    assert measured.decisive == pytest.approx(share + 0.1)
    assert measured.mean == pytest.approx(share - 0.1)


def test_an_end_at_zero_is_no_verdict() -> None:
    tie = Preference(0.1, 0.0, 0.2, 0.95, 10, 0.5)
    assert tie.winner == "undecided" == replace(tie, low=-0.2, high=0.0).winner


def test_more_confidence_is_a_wider_interval_and_more_sessions_a_narrower() -> None:
    outcomes = np.tile([1, 0, -1, 0, 1], 40)
    usual, strict, longer = (
        preference(values, confidence)
        for values, confidence in ((outcomes, 0.95), (outcomes, 0.99), (np.tile(outcomes, 4), 0.95))
    )
    assert strict.low < usual.low < longer.low < longer.high < usual.high < strict.high


@pytest.mark.parametrize("outcome", [-1, 1])
def test_sessions_that_all_agree_have_an_interval_too(outcome: int) -> None:
    with np.errstate(all="raise"):
        measured = preference(np.full(200, outcome))
    assert abs(measured.mean) == 1 and measured.winner == ("first" if outcome > 0 else "second")
    assert (measured.high if outcome > 0 else -measured.low) == 1


@pytest.mark.parametrize(
    ("outcomes", "confidence", "message"),
    [
        ([], 0.95, "shape"),
        ([[1.0]], 0.95, "shape"),
        ([0.0, 1.5], 0.95, "index 1 is 1.5"),
        ([-1.01, 1.0], 0.95, "index 0 is -1.01"),
        ([np.nan, 1.0], 0.95, "index 0 is nan"),
        ([1.0], 1.0, "confidence is 1.0"),
    ],
)
def test_outcomes_that_cannot_be_are_refused(outcomes: list[float], confidence: float, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        preference(np.array(outcomes), confidence)


@pytest.mark.parametrize(
    ("mean", "decisive", "power", "confidence"),
    [(0.05, 0.3, 0.8, 0.95), (-0.2, 0.5, 0.8, 0.95), (0.02, 0.1, 0.5, 0.95), (0.6, 0.8, 0.8, 1 - 1e-12)],
)
def test_the_power_is_reached_with_the_required_sessions(
    mean: float, decisive: float, power: float, confidence: float
) -> None:
    sessions = required_sessions(mean, decisive, confidence, power)
    shares = [(decisive - abs(mean)) / 2, 1 - decisive, (decisive + abs(mean)) / 2]
    counts = np.random.default_rng(4).multinomial(sessions, shares, 4000)
    shown = log_capital(OUTCOMES, counts, 0.0) >= np.log(2 / (1 - confidence))
    assert shown.mean() == pytest.approx(power, abs=0.03)


def test_the_required_sessions_are_the_fewest() -> None:
    fewest = required_sessions(1.0, 1.0)
    assert preference(np.ones(fewest)).winner == "first"
    assert preference(np.ones(fewest - 1)).winner == "undecided"
    assert np.ceil(required_sessions(0.3, 0.3, power=0.01) * 0.3) >= fewest, "no more sessions have a winner"


@pytest.mark.parametrize("share", [0.003, 0.03, 0.3])
def test_small_and_large_preferences_cost_as_much_more_than_one_look(share: float) -> None:
    decisive = 0.4
    mean = share * decisive
    single_look = (1.96 + 0.84) ** 2 * (decisive - mean**2) / mean**2
    assert 1.8 < required_sessions(mean, decisive) / single_look < 2.6


def test_a_smaller_preference_or_more_confidence_or_power_requires_more_sessions() -> None:
    usual = required_sessions(0.05, 0.3)
    assert usual < required_sessions(0.05, 0.4)
    assert usual < required_sessions(0.04, 0.3)
    assert usual < required_sessions(0.05, 0.3, confidence=0.99)
    assert usual < required_sessions(0.05, 0.3, power=0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.3), "the preference is 0.0"),
        ((0.4, 0.3), "decisive sessions is 0.3"),
        ((0.4, 1.1), "at most 1"),
        ((1e-9, 0.3), "too small"),
        ((0.1, 0.3, 0.0), "confidence is 0.0"),
        ((0.1, 0.3, 0.9, 1.0), "power is 1.0"),
    ],
)
def test_impossible_plans_are_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        required_sessions(*arguments)
