import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.looks import SKETCH, look_level, number_look, seen_share, sketch_queries


def queries(start: int, stop: int) -> list[str]:
    return sketch_queries(f"q{number}" for number in range(start, stop))


def test_the_levels_of_all_looks_add_up() -> None:
    levels = [look_level(0.025, look) for look in range(1, 10_000)]
    assert levels[0] == 0.0125
    assert levels == sorted(levels, reverse=True)
    assert 0.0249 < sum(levels) < 0.025


@given(st.floats(1, 1000), st.floats(0, 1))
def test_part_of_a_look_costs_less_than_a_look(look: float, share: float) -> None:
    assert look_level(0.05, look + 1) <= look_level(0.05, look + share) <= look_level(0.05, look)


@pytest.mark.parametrize("count", [5, SKETCH, 500, 5000])
def test_the_same_queries_were_all_seen(count: int) -> None:
    assert seen_share(queries(0, count), queries(0, count)) == 1.0
    assert seen_share(queries(0, count), queries(count, 2 * count)) == 0.0
    assert len(queries(0, count)) == min(count, SKETCH)


@pytest.mark.parametrize(
    ("earlier", "share"), [((0, 2000), 1.0), ((0, 750), 0.75), ((500, 1500), 0.5), ((0, 40), 0.04)]
)
def test_the_share_is_estimated_from_a_sample(earlier: tuple[int, int], share: float) -> None:
    assert seen_share(queries(0, 1000), queries(*earlier)) == pytest.approx(share, abs=0.18)


def test_shares_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        names = rng.integers(1 << 40, size=900).astype(str)
        shares.append(seen_share(sketch_queries(names[:600]), sketch_queries(names[200:])))
    assert np.mean(shares) == pytest.approx(2 / 3, abs=0.02)


def test_looks_count_as_far_as_they_saw_the_queries() -> None:
    present = queries(0, 100)
    assert number_look(present, []) == 1.0
    assert number_look(present, [present, present]) == 3.0
    assert number_look(present, [present, queries(100, 200)]) == 2.0
    assert number_look([], [present]) == 1.0
