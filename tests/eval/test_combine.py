import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.combine import NORMALISATIONS, best_weight, comb_mnz, comb_sum, rrf, weighted
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

FIRST = Run.from_dict({"q": {"a": 10.0, "b": 8.0, "c": 0.0}, "r": {"a": 1.0}})
SECOND = Run.from_dict({"q": {"b": 0.5, "d": 0.1}, "s": {"z": 3.0, "y": 3.0}})


def test_reciprocal_rank_fusion_by_hand() -> None:
    assert rrf([FIRST, SECOND]).to_dict() == {
        "q": {"b": pytest.approx(1 / 62 + 1 / 61), "a": 1 / 61, "d": 1 / 62, "c": 1 / 63},
        "r": {"a": 1 / 61},
        "s": {"y": 1 / 61, "z": 1 / 62},
    }


def test_sums_by_hand() -> None:
    assert comb_sum([FIRST, SECOND]).to_dict() == {
        "q": {"b": 1.8, "a": 1.0, "c": 0.0, "d": 0.0},
        "r": {"a": 1.0},
        "s": {"y": 1.0, "z": 1.0},
    }
    assert comb_mnz([FIRST, SECOND]).to_dict()["q"] == {"b": 3.6, "a": 1.0, "c": 0.0, "d": 0.0}
    assert weighted([FIRST, SECOND], [0.5, 2.0]).to_dict()["q"] == {"b": 2.4, "a": 0.5, "c": 0.0, "d": 0.0}
    assert weighted([FIRST, SECOND], [1.0, 0.0], "none").to_dict()["q"] == {"a": 10, "b": 8, "c": 0, "d": 0}


def test_z_scores_have_mean_0_and_spread_1() -> None:
    for query, pairs in comb_sum([FIRST, SECOND], "z-score").to_dict().items():
        if query != "q":
            assert set(pairs.values()) == {0.0}  # equal scores say nothing
    normalised = np.array(list(comb_sum([FIRST], "z-score").to_dict()["q"].values()))
    assert (normalised.mean(), normalised.std()) == pytest.approx((0.0, 1.0))


RUNS = st.dictionaries(
    st.sampled_from("pqr"),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(-3, 3).map(float), min_size=1),
    min_size=1,
).map(Run.from_dict)


@given(st.lists(RUNS, min_size=1, max_size=4), st.sampled_from([rrf, comb_sum, comb_mnz]), st.randoms())
def test_the_order_of_runs_does_not_matter(runs: list[Run], combine: object, random: object) -> None:
    combined = combine(runs).to_dict()
    random.shuffle(runs)
    shuffled = combine(runs).to_dict()
    assert {q: pytest.approx(pairs) for q, pairs in combined.items()} == shuffled


@given(RUNS, st.sampled_from(list(NORMALISATIONS)))
def test_one_run_keeps_its_order(run: Run, normalisation: str) -> None:
    combined = comb_sum([run], normalisation).to_dict()
    assert [list(pairs) for pairs in combined.values()] == [list(pairs) for pairs in run.to_dict().values()]
    assert [list(pairs) for pairs in rrf([run]).to_dict().values()] == [
        list(pairs) for pairs in run.to_dict().values()
    ]


def test_the_best_weight_is_the_one_that_scores_best() -> None:
    good = Run.from_dict({"q": {"a": 2.0, "b": 1.0}, "r": {"c": 2.0, "a": 1.0}})
    bad = Run.from_dict({"q": {"b": 2.0, "a": 1.0}, "r": {"a": 2.0, "c": 1.0}})
    qrels = Qrels.from_dict({"q": {"a": 1}, "r": {"c": 1}})
    weight = best_weight(good, bad, qrels, "mrr")
    assert weight > 0.5
    assert best_weight(bad, good, qrels, "mrr") < 0.5
    assert score(weighted([good, bad], [weight, 1 - weight]), qrels, ["mrr"]).means() == {"mrr": 1.0}


def test_what_cannot_be_combined() -> None:
    with pytest.raises(JudgeError, match="no runs"):
        rrf([])
    with pytest.raises(JudgeError, match="1 weights for 2 runs"):
        weighted([FIRST, SECOND], [1.0])
    with pytest.raises(JudgeError, match="unknown normalisation 'softmax'; known are min-max, z-score, none"):
        comb_mnz([FIRST, SECOND], "softmax")
