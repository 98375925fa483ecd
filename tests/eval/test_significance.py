from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from vitrine_judge import significance
from vitrine_judge.errors import JudgeError
from vitrine_judge.significance import (
    benjamini_hochberg,
    bootstrap_interval,
    detectable_difference,
    holm,
    paired_test,
    sign_flip,
    t_test,
)


def enumerated(difference: np.ndarray) -> float:
    """The p-value over every choice of signs."""
    sums = [abs(np.dot(signs, difference)) for signs in product((1, -1), repeat=len(difference))]
    return float(np.mean(np.array(sums) >= abs(difference.sum()) - 1e-12))


@pytest.mark.parametrize(
    "difference",
    [
        [1.0, 1.0],
        [0.1, 0.2, 0.3],  # sums that are equal but for their last digits
        [0.5, -0.5, 0.0, 0.0],
        [1.0, 2.0, -1.0, 3.0, 0.5],
        [0.1] * 8,
        [0.3, -0.1, 0.2, 0.2, 0.1, -0.4, 0.6, 0.2, 0.1, 0.7],
    ],
)
def test_sign_flip_agrees_with_all_signs_enumerated(difference: list[float]) -> None:
    exact = enumerated(np.array(difference))
    resamples = 40_000
    error = 4 * sqrt(exact * (1 - exact) / resamples) + 2 / resamples
    assert sign_flip(np.array(difference), resamples) == pytest.approx(exact, abs=error)


def test_the_smallest_p_value_counts_the_observed_signs() -> None:
    assert sign_flip(np.ones(60), resamples=99) == 1 / 100
    assert sign_flip(np.zeros(60), resamples=99) == 1.0


def test_p_values_keep_their_level_between_equals() -> None:
    rng = np.random.default_rng(0)
    runs = 1500
    # Skewed, sparse and discrete, as differences of rankings are; symmetric, as equals must be.
    differences = (rng.random((runs, 30)) < 0.5) * rng.choice([-1, -0.2, 0.2, 1], (runs, 30))
    p_values = np.array([sign_flip(d, resamples=199, seed=i) for i, d in enumerate(differences)])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p_values <= level) < level + 3 * sqrt(level * (1 - level) / runs)
    assert np.mean(p_values <= 0.5) > 0.4


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_cover_the_truth_as_often_as_they_say(confidence: float) -> None:
    rng = np.random.default_rng(1)
    runs = 700
    samples = rng.exponential(1.0, (runs, 60)) - 0.9  # skewed, with mean 0.1
    intervals = np.array([bootstrap_interval(s, 600, i, confidence) for i, s in enumerate(samples)])
    covered = np.mean((intervals[:, 0] <= 0.1) & (intervals[:, 1] >= 0.1))
    error = 3 * sqrt(confidence * (1 - confidence) / runs)
    assert confidence - 0.03 - error < covered < confidence + error  # 60 skewed values: a little short


def test_intervals_lean_with_the_skew() -> None:
    """The bootstrap without correction is near symmetric here; BCa reaches further into the long tail."""
    sample = np.random.default_rng(2).exponential(1.0, 40)
    low, high = bootstrap_interval(sample, 20_000)
    assert high - sample.mean() > 1.15 * (sample.mean() - low)


def test_intervals_are_near_the_normal_one_where_that_holds() -> None:
    sample = np.random.default_rng(3).normal(0.2, 1.0, 2000)
    half = 1.959964 * sample.std() / sqrt(len(sample))
    low, high = bootstrap_interval(sample, 20_000, confidence=0.95)
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.05 * half)


def test_equal_differences_have_no_width() -> None:
    assert bootstrap_interval(np.full(50, 0.1)) == pytest.approx((0.1, 0.1), abs=1e-15)
    assert bootstrap_interval(np.zeros(50)) == (0.0, 0.0)


def test_paired_test() -> None:
    rng = np.random.default_rng(4)
    b = rng.random(200)
    a = b + rng.normal(0.05, 0.1, 200)
    result = paired_test(a, b, seed=7, confidence=0.9)
    assert result.difference == pytest.approx(float(np.mean(a) - np.mean(b)))
    assert result.low < result.difference < result.high
    assert result.p_value < 0.001 < result.low
    assert result.confidence == 0.9
    mirrored = paired_test(b, a, seed=7, confidence=0.9)
    assert mirrored.difference == -result.difference
    assert mirrored.p_value == result.p_value


def test_same_seed_same_answer_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(5).random((2, 101))
    first = paired_test(a, b, resamples=500, seed=3)
    assert paired_test(a, b, resamples=500, seed=3) == first
    assert paired_test(a, b, resamples=500, seed=4) != first
    drawn = []
    monkeypatch.setattr(significance, "CHUNK", 1000)
    draw = np.random.Generator.integers

    class Watched(np.random.Generator):
        def integers(self, *args: object, **options: object) -> np.ndarray:
            drawn.append(options["size"])
            return draw(self, *args, **options)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Watched(np.random.PCG64(seed)))
    small = paired_test(a, b, resamples=500, seed=3)
    assert small.difference == first.difference
    assert max(rows * columns for rows, columns in drawn) <= 1000
    assert sum(rows for rows, _ in drawn) == 2 * 500


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1.0], [0.0], {}, "two queries or more"),
        ([], [], {}, "two queries or more"),
        ([[1.0, 2.0]], [[1.0, 2.0]], {}, r"shape \(1, 2\)"),
        ([1.0, 2.0], [1.0], {}, r"shape \(2,\) and \(1,\)"),
        ([1.0, np.nan], [1.0, 1.0], {}, "difference at index 1 is not a finite number"),
        ([1.0, 2.0], [1.0, 1.0], {"resamples": 0}, "resamples is 0"),
        ([1.0, 2.0], [1.0, 1.0], {"confidence": 1.0}, "confidence is 1.0"),
    ],
)
def test_what_cannot_be_compared(a: list, b: list, options: dict, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        paired_test(np.array(a), np.array(b), **options)


def test_holm_by_hand() -> None:
    # Times 4, 3, 2, 1 in ascending order: .04, .06, .06, .05; the last may not be below the one before.
    assert holm(np.array([0.03, 0.01, 0.05, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_never_helps(p_values: list[float]) -> None:
    p = np.array(p_values)
    adjusted = holm(p)
    assert ((adjusted >= p) & (adjusted <= 1)).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(JudgeError, match="between 0 and 1"):
        holm(np.array([0.5, bad]))


def test_differences_too_small_to_be_cubed_have_an_interval() -> None:
    low, high = bootstrap_interval(np.array([0.0, 1e-129]), 200)
    assert 0 <= low < high <= 1e-129


# The t-test, corrections and power, against SciPy's


@pytest.mark.parametrize("count", [2, 3, 4, 5, 30, 31, 1000])
@pytest.mark.parametrize("shift", [0.0, 0.1, -1.0, 3.0])
def test_the_t_test_is_scipys(count: int, shift: float) -> None:
    difference = np.random.default_rng(count).normal(shift, 1.0, count)
    assert t_test(difference) == pytest.approx(stats.ttest_1samp(difference, 0.0).pvalue, abs=1e-12)


def test_a_t_test_where_all_differences_are_equal() -> None:
    assert t_test(np.full(9, 0.1)) == 0.0
    assert t_test(np.zeros(9)) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_is_scipys(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values, method="bh")
    assert benjamini_hochberg(np.array(p_values)) == pytest.approx(expected, abs=1e-12)
    assert (benjamini_hochberg(np.array(p_values)) <= holm(np.array(p_values)) + 1e-12).all()


def test_a_detectable_difference_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    spread, count, runs = 0.3, 50, 2000
    least = detectable_difference(rng.normal(0, spread, 100_000)) * sqrt(100_000 / count)
    p_values = [t_test(rng.normal(least, spread, count)) for _ in range(runs)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("power", "confidence"), [(0.0, 0.95), (1.0, 0.95), (0.8, 1.0)])
def test_a_power_that_cannot_be(power: float, confidence: float) -> None:
    with pytest.raises(JudgeError, match="must lie between 0 and 1"):
        detectable_difference(np.arange(5.0), power, confidence)
