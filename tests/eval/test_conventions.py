"""What other judges would say, against themselves."""

import numpy as np
import pytest
import pytrec_eval
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.conventions import CAUSES, CONVENTIONS, EvaluationSetup, default_setup, explain, supports
from vitrine_judge.errors import JudgeError
from vitrine_judge.rankings import Qrels, Run

THEIRS = {
    "ndcg@5": "ndcg_cut_5",
    "recall@5": "recall_5",
    "hit@5": "success_5",
    "precision@5": "P_5",
    "mrr@3": "recip_rank",
    "map": "map",
    "r-precision": "Rprec",
    "bpref": "bpref",
}
Nested = dict[str, dict[str, float]]


def messy(seed: int) -> tuple[Nested, Nested]:
    """Ties, some in single precision; queries missing on both sides; negative grades; products named like queries."""
    rng = np.random.default_rng(seed)
    products = [f"p{i}" for i in range(12)] + [f"q{i}" for i in range(8)]

    def some(values: np.ndarray) -> dict[str, float]:
        chosen = rng.choice(products, rng.integers(1, 15), replace=False).tolist()
        return dict(zip(chosen, rng.choice(values, len(chosen)).tolist(), strict=True))

    run = {f"q{i}": some(np.array([1.0, 1.0 - 1e-12, 2.0, 3.0, 0.5])) for i in range(2, 20)}
    qrels = {f"q{i}": some(np.array([-1, 0, 1, 2, 3])) for i in range(16)}
    return run, qrels


def our_setup(run: Nested, qrels: Nested, metrics: list[str], **fields: object) -> EvaluationSetup:
    configuration = MetricConfiguration(tuple(metrics), **fields)
    return default_setup(Run.from_dict(run), Qrels.from_dict(qrels), configuration)


def mean(run: Nested, qrels: Nested, names: list[str]) -> dict[str, float]:
    scores = pytrec_eval.RelevanceEvaluator(qrels, set(names)).evaluate(run).values()
    return {name: sum(values[name] for values in scores) / len(scores) for name in names}


@pytest.mark.parametrize("seed", range(20))
def test_trec_eval_would_say_so(seed: int) -> None:
    run, qrels = messy(seed)
    gains = {-1: 0, 0: 0, 1: 1, 2: 5, 3: 9}
    ties = "average" if seed % 2 else "id"  # ours do not change theirs
    means, _ = explain(our_setup(run, qrels, list(THEIRS), gains=gains, ties=ties))
    expected = mean(run, qrels, list(THEIRS.values()))
    assert means["trec_eval"] == pytest.approx({o: expected[t] for o, t in THEIRS.items()}, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_beir_would_say_so(seed: int) -> None:
    """As its `EvaluateRetrieval.evaluate`: results with the query's id go, then trec_eval, then the mean."""
    run, qrels = messy(seed)
    without = {query: {p: s for p, s in pairs.items() if p != query} for query, pairs in run.items()}
    names = ["ndcg@5", "recall@5", "precision@5", "map@5"]
    theirs = ["ndcg_cut_5", "recall_5", "P_5", "map_cut_5"]
    means, _ = explain(our_setup(run, qrels, [*names, "mrr@5"]))
    expected = mean({query: pairs for query, pairs in without.items() if pairs}, qrels, theirs)
    assert means["BEIR"] == pytest.approx(dict(zip(names, expected.values(), strict=True)), abs=1e-12)


RUN = {"q": {"a": 3.0, "b": 3.0, "q": 1.0}}
QRELS = {"q": {"a": 1}}


@pytest.mark.parametrize(
    ("cause", "run", "qrels", "metric", "change", "why"),
    [
        ("ties", RUN, QRELS, "mrr", -0.5, "another order for 1 queries"),
        ("missing", RUN, {**QRELS, "r": {"a": 1}}, "mrr", 0.5, "left out of the mean: 1"),
        ("unjudged", {"q": {"b": 2.0, "a": 1.0}}, {"q": {"a": 1, "b": -1}}, "bpref", 1.0, "as unjudged: 1"),
        (
            "gains",
            RUN,
            {"q": {"a": 1, "c": 1.9}},
            "ndcg@1",
            1 - 1 / 1.9,
            "fractions of grades are dropped: 1",
        ),
        ("cut-offs", RUN, {"q": {"b": 1}}, "mrr@1", 0.5, "no cut-off"),
        ("cut-offs", RUN, {"q": {"b": 1}}, "rbp@1", 0.2 * 0.8, "no cut-off"),
        ("persistence", RUN, QRELS, "rbp", 0.1 - 0.2, "persistence 0.9"),
        ("persistence", RUN, QRELS, "rbp:0.5", 0.0, "persistence 0.9"),
        ("graded rbp", RUN, {"q": {"a": 1, "b": 4}}, "rbp", -0.2 * 0.75, "grades above 1: 1"),
        ("graded rbp", RUN, {"q": {"a": 1, "b": 0}}, "rbp:0.5", 0.0, "grades above 1: 0"),
        ("short lists", RUN, QRELS, "judged@10", 0.8 - 1 / 3, "as judged: 1 queries"),
        (
            "short lists",
            RUN,
            {"p": {"a": 1}, **QRELS},
            "judged@10",
            (0.8 - 1 / 3) / 2,
            "as judged: 1 queries",
        ),
        ("unjudged", RUN, {"q": {"a": -1, "b": -2}}, "judged@2", -1.0, "as unjudged: 2"),
        ("short lists", RUN, QRELS, "judged@2", 0.0, "as judged: 0 queries"),
        ("identical", RUN, {"q": {"q": 1}}, "mrr", -1 / 3, "the id of their query are dropped: 1"),
    ],
)
def test_each_cause_alone(
    cause: str, run: Nested, qrels: Nested, metric: str, change: float, why: str
) -> None:
    ours = our_setup(run, qrels, [metric])
    theirs, explanation = CAUSES[cause](ours)
    assert theirs.means()[metric] - ours.means()[metric] == pytest.approx(change)
    assert why in explanation


def test_measures_of_trec_eval_10() -> None:
    """What trec_eval 10.0 (f425365) prints with `-m rbp -m rbp.p=0.5 -m unj`, four digits: a run with a tie.

    Its `rbp` reads `min` and `max` in m_rbp.c:74 without setting them. These numbers are with both set to 0, as its
    documentation means.
    """
    run = {"q": {"a": 9.0, "b": 8.0, "c": 7.0}, "r": {"a": 9.0, "b": 8.0, "z": 8.0}}
    qrels = {"q": {"a": 1, "b": 0, "c": 1}, "r": {"a": 3, "b": 1}}
    by_query = {
        query: explain(our_setup({query: run[query]}, {query: qrels[query]}, ["rbp", "rbp:0.5", "judged@5"]))[
            0
        ]
        for query in run
    }
    unjudged = {query: 1 - means["trec_eval"].pop("judged@5") for query, means in by_query.items()}
    assert unjudged == pytest.approx({"q": 0.0, "r": 0.2})
    assert by_query["q"]["trec_eval"] == pytest.approx({"rbp": 0.1810, "rbp:0.5": 0.6250}, abs=5e-5)
    assert by_query["r"]["trec_eval"] == pytest.approx({"rbp": 0.1270, "rbp:0.5": 0.5417}, abs=5e-5)


def test_every_cause_is_somebodys() -> None:
    assert set(CAUSES) == {cause for causes in CONVENTIONS.values() for cause in causes}


def test_where_nothing_differs_nothing_changes() -> None:
    ours = our_setup({"q": {"a": 2.0, "b": 1.0}}, QRELS, ["ndcg@10"])
    means, differences = explain(ours)
    assert means == {"vitrine": {"ndcg@10": 1.0}, "trec_eval": {"ndcg@10": 1.0}, "BEIR": {"ndcg@10": 1.0}}
    assert not any(
        any(difference.changes.values()) for causes in differences.values() for difference in causes
    )


def test_metrics_that_others_do_not_have() -> None:
    means, _ = explain(our_setup(RUN, QRELS, ["judged", "err@10", "ndcg@10:exp"]))
    assert list(means) == ["vitrine"]
    assert not supports("BEIR", "bpref")
    with pytest.raises(JudgeError, match="'ndcg@' is not a metric"):
        supports("BEIR", "ndcg@")
