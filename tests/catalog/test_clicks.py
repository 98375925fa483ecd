"""Clicks drawn from a known model, which must be recovered."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.clicks import Impression, count_searches, fit_position_model, grade_clicks, read_impressions
from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE, DataError

EXAMINATION = 1.0 / (1 + np.arange(10))


def draw_impressions(
    rng: np.random.Generator, times: int, shuffled: float
) -> tuple[list[Impression], dict[str, np.ndarray]]:
    """Ten queries of ten products each, in a fixed order, except for a share of shuffled pages."""
    impressions, truth = [], {}
    for query in (f"q{n}" for n in range(10)):
        truth[query] = rng.permutation(np.linspace(0.05, 0.9, 10))
        order = rng.permutation(10)
        for _ in range(times):
            shown = rng.permutation(10) if rng.random() < shuffled else order
            for position, product in enumerate(shown):
                clicked = rng.random() < EXAMINATION[position] * truth[query][product]
                impressions.append(Impression(query, str(product), position, bool(clicked)))
    return impressions, truth


def test_the_model_is_recovered() -> None:
    impressions, truth = draw_impressions(np.random.default_rng(0), 2000, 0.3)
    keys = dict.fromkeys((impression.query, impression.product) for impression in impressions)
    places = {key: number for number, key in enumerate(keys)}
    pairs = np.array([places[impression.query, impression.product] for impression in impressions])
    positions = np.array([impression.position for impression in impressions])
    clicked = np.array([impression.clicked for impression in impressions])
    attractiveness, examination = fit_position_model(pairs, positions, clicked)
    assert np.abs(examination - EXAMINATION).max() < 0.05
    expected = np.array([truth[query][int(product)] for query, product in places])
    assert np.abs(attractiveness - expected).mean() < 0.05
    rates = np.bincount(pairs, clicked) / np.bincount(pairs)  # biased towards the first positions
    assert np.corrcoef(attractiveness, expected)[0, 1] > 0.97
    assert np.corrcoef(rates, expected)[0, 1] < 0.7


def test_grades_follow_attractiveness() -> None:
    impressions, truth = draw_impressions(np.random.default_rng(1), 2000, 0.3)
    by_grade = defaultdict(list)
    for query, grades in grade_clicks(impressions).items():
        for product, grade in grades.items():
            by_grade[grade].append(truth[query][int(product)])
    assert min(by_grade[EXACT]) > 0.35 and np.mean(by_grade[SUBSTITUTE]) < np.mean(by_grade[EXACT]) - 0.2
    assert np.mean(by_grade[IRRELEVANT]) < 0.2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_at_one_position_it_is_the_rate_of_clicks(impressions: list[tuple[int, bool]]) -> None:
    pairs, clicked = (np.array(column) for column in zip(*impressions, strict=True))
    attractiveness, examination = fit_position_model(pairs, np.zeros(len(pairs), int), clicked)
    assert examination.tolist() == [1.0]
    expected = (clicked.mean() + np.bincount(pairs, clicked)) / (1 + np.bincount(pairs))
    assert np.allclose(attractiveness, np.minimum(expected, 1 - 1e-9))
    assert ((attractiveness >= 0) & (attractiveness <= 1)).all()


def test_what_is_never_clicked_is_irrelevant_once_it_was_seen_often() -> None:
    impressions = (
        [Impression("q", "a", 0, True)] * 30
        + [Impression("q", "b", 0, False)] * 30
        + [Impression("q", "c", 0, False)]
    )
    assert grade_clicks([*impressions, Impression("other", "a", 0, False)]) == {
        "q": {"a": EXACT, "b": IRRELEVANT}
    }
    assert grade_clicks([]) == {}


def test_searches_are_counted_by_the_most_frequent_position() -> None:
    pages = [("red", [0, 1, 2]), ("red", [0, 1]), ("red", [1, 2]), ("blue", [4])]  # a row may be missing
    impressions = [Impression(query, f"p{n}", n, False) for query, positions in pages for n in positions]
    assert count_searches(impressions) == {"red": 3, "blue": 1}
    assert count_searches([]) == {}


def test_a_log_is_read_with_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["Red  Shoe;p1;1;1", "red shoe;p2;2;false", "red shoe;p9;3;0", ";p1;1;1", "a;p1;0;1", "a;p1;1;2"]
    (tmp_path / "log.csv").write_text("\n".join(["query;product_id;position;clicked", *rows]))
    assert list(read_impressions(tmp_path / "log.csv", {"p1", "p2"}).elements()) == [
        Impression("red shoe", "p1", 0, True),
        Impression("red shoe", "p2", 1, False),
    ]
    error = capsys.readouterr().err
    assert "log.csv: skipped 3 rows; the first is log.csv line 5" in error
    assert "log.csv: skipped 1 rows of products that are not in the data" in error
    (tmp_path / "log.csv").write_text("query,product\na,b\n")
    with pytest.raises(
        DataError, match="no column for position, clicked; the header is query, product; name it"
    ):
        read_impressions(tmp_path / "log.csv", set())


def test_columns_of_a_log_have_synonyms_or_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("Search Term,sku,rank,is click\nRed Shoe,p1,2,1\n")
    assert list(read_impressions(tmp_path / "log.csv", {"p1"}).elements()) == [
        Impression("red shoe", "p1", 1, True)
    ]
    (tmp_path / "log.csv").write_text("gesucht,artikel,platz,geklickt\nRed Shoe,p1,2,0\n")
    names = ["query=gesucht", "product_id=artikel", "position=platz", "clicked=geklickt"]
    assert list(read_impressions(tmp_path / "log.csv", {"p1"}, (), names).elements()) == [
        Impression("red shoe", "p1", 1, False)
    ]
    with pytest.raises(
        DataError, match="--map text=a: not COLUMN=NAME with one of our columns; those of log are query"
    ):
        read_impressions(tmp_path / "log.csv", {"p1"}, (), ["text=a"])


@pytest.mark.parametrize("products", ["['p1', 'p2']", '[""p2"", ""p1""]', "p1|p2", "p1 p2"])
def test_a_row_per_search_lists_what_was_shown_and_clicked(products: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        f'query,product_skus_hash,clicked_skus_hash\nred,"{products}",p2\nred,p1,\n,p1,p1\n'
    )
    impressions = list(read_impressions(tmp_path / "log.csv", {"p1", "p2"}).elements())
    assert Impression("red", "p1", 0, False) in impressions and len(impressions) == 3
    assert [impression.product for impression in impressions if impression.clicked] == ["p2"]
    assert count_searches(impressions) == {"red": 2}


def test_events_of_searches_and_clicks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was clicked once counts as shown in each search; a click finds its query by the id of the search."""
    rows = ["search,s1,Red,,", "click,s1,,p1,2", "search,s2,red,,", "search,s3,red,,", "click,s3,red,p1,2"]
    rows += ["view,s3,,p2,", "click,s9,,p1,1", "click,s3,red,p1,first"]
    (tmp_path / "log.csv").write_text("\n".join(["event_type,search_uid,query,docid,rank", *rows]))
    impressions = list(read_impressions(tmp_path / "log.csv", {"p1"}).elements())
    clicked = Impression("red", "p1", 1, True)
    assert impressions == [clicked, clicked, Impression("red", "p1", 1, False)]
    assert (
        "log.csv: skipped 2 rows; the first is log.csv line 8: a click without a query"
        in capsys.readouterr().err
    )


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=60))
def test_equal_impressions_may_be_counted(rows: list[tuple[int, int, bool]]) -> None:
    impressions = [Impression("q", f"p{product}", position, clicked) for product, position, clicked in rows]
    assert grade_clicks(Counter(impressions)) == grade_clicks(impressions)
    assert count_searches(Counter(impressions)) == count_searches(impressions)
    pairs, positions, clicked = (np.array(column) for column in zip(*rows, strict=True))
    unique, counts = np.unique(np.array(rows, int), axis=0, return_counts=True)
    once = fit_position_model(pairs, positions, clicked)
    counted = fit_position_model(unique[:, 0], unique[:, 1], unique[:, 2] > 0, counts)
    assert all(np.allclose(*both) for both in zip(once, counted, strict=True))
