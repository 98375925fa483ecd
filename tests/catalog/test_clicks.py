"""Clicks drawn from a known model, and whether it is found again."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.clicks import Impression, count_searches, graded, impressions, position_based
from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE, DataError

LOOKED = 1.0 / (1 + np.arange(10))


def drawn(
    rng: np.random.Generator, times: int, shuffled: float
) -> tuple[list[Impression], dict[str, np.ndarray]]:
    """Ten queries of ten products each; always in the same order, but for a share that is shuffled."""
    seen, truth = [], {}
    for query in (f"q{n}" for n in range(10)):
        truth[query] = rng.permutation(np.linspace(0.05, 0.9, 10))
        order = rng.permutation(10)
        for _ in range(times):
            shown = rng.permutation(10) if rng.random() < shuffled else order
            for position, product in enumerate(shown):
                clicked = rng.random() < LOOKED[position] * truth[query][product]
                seen.append(Impression(query, str(product), position, bool(clicked)))
    return seen, truth


def test_what_was_drawn_is_found_again() -> None:
    seen, truth = drawn(np.random.default_rng(0), 2000, 0.3)
    places = {pair: n for n, pair in enumerate(dict.fromkeys((one.query, one.product) for one in seen))}
    pairs = np.array([places[one.query, one.product] for one in seen])
    positions, clicked = np.array([one.position for one in seen]), np.array([one.clicked for one in seen])
    attractive, looked = position_based(pairs, positions, clicked)
    assert np.abs(looked - LOOKED).max() < 0.05
    wanted = np.array([truth[query][int(product)] for query, product in places])
    assert np.abs(attractive - wanted).mean() < 0.05
    rates = np.bincount(pairs, clicked) / np.bincount(pairs)  # which take what is shown first for the best
    assert np.corrcoef(attractive, wanted)[0, 1] > 0.97
    assert np.corrcoef(rates, wanted)[0, 1] < 0.7


def test_grades_follow_attractiveness() -> None:
    seen, truth = drawn(np.random.default_rng(1), 2000, 0.3)
    by_grade = defaultdict(list)
    for query, grades in graded(seen).items():
        for product, grade in grades.items():
            by_grade[grade].append(truth[query][int(product)])
    assert min(by_grade[EXACT]) > 0.35 and np.mean(by_grade[SUBSTITUTE]) < np.mean(by_grade[EXACT]) - 0.2
    assert np.mean(by_grade[IRRELEVANT]) < 0.2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_at_one_position_it_is_the_rate_of_clicks(seen: list[tuple[int, bool]]) -> None:
    pairs, clicked = (np.array(column) for column in zip(*seen, strict=True))
    attractive, looked = position_based(pairs, np.zeros(len(pairs), int), clicked)
    assert looked.tolist() == [1.0]
    wanted = (clicked.mean() + np.bincount(pairs, clicked)) / (1 + np.bincount(pairs))
    assert np.allclose(attractive, np.minimum(wanted, 1 - 1e-9))
    assert ((attractive >= 0) & (attractive <= 1)).all()


def test_what_is_never_clicked_is_irrelevant_once_it_was_seen_often() -> None:
    seen = (
        [Impression("q", "a", 0, True)] * 30
        + [Impression("q", "b", 0, False)] * 30
        + [Impression("q", "c", 0, False)]
    )
    assert graded([*seen, Impression("other", "a", 0, False)]) == {"q": {"a": EXACT, "b": IRRELEVANT}}
    assert graded([]) == {}


def test_searches_are_counted_by_the_most_frequent_position() -> None:
    pages = [("red", [0, 1, 2]), ("red", [0, 1]), ("red", [1, 2]), ("blue", [4])]  # a row may be missing
    seen = [Impression(query, f"p{n}", n, False) for query, positions in pages for n in positions]
    assert count_searches(seen) == {"red": 3, "blue": 1}
    assert count_searches([]) == {}


def test_a_log_is_read_with_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["Red  Shoe;p1;1;1", "red shoe;p2;2;false", "red shoe;p9;3;0", ";p1;1;1", "a;p1;0;1", "a;p1;1;2"]
    (tmp_path / "log.csv").write_text("\n".join(["query;product_id;position;clicked", *rows]))
    assert impressions(tmp_path / "log.csv", {"p1", "p2"}) == [
        Impression("red shoe", "p1", 0, True),
        Impression("red shoe", "p2", 1, False),
    ]
    said = capsys.readouterr().err
    assert "log.csv: left out 3 rows, the first log.csv line 5" in said
    assert "log.csv: left out 1 rows of products that are not in the data" in said
    (tmp_path / "log.csv").write_text("query,product\na,b\n")
    with pytest.raises(DataError, match="no column product_id, position, clicked"):
        impressions(tmp_path / "log.csv", set())
