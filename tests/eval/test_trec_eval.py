"""Agreement with trec_eval where conventions meet, and one test for each place where they do not."""

from collections.abc import Callable

import pytest
import pytrec_eval
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

THEIRS = {
    "ndcg": "ndcg",
    "ndcg@5": "ndcg_cut_5",
    "ndcg@10": "ndcg_cut_10",
    "recall@5": "recall_5",
    "recall@100": "recall_100",
    "hit@5": "success_5",
    "precision@5": "P_5",
    "precision": "set_P",
    "recall": "set_recall",
    "mrr": "recip_rank",
    "map": "map",
    "map@5": "map_cut_5",
    "r-precision": "Rprec",
}


def trec_eval(run: dict, qrels: dict, metrics: set[str], relevant: int = 1) -> dict[str, dict[str, float]]:
    return pytrec_eval.RelevanceEvaluator(qrels, metrics, relevance_level=relevant).evaluate(run)


@pytest.mark.parametrize("relevant", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_agreement(random_pair: Callable, seed: int, relevant: int) -> None:
    run, qrels = random_pair(seed)
    ours = score(Run.from_dict(run), Qrels.from_dict(qrels), list(THEIRS), relevant=relevant)
    theirs = trec_eval(run, qrels, set(THEIRS.values()), relevant)
    for name, values in ours.values.items():
        expected = [theirs[query][THEIRS[name]] for query in ours.query_ids.tolist()]
        assert values.tolist() == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("relevant", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_agreement_on_bpref(random_pair: Callable, seed: int, relevant: int) -> None:
    run, qrels = random_pair(seed)
    qrels = {query: {item: abs(grade) for item, grade in pairs.items()} for query, pairs in qrels.items()}
    ours = score(Run.from_dict(run), Qrels.from_dict(qrels), ["bpref"], relevant=relevant)
    theirs = trec_eval(run, qrels, {"bpref"}, relevant)
    expected = [theirs[query]["bpref"] for query in ours.query_ids.tolist()]
    assert ours.values["bpref"].tolist() == pytest.approx(expected, abs=1e-12)


def test_negative_grades_trec_eval_takes_them_as_unjudged() -> None:
    run, qrels = {"q": {"spam": 2.0, "a": 1.0}}, {"q": {"spam": -1, "a": 1}}
    assert score(Run.from_dict(run), Qrels.from_dict(qrels), ["bpref"]).means() == {"bpref": 0.0}
    assert trec_eval(run, qrels, {"bpref"}) == {"q": {"bpref": 1.0}}


def mrr(run: dict, qrels: dict) -> tuple[list[float], list[float]]:
    ours = score(Run.from_dict(run), Qrels.from_dict(qrels), ["mrr"]).values["mrr"].tolist()
    return ours, [scores["recip_rank"] for scores in trec_eval(run, qrels, {"recip_rank"}).values()]


def test_ties_trec_eval_takes_the_last_id_first() -> None:
    assert mrr({"q": {"a": 1.0, "b": 1.0}}, {"q": {"a": 1}}) == ([1.0], [0.5])


def test_close_scores_trec_eval_compares_in_single_precision() -> None:
    assert mrr({"q": {"a": 1.0, "b": 1.0 - 1e-12}}, {"q": {"a": 1}}) == ([1.0], [0.5])


def test_missing_queries_trec_eval_leaves_them_out_of_its_mean() -> None:
    assert mrr({"q": {"a": 1.0}}, {"q": {"a": 1}, "r": {"a": 1}}) == ([1.0, 0.0], [1.0])


def test_fractional_grades_trec_eval_takes_whole_numbers_only() -> None:
    run, qrels = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 0.1, "b": 1}}
    ours = score(Run.from_dict(run), Qrels.from_dict(qrels), ["ndcg@1"])
    assert ours.means() == {"ndcg@1": 0.1}
    with pytest.raises(TypeError):
        trec_eval(run, qrels, {"ndcg_cut_1"})
