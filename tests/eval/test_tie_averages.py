"""The mean over all orders of equal scores, against all orders written out."""

from fractions import Fraction
from itertools import groupby, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import METRICS, Scores, score
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.tie_averages import AVERAGES

ESCI = {0: 0.0, 1: 0.01, 2: 0.1, 3: 1.0}
NAMES = [
    *AVERAGES,
    *(f"{name}@{k}" for name in AVERAGES if METRICS[name].has_cutoff and ":" not in name for k in (1, 2, 4)),
    "ndcg@3:exp",
    "rbp@3:0.5",
]
ITEMS = "abcdefg"
RUNS = st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 2), min_size=1, max_size=5)
JUDGED = st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 3), min_size=1)


def all_orders(scores: dict[str, int]) -> dict[str, dict[str, float]]:
    """A run with one query per order in which equal scores can be."""
    ranked = sorted(scores, key=lambda item: -scores[item])
    groups = [list(group) for _, group in groupby(ranked, lambda item: scores[item])]
    orders = product(*(list(permutations(group)) for group in groups))
    return {
        str(number): {item: -float(rank) for rank, item in enumerate(sum(order, ()))}
        for number, order in enumerate(orders)
    }


def averages(run: dict, qrels: dict, names: list[str], **options: object) -> Scores:
    return score(Run.from_dict(run), Qrels.from_dict(qrels), names, ties="average", **options)


@settings(max_examples=200, deadline=None)
@given(RUNS, JUDGED, st.sampled_from([1, 2, 3]), st.sampled_from([None, ESCI]))
def test_it_is_the_mean_over_all_orders(
    run: dict[str, int], qrels: dict[str, int], relevant: int, gains: dict[int, float] | None
) -> None:
    orders = all_orders(run)
    each = score(
        Run.from_dict(orders),
        Qrels.from_dict(dict.fromkeys(orders, qrels)),
        NAMES,
        relevant=relevant,
        gains=gains,
    )
    means = averages({"q": run}, {"q": qrels}, NAMES, relevant=relevant, gains=gains).means()
    assert means == pytest.approx(each.means(), abs=1e-12)


@given(
    st.dictionaries(st.sampled_from("pqrs"), RUNS, min_size=1),
    st.dictionaries(st.sampled_from("pqrs"), JUDGED),
)
def test_queries_do_not_mix(run: dict, qrels: dict) -> None:
    qrels = qrels or {"p": {"a": 1}}
    together = averages(run, qrels, NAMES)
    for row, query in enumerate(sorted(qrels)):
        alone = averages(run, {query: qrels[query]}, NAMES)
        assert {name: values[row] for name, values in together.values.items()} == pytest.approx(
            alone.means(), abs=1e-15
        )


@given(st.dictionaries(st.sampled_from("pqrs"), JUDGED, min_size=1), st.integers(0, 2**32 - 1))
def test_without_ties_it_is_the_usual_score(qrels: dict, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(list(ITEMS)).tolist()
    run = Run.from_dict({query: {item: -float(i) for i, item in enumerate(order)} for query in "pqr"})
    usual = score(run, Qrels.from_dict(qrels), NAMES)
    average = score(run, Qrels.from_dict(qrels), NAMES, ties="average")
    for name, values in usual.values.items():
        assert average.values[name].tolist() == pytest.approx(values.tolist(), abs=1e-12), name


def test_names_of_products_decide_nothing() -> None:
    run = {"q": {"a": 1.0, "b": 1.0, "c": 1.0}}
    for winner in "abc":
        means = averages(run, {"q": {winner: 1}}, ["mrr", "hit@2", "precision@1"]).means()
        assert means == pytest.approx({"mrr": (1 + 1 / 2 + 1 / 3) / 3, "hit@2": 2 / 3, "precision@1": 1 / 3})


def test_large_groups_stay_exact() -> None:
    """1,000 equal scores, 3 of them relevant: a sum of fractions as the reference."""
    size, relevant = 1000, 3
    expected, none_before = Fraction(0), Fraction(1)
    for position in range(1, size + 1):
        chance = min(Fraction(1), Fraction(relevant, size - position + 1))
        expected += none_before * chance / position
        none_before *= 1 - chance
    run = {"q": {f"p{i}": 1.0 for i in range(size)}}
    means = averages(run, {"q": {"p5": 1, "p500": 1, "p999": 1}}, ["mrr", "hit", "hit@10"]).means()
    hit = 1 - Fraction(990 * 989 * 988, 1000 * 999 * 998)
    assert means == pytest.approx({"mrr": float(expected), "hit": 1.0, "hit@10": float(hit)}, rel=1e-10)


def test_a_query_without_an_answer_scores_0() -> None:
    scores = averages({"q": {"a": 1.0}}, {"q": {"a": 1}, "r": {"a": 1}}, NAMES)
    assert all(values[1] == 0 for values in scores.values.values())


@pytest.mark.parametrize("name", ["err", "err@10"])
def test_a_metric_without_a_closed_form(name: str) -> None:
    with pytest.raises(JudgeError, match=f"'{name}' has no closed form .* these have: ndcg, .*judged"):
        averages({"q": {"a": 1.0}}, {"q": {"a": 1}}, ["ndcg", name])


def test_another_word() -> None:
    with pytest.raises(JudgeError, match="ties: 'random'; it must be id or average"):
        score(Run.from_dict({"q": {"a": 1.0}}), Qrels.from_dict({"q": {"a": 1}}), ["mrr"], ties="random")
