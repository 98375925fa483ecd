from collections.abc import Callable
from math import log2, prod
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import (
    METRICS,
    SPELLINGS,
    JudgedResults,
    Scores,
    is_metric,
    metric_name,
    parse_metric,
    score,
)
from vitrine_judge.metrics import metric as register_metric
from vitrine_judge.rankings import Qrels, Run

ALL = [
    *METRICS,
    "ndcg@3:exp",
    *(f"{name}@3" for name, metric in METRICS.items() if metric.has_cutoff and ":" not in name),
]
ESCI = {0: 0.0, 1: 0.01, 2: 0.1, 3: 1.0}

# Best first: grades 2, unjudged, 3, 0. Relevant: a and c, and e, which was not returned.
RUN = {"q": {"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0}}
QRELS = {"q": {"a": 2, "c": 3, "d": 0, "e": 1}}


def means(run: dict, qrels: dict, *metrics: str, **options: object) -> list[float]:
    scored = score(Run.from_dict(run), Qrels.from_dict(qrels), metrics, **options)
    return list(scored.means().values())


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("ndcg", (2 / 1 + 3 / 2) / (3 / 1 + 2 / log2(3) + 1 / 2)),
        ("ndcg@2", 2 / (3 + 2 / log2(3))),
        ("ndcg@1", 2 / 3),
        ("ndcg@1:exp", 3 / 7),
        ("ndcg:exp", (3 / 1 + 7 / 2) / (7 / 1 + 3 / log2(3) + 1 / 2)),
        ("recall@1", 1 / 3),
        ("recall@3", 2 / 3),
        ("recall", 2 / 3),
        ("hit@1", 1.0),
        ("precision@1", 1.0),
        ("precision@3", 2 / 3),
        ("precision@10", 2 / 10),
        ("precision", 2 / 4),
        ("mrr@1", 1.0),
        ("map@1", 1 / 3),
        ("map", (1 / 1 + 2 / 3) / 3),
        ("r-precision", 2 / 3),
        ("bpref", 2 / 3),
        ("err@1", 3 / 8),
        ("err", 3 / 8 + (5 / 8) * (7 / 8) / 3),
        ("rbp@1", 0.2),
        ("rbp", 0.2 * (1 + 0.8**2)),
        ("rbp@3:0.5", 0.5 * (1 + 0.5**2)),
        ("judged@2", 1 / 2),
        ("judged@10", 3 / 4),
        ("judged", 3 / 4),
    ],
)
def test_by_hand(metric: str, expected: float) -> None:
    assert means(RUN, QRELS, metric) == pytest.approx([expected], abs=1e-15)


def test_by_hand_where_only_the_best_grade_is_relevant() -> None:
    values = means(
        RUN, QRELS, "recall@2", "recall@3", "hit@2", "precision@3", "mrr", "mrr@2", "map", relevant=3
    )
    assert values == pytest.approx([0.0, 1.0, 0.0, 1 / 3, 1 / 3, 0.0, 1 / 3], abs=1e-15)
    # Irrelevant are a and d, of which a stands before c, the only relevant one.
    assert means(RUN, QRELS, "r-precision", "bpref", relevant=3) == [0.0, 0.0]


@pytest.mark.parametrize("grade", [1023, 1024, 5000, 1e9])
def test_large_grades_do_not_overflow(grade: float) -> None:
    """2^1024 is no number, but the ratio is: here 2^(g − 1) to 2^g, as exact as can be."""
    run, qrels = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": grade - 1, "b": grade}}
    expected = (0.5 + 1 / log2(3)) / (1 + 0.5 / log2(3))
    values = means(run, qrels, "ndcg:exp", "ndcg@1:exp", "err", "err@1")
    assert values == pytest.approx([expected, 0.5, 0.5 + 0.5 / 2, 0.5], abs=1e-15)


def test_small_grades_beside_large_ones() -> None:
    run = {"q": {"a": 1.0}, "r": {"b": 2.0, "a": 1.0}}
    scored = score(
        Run.from_dict(run), Qrels.from_dict({"q": {"a": 1}, "r": {"a": 5000}}), ["ndcg:exp", "err"]
    )
    assert scored.values["ndcg:exp"].tolist() == pytest.approx([1.0, 1 / log2(3)])
    assert scored.values["err"].tolist() == [0.0, 0.5]  # 2^-5000


@pytest.mark.filterwarnings("error")
def test_a_value_that_is_not_finite_is_an_error() -> None:
    qrels = {"q": {"a": 1, "b": 1, "c": 1}}
    with pytest.raises(JudgeError, match="query 'q': ndcg is nan; its gains are too large to add up"):
        means({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, qrels, "mrr", "ndcg", gains={1: 1.5e308})


@pytest.mark.parametrize("relevant", [float("nan"), float("inf")])
def test_relevance_that_is_no_grade(relevant: float) -> None:
    with pytest.raises(JudgeError, match=f"relevant: {relevant}; it must be a finite grade"):
        means(RUN, QRELS, "mrr", relevant=relevant)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("P@10", "precision@10"),
        ("nDCG@10", "ndcg@10"),
        ("nDCG(dcg='exp-log2')@10", "ndcg@10:exp"),
        ("NDCG", "ndcg"),
        ("RR@10", "mrr@10"),
        ("AP@5", "map@5"),
        ("R@100", "recall@100"),
        ("Success@10", "hit@10"),
        ("Judged@10", "judged@10"),
        ("Rprec", "r-precision"),
        ("Bpref", "bpref"),
        ("rbp@3:0.5", "rbp@3:0.5"),
        ("unknown@3", "unknown@3"),
    ],
)
def test_names_of_ir_measures_become_ours(spelling: str, name: str) -> None:
    assert metric_name(spelling) == name
    if is_metric(name):
        assert list(score(Run.from_dict(RUN), Qrels.from_dict(QRELS), [spelling]).values) == [name]


def test_every_spelling_is_of_ir_measures() -> None:
    """And every metric that both have is there."""
    ir_measures = pytest.importorskip("ir_measures")
    names = {spelling.partition("(")[0] for spelling in SPELLINGS}
    assert names <= set(ir_measures.measures.registry)
    assert set(SPELLINGS.values()) == set(METRICS)


def test_gains_may_be_fractions() -> None:
    expected = (0.1 + 1 / 2) / (1 + 0.1 / log2(3) + 0.01 / 2)
    assert means(RUN, QRELS, "ndcg", gains=ESCI) == pytest.approx([expected], abs=1e-15)
    exponential = (2**0.1 - 1) / 1
    assert means(RUN, QRELS, "ndcg@1:exp", gains=ESCI) == pytest.approx([exponential], abs=1e-15)
    assert means(RUN, QRELS, "err@1", gains=ESCI) == pytest.approx([exponential / 2], abs=1e-15)


def test_grades_may_be_fractions() -> None:
    assert means({"q": {"a": 1.0}}, {"q": {"a": 0.1, "b": 0.5}}, "ndcg@1", "hit") == [0.1 / 0.5, 0.0]


def test_chances_are_in_parts_of_the_highest_grade() -> None:
    chance = (2**0.5 - 1) / 2**0.5
    assert means({"q": {"a": 1.0}}, {"q": {"a": 0.5}}, "err") == pytest.approx([chance], abs=1e-15)


def test_a_long_way_down() -> None:
    """Ten products, each of which stops half of the shoppers that reach it."""
    items = {f"p{n}": 10.0 - n for n in range(10)}
    expected = sum(0.5**rank / rank for rank in range(1, 11))
    values = means({"q": items}, {"q": dict.fromkeys(items, 1)}, "err")
    assert values == pytest.approx([expected], abs=1e-15)


def test_negative_grades_gain_nothing() -> None:
    run = {"q": {"spam": 2.0, "a": 1.0}}
    expected = [1 / log2(3), 1 / 2, 1.0]
    assert means(run, {"q": {"spam": -2, "a": 1}}, "ndcg", "mrr", "judged") == pytest.approx(expected)


def test_ties_are_broken_by_id_ascending() -> None:
    tied = {"q": {"c": 1.0, "a": 1.0, "b": 1.0}}
    assert means(tied, {"q": {"a": 1}}, "mrr") == [1.0]
    assert means(tied, {"q": {"c": 1}}, "mrr") == [1 / 3]


def test_a_query_without_an_answer_scores_0_and_is_counted() -> None:
    qrels = {"q": {"a": 1}, "r": {"a": 1}}
    scored = score(Run.from_dict({"r": {"a": 1.0}}), Qrels.from_dict(qrels), ALL)
    assert scored.unanswered == 1
    assert scored.query_ids.tolist() == ["q", "r"]
    assert scored.answered.tolist() == [False, True]
    first_rank_values = {"precision@3": 1 / 3, "err": 0.5, "err@3": 0.5, "rbp": 0.2, "rbp@3": 0.2}
    for metric, values in scored.values.items():
        assert values.tolist() == pytest.approx([0.0, first_rank_values.get(metric, 1.0)]), metric


def test_a_query_that_nobody_judged_is_left_out() -> None:
    run = {"p": {"a": 1.0}, "q": {"a": 1.0}, "z": {"a": 1.0}}
    scored = score(Run.from_dict(run), Qrels.from_dict({"q": {"a": 1}}), ["mrr"])
    assert scored.query_ids.tolist() == ["q"]
    assert scored.means() == {"mrr": 1.0}


def test_no_query_in_common_is_all_unanswered() -> None:
    scored = score(Run.from_dict({"x": {"a": 1.0}}), Qrels.from_dict({"q": {"a": 1}}), ALL)
    assert scored.unanswered == 1
    assert set(scored.means().values()) == {0.0}


def test_a_query_without_relevant_products_scores_0_and_counts() -> None:
    run = {"q": {"a": 1.0}, "r": {"a": 1.0}}
    qrels = {"q": {"a": 0}, "r": {"a": 1}}
    scored = score(Run.from_dict(run), Qrels.from_dict(qrels), ALL)
    for metric, values in scored.values.items():
        if not metric.startswith("judged"):
            assert values[0] == 0 < values[1], metric


def test_a_product_judged_for_another_query_only_is_unjudged() -> None:
    qrels = {"p": {"a": 1, "z": 1}, "q": {"b": 1}}
    scored = score(Run.from_dict({"q": {"a": 2.0, "zz": 1.0}}), Qrels.from_dict(qrels), ["judged", "hit"])
    assert {name: values.tolist() for name, values in scored.values.items()} == {
        "judged": [0, 0],
        "hit": [0, 0],
    }


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ndgc@10",
        "ndcg@0",
        "ndcg@-1",
        "ndcg@010",
        "ndcg@",
        "ndcg@10:log",
        "mrr:exp",
        "NDCG@10",
        "ndcg@1.5",
        "ndcg:0.5",
        "rbp:1",
        "rbp:0.0",
        "rbp:1.5",
        "bpref@10",
        "r-precision@10",
    ],
)
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(
        JudgeError, match=f"^'{name}' is not a metric; known are ndcg, .* r-precision and bpref$"
    ):
        parse_metric(name)
    assert not is_metric(name)


@pytest.mark.parametrize("name", ALL)
def test_names_that_mean_something(name: str) -> None:
    assert is_metric(name)


@pytest.mark.parametrize("name", ["top1", "p-at-2", "f1:macro"])
def test_a_registered_name_can_be_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine_judge.metrics.METRICS", dict(METRICS))

    @register_metric(name)
    def first_result(results: JudgedResults, k: int | None) -> np.ndarray:
        return results.sum_by_query(results.is_relevant & (results.rank == 1))

    cut = "@2:macro" if ":" in name else "@2"
    assert means(RUN, QRELS, name, name.partition(":")[0] + cut) == [1.0, 1.0]
    assert not is_metric(f"{name}@0")


@pytest.mark.parametrize("name", ["", "Top", "1st", "-a", "a b", "a_b", "a@1", "a:", "a:1", "a:b:c", "a\n"])
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(
        JudgeError, match=r"cannot be the name of a metric; it must begin with a small letter"
    ):
        register_metric(name)
    assert name not in METRICS


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ({0: 0, 1: 1, 2: 2}, "grade 3 has no gain; gains are given for 0, 1, 2"),
        ({0: 0, 1: 1}, "grade 2 has no gain; gains are given for 0, 1"),
        ({**ESCI, 2: -2.0, 3: -1.0}, "gains: 2: -2.0"),
        ({**ESCI, 2: -0.5}, "gains: 2: -0.5"),
        ({**ESCI, 3: float("nan")}, "gains: 3: nan"),
        ({**ESCI, 3: float("inf")}, "gains: 3: inf"),
        ({}, "gains: none is given; give one for every grade"),
    ],
)
def test_bad_gains(gains: dict[int, float], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        means(RUN, QRELS, "ndcg", gains=gains)


# Laws


def textbook(run: dict[str, float], qrels: dict[str, float], metric: str, k: int, gain: Callable) -> float:
    ranked = sorted(run, key=lambda item: (-run[item], item))[:k]
    hits = [rank for rank, item in enumerate(ranked, 1) if qrels.get(item, 0) >= 1]
    relevant = sum(grade >= 1 for grade in qrels.values())
    first_r = hits[: sum(rank <= relevant for rank in hits)]
    highest = max(map(gain, qrels.values()))
    stops = [(2 ** gain(qrels.get(item, 0)) - 1) / 2**highest for item in ranked]
    wrong = [sum(qrels.get(item, 1) < 1 for item in ranked[:rank]) for rank in hits]
    most = max(1, min(relevant, len(qrels) - relevant))
    discounted = [gain(qrels.get(item, 0)) / log2(rank + 1) for rank, item in enumerate(ranked, 1)]
    ideal = sum(g / log2(r + 1) for r, g in enumerate(sorted(map(gain, qrels.values()), reverse=True)[:k], 1))
    return {
        "ndcg": lambda: sum(discounted) / ideal if ideal else 0.0,
        "recall": lambda: len(hits) / relevant if relevant else 0.0,
        "hit": lambda: float(bool(hits)),
        "precision": lambda: len(hits) / k,
        "mrr": lambda: 1 / hits[0] if hits else 0.0,
        "map": lambda: sum(n / rank for n, rank in enumerate(hits, 1)) / relevant if relevant else 0.0,
        "r-precision": lambda: len(first_r) / relevant if relevant else 0.0,
        "bpref": lambda: sum(1 - min(n, relevant) / most for n in wrong) / relevant if relevant else 0.0,
        "err": lambda: sum(s * prod(1 - t for t in stops[:i]) / (i + 1) for i, s in enumerate(stops)),
        "rbp": lambda: sum(0.2 * 0.8 ** (rank - 1) for rank in hits),
        "judged": lambda: sum(item in qrels for item in ranked) / len(ranked) if ranked else 0.0,
    }[metric]()


ITEMS = "abcdefgh"


def nested(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict]:
    pairs = st.dictionaries(st.sampled_from(ITEMS), values, min_size=1)
    return st.dictionaries(st.sampled_from("pqrs"), pairs, min_size=1)


RUNS, JUDGED = nested(st.integers(0, 4)), nested(st.integers(0, 3))


@given(RUNS, JUDGED, st.integers(1, 10))
def test_agrees_with_the_textbook(run: dict, qrels: dict, k: int) -> None:
    names = [name for name in METRICS if ":" not in name]
    metrics = [f"{name}@{k}" if METRICS[name].has_cutoff else name for name in names]
    for query, grades in qrels.items():
        scored = score(
            Run.from_dict(run), Qrels.from_dict({query: grades}), [*metrics, f"ndcg@{k}:exp"]
        ).means()
        results = run.get(query, {})
        theirs = {
            metric: textbook(results, grades, name, k if METRICS[name].has_cutoff else len(ITEMS), float)
            for name, metric in zip(names, metrics, strict=True)
        }
        theirs[f"ndcg@{k}:exp"] = textbook(results, grades, "ndcg", k, lambda grade: 2.0**grade - 1)
        assert scored == pytest.approx(theirs, abs=1e-12)


@given(RUNS, JUDGED)
def test_between_0_and_1(run: dict, qrels: dict) -> None:
    for values in score(Run.from_dict(run), Qrels.from_dict(qrels), ALL, gains=ESCI).values.values():
        assert values.dtype == np.float64
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


@given(RUNS, JUDGED)
def test_one_query_at_a_time_gives_the_same(run: dict, qrels: dict) -> None:
    together = score(Run.from_dict(run), Qrels.from_dict(qrels), ALL, gains=ESCI)
    for i, query in enumerate(sorted(qrels)):
        single = score(Run.from_dict(run), Qrels.from_dict({query: qrels[query]}), ALL, gains=ESCI)
        assert [values[i] for values in together.values.values()] == [v[0] for v in single.values.values()]


@given(RUNS, JUDGED)
def test_several_runs_of_some_queries_each_are_one(run: dict, qrels: dict) -> None:
    together = score(Run.from_dict(run), Qrels.from_dict(qrels), ALL)
    parts = (Run.from_dict({query: pairs}) for query, pairs in run.items())
    in_parts = score(parts, Qrels.from_dict(qrels), ALL)
    assert in_parts.answered.tolist() == together.answered.tolist()
    for name, values in in_parts.values.items():
        assert values.tolist() == together.values[name].tolist(), name


def test_a_query_in_two_parts_of_a_run() -> None:
    with pytest.raises(JudgeError, match="query 'q' is in two parts of the run; sort the run by query"):
        score([Run.from_dict(RUN), Run.from_dict(RUN)], Qrels.from_dict(QRELS), ["mrr"])


@given(RUNS, JUDGED, st.integers(0, 6))
def test_a_better_product_moved_up_never_costs(run: dict, qrels: dict, place: int) -> None:
    query = min(run)
    ranked = sorted(run[query], key=lambda item: (-run[query][item], item))
    if place + 1 >= len(ranked):
        return
    first, second = ranked[place : place + 2]
    grades = qrels.setdefault(query, {"a": 1})
    if grades.get(first, 0) >= grades.get(second, 0):
        return
    ranked[place : place + 2] = second, first
    swapped = {query: {item: -float(rank) for rank, item in enumerate(ranked)}}
    metrics = [metric for metric in ALL if not metric.startswith("judged")]
    before = score(Run.from_dict({query: run[query]}), Qrels.from_dict(qrels), metrics)
    after = score(Run.from_dict(swapped), Qrels.from_dict(qrels), metrics)
    for metric in metrics:
        assert (after.values[metric] >= before.values[metric] - 1e-12).all(), metric


@given(JUDGED)
def test_the_ideal_list_scores_1(qrels: dict) -> None:
    scored = score(
        Run.from_dict(qrels), Qrels.from_dict(qrels), ["ndcg", "ndcg@3", "ndcg@3:exp", "recall", "map"]
    )
    possible = np.array([max(qrels[query].values()) > 0 for query in sorted(qrels)], float)
    for values in scored.values.values():
        assert values == pytest.approx(possible, abs=1e-12)


# Scores


def scores() -> Scores:
    values = {"mrr": np.array([1.0, 0.5, 0.0]), "ndcg@10:exp": np.array([0.1, 0.2, 0.3])}
    return Scores(np.array(["a", "b", "c"]), np.array([True, True, False]), values)


def test_scores_survive_parquet(tmp_path: Path) -> None:
    scores().to_parquet(tmp_path / "scores.parquet")
    back = Scores.from_parquet(tmp_path / "scores.parquet")
    assert back.query_ids.tolist() == ["a", "b", "c"]
    assert back.unanswered == 1
    assert back.means() == scores().means()
    assert list(back.values) == ["mrr", "ndcg@10:exp"]


def test_scores_from_another_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": ["q"], "mrr": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(JudgeError, match=r"other.parquet: column 'answered' is missing"):
        Scores.from_parquet(tmp_path / "other.parquet")


@pytest.mark.parametrize("which", [["c", "a"], np.array(["a", "c", "a"]), np.array([True, False, True])])
def test_restrict(which: object) -> None:
    part = scores().restrict(which)
    assert part.query_ids.tolist() == ["a", "c"]
    assert part.means() == {"mrr": 0.5, "ndcg@10:exp": pytest.approx(0.2)}
    assert part.unanswered == 1


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (["a", "y", "x"], "query 'x' is not among the 3"),
        (np.array([True]), r"a mask of shape \(1,\) for 3 queries"),
        (np.full(4, True), r"a mask of shape \(4,\) for 3 queries"),
        (np.zeros(3, bool), "no query is left"),
        ([], "no query is left"),
    ],
)
def test_restrict_to_the_impossible(which: object, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        scores().restrict(which)
