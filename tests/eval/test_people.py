import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from vitrine_judge import people
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import Scores
from vitrine_judge.people import Answers, kendall, mean_ratings, measure_agreement
from vitrine_judge.segments import INTERVAL_QUERIES
from vitrine_judge.significance import mean_interval


def survey(*answers: tuple[str, str, float]) -> Answers:
    queries, models, rated = zip(*answers, strict=True)
    return Answers(np.array(queries), np.array(models), np.array(rated, float))


SURVEY = survey(("q1", "1", 5), ("q1", "1", 3), ("q2", "1", 2), ("q3", "1", 1), ("q1", "2", 4))


def test_a_query_counts_once_however_often_it_was_rated() -> None:
    every, dress, none, other, other_dress = mean_ratings(SURVEY, {"q1": "dress", "q2": "dress"})
    assert (every.model, every.segment.name, every.answers, every.segment.queries) == ("1", "all", 4, 3)
    assert every.segment.mean == pytest.approx((4 + 2 + 1) / 3)
    assert (dress.segment.name, dress.answers, dress.segment.mean) == ("dress", 3, 3.0)
    assert (none.segment.name, none.segment.queries, none.segment.mean) == ("none", 1, 1.0)
    assert math.isnan(none.segment.low)
    assert [(rating.model, rating.segment.name) for rating in (other, other_dress)] == [
        ("2", "all"),
        ("2", "dress"),
    ]


def test_the_interval_is_over_queries() -> None:
    answers = [
        (f"q{query}", "1", 1 + (query + repeat) % 5) for query in range(INTERVAL_QUERIES) for repeat in (0, 1)
    ]
    (rating,) = mean_ratings(survey(*answers), {})
    means = np.array(
        [np.mean([1 + (query + repeat) % 5 for repeat in (0, 1)]) for query in range(INTERVAL_QUERIES)]
    )
    assert (rating.segment.low, rating.segment.high) == mean_interval(means, (1.0, 5.0))
    assert rating.segment.high - rating.segment.low > 0.5


def test_without_segments_there_is_a_row_a_model() -> None:
    assert [(rating.model, rating.segment.name) for rating in mean_ratings(SURVEY, {})] == [
        ("1", "all"),
        ("2", "all"),
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30), st.integers(1, 40))
def test_kendall_is_scipys(pairs: list[tuple[int, int]], chunk: int) -> None:
    a, b = (np.array(column, float) for column in zip(*pairs, strict=True))
    expected = stats.kendalltau(a, b).statistic
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "CHUNK", chunk)
        assert kendall(a, b) == pytest.approx(expected, nan_ok=True)


def test_agreement_is_over_queries_that_have_both() -> None:
    ids = np.array([f"q{i}" for i in range(8)])
    scores = Scores(ids, np.ones(8, bool), {"mrr": np.arange(8) / 8})
    answers = [(f"q{i}", "1", float(i)) for i in (2, 3, 4, 5, 6, 7)] + [
        ("unknown", "1", 0.0),
        ("q0", "2", 3.0),
    ]
    first, second = measure_agreement(survey(*answers), scores, "mrr")
    assert (first.model, first.metric, first.queries, first.tau) == ("1", "mrr", 6, 1.0)
    assert first.low > 0.9
    assert (second.queries, math.isnan(second.tau), math.isnan(second.low)) == (1, True, True)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    slope, count, runs = 0.5, 60, 400
    truth = 2 / np.pi * np.arcsin(slope)  # of two normal variables with that correlation
    ids, covered = np.array([f"q{i:02}" for i in range(count)]), 0
    for _ in range(runs):
        a, b = rng.multivariate_normal([0, 0], [[1, slope], [slope, 1]], count).T
        (result,) = measure_agreement(
            Answers(ids, np.full(count, "1"), b), Scores(ids, np.ones(count, bool), {"mrr": a}), "mrr"
        )
        covered += result.low <= truth <= result.high
    assert covered / runs == pytest.approx(0.95, abs=0.03)


def test_surveys_that_do_not_add_up() -> None:
    with pytest.raises(JudgeError, match="one rating per answer"):
        Answers(np.array(["q"]), np.array(["1", "2"]), np.array([1.0]))
    with pytest.raises(JudgeError, match="rating of answer 0 is not a number"):
        survey(("q", "1", float("nan")))
