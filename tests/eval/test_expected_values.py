"""The values that other judges expect of themselves, in their own tests; the numbers are theirs.

A ranking is written as the grades of its products, best first: "1.0" is a relevant, an unjudged and an irrelevant one;
x is grade −1. Judged products that were not returned come after a blank. Where a judge has another convention, options
or a comment say which.
"""

from math import log2
from typing import Any, NamedTuple

import numpy as np
import pytest
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

GRADES = {"x": -1} | {str(grade): grade for grade in range(10)}


class Case(NamedTuple):
    """A ranking, options of `score`, and metric → value; equal to `digits` digits after the point."""

    source: str
    ranking: str
    values: dict[str, float]
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    digits: int = 4


TREC = "trec_eval 10.0 (f425365): test/out.test.aqc, query 303 of test/results.trunc"
PYTREC = "pytrec_eval 0.5: tests/pytrec_eval_tests.py"
GDEVAL = "ir_measures 0.4.3: tests/test_gdeval.py"
JUDGED = "ir_measures 0.4.3: tests/test_judged.py"
PROVIDER = "ir_measures 0.4.3: tests/test_pytrec_eval.py"
CWL = "ir_measures 0.4.3: tests/test_cwl_eval.py"
RANX = "ranx 0.3.20 (2cae52f): tests/unit/ranx/metrics_test.py and meta/evaluate_test.py"
RANX_BPREF = "ranx 0.3.20 (2cae52f): tests/unit/ranx/metrics/bpref_test.py"
RANX_RBP = "ranx 0.3.20 (2cae52f): tests/unit/ranx/metrics/rank_biased_precision_test.py"

# 10 relevant and 902 irrelevant products, of which 6 and 61 were returned among 84.
TREC_303 = "0011101000001000010000000000000000.0000000000000.00.00000000.0.0.00.0.0.0...00.0...."
GDEVAL_GAINS = {0: 0.0, 1: 1.0, 2: 2.0, 4: 4.0}  # gdeval's highest grade is always 4
IDEAL = 5 + 4 / log2(3) + 3 / 2 + 2 / log2(5)
IDEAL_EXP = 31 + 15 / log2(3) + 7 / 2 + 3 / log2(5)
SHOES = "1011..1010", "11..101110", "...0011101"  # T1, T2 and T3 of CWL

CASES = [
    Case(
        TREC,
        f"{TREC_303} {'1' * 4}{'0' * 841}",
        {
            "map": 0.2723,
            "r-precision": 0.4,
            "bpref": 0.33,
            "mrr": 0.3333,
            "precision@5": 0.6,
            "precision@10": 0.4,
            "precision@15": 0.3333,
            "precision@100": 0.06,
            "precision@1000": 0.006,
            "recall@5": 0.3,
            "recall@10": 0.4,
            "recall@15": 0.5,
            "recall@20": 0.6,
            "recall@1000": 0.6,
            "ndcg": 0.473,
            "ndcg@5": 0.4469,
            "ndcg@10": 0.3633,
            "ndcg@15": 0.4211,
            "ndcg@20": 0.473,
            "map@5": 0.1433,
            "map@10": 0.2005,
            "map@15": 0.2389,
            "map@20": 0.2723,
            "hit@1": 0.0,
            "hit@5": 1.0,
            "precision": 0.0714,
            "recall": 0.6,
            "rbp:0.9": 0.3176,  # `rbp`
            "judged@20": 1.0,  # 1 − `unj_20`
        },
    ),
    Case(
        PYTREC, "001", {"ndcg": 0.5, "ndcg@1": 0.0, "ndcg@2": 0.0, "ndcg@3": 0.5, "ndcg@1000": 0.5}, digits=7
    ),
    Case(PYTREC, "100", {"ndcg": 1.0, "ndcg@1": 1.0}, digits=7),
    Case(PYTREC, "010", {"ndcg": 0.6309297535714575}, digits=12),
    Case(
        GDEVAL,
        "01210",
        {"ndcg@20:exp": 0.6201, "ndcg@2:exp": 0.17377, "err@20": 0.10175, "err@2": 0.03125},
        {"gains": GDEVAL_GAINS},
        digits=5,
    ),
    Case(
        GDEVAL,
        ".2.. 12",
        {"ndcg@20:exp": 0.35099, "ndcg@2:exp": 0.38685, "err@20": 0.09375, "err@2": 0.09375},
        {"gains": GDEVAL_GAINS},
        digits=5,
    ),
    Case(
        JUDGED,
        "01210",
        {"judged": 1.0, "judged@1000": 1.0, "judged@10": 1.0, "judged@3": 1.0, "judged@1": 1.0},
    ),
    Case(JUDGED, ".2.. 12", {"judged": 1 / 4, "judged@1000": 1 / 4, "judged@3": 1 / 3, "judged@1": 0.0}),
    Case(PROVIDER, "02210", {"hit@2": 1.0, "precision": 0.6, "recall": 1.0}),
    Case(PROVIDER, "02210", {"hit@2": 1.0, "precision": 0.4, "recall": 1.0}, {"relevant": 2}),
    Case(PROVIDER, "02210", {"hit@2": 0.0, "precision": 0.0, "recall": 0.0}, {"relevant": 3}),
    Case(PROVIDER, "...2 10", {"hit@2": 0.0, "precision": 0.25, "recall": 0.5}),
    Case(PROVIDER, "...2 10", {"precision": 0.25, "recall": 1.0}, {"relevant": 2}),
    Case(PROVIDER, "102x0", {"map": 0.8333, "ndcg": 0.76018, "ndcg@3": 0.76018}),
    Case(PROVIDER, ".x.2 10", {"map": 0.125, "ndcg": 0.32739, "ndcg@3": 0.0}),
    Case(PROVIDER, "102x0", {"map": 0.33333}, {"relevant": 2}),
    Case(PROVIDER, ".x.2 10", {"map": 0.25}, {"relevant": 2}),
    # nDCG(gains={0: 1, 1: 4}): a grade without a gain is its own gain there; ours need a gain for each grade.
    Case(PROVIDER, "102x0", {"ndcg": 0.97177}, {"gains": {-1: 0, 0: 1, 1: 4, 2: 2}}),
    Case(PROVIDER, ".x.2 10", {"ndcg": 0.14949}, {"gains": {-1: 0, 0: 1, 1: 4, 2: 2}}),
    Case(PROVIDER, "x.211", {"precision@4": 0.5}),
    Case(PROVIDER, ".1.0 x", {"precision@4": 0.25}),
    Case(
        CWL, SHOES[0], {"map": 0.7087, "precision@1": 1.0, "precision@5": 0.6, "rbp:0.9": 0.3501, "mrr": 1.0}
    ),
    Case(CWL, SHOES[1], {"map": 0.7438, "precision@10": 0.6, "precision@20": 0.3, "rbp:0.9": 0.3996}),
    Case(CWL, SHOES[2], {"map": 0.3068, "precision@5": 0.0, "rbp:0.9": 0.1988, "mrr": 0.1667}),
    Case(RANX, "...... 111", {"hit@5": 0.0}),
    Case(RANX, "111...", {"hit@5": 1.0}),
    Case(RANX, "1..11. 1", {"precision@5": 3 / 5, "map@6": 0.525}, digits=8),
    Case(RANX, ".1...", {"mrr@5": 0.5}),
    Case(RANX, ".... 1", {"mrr@5": 0.0}),
    Case(RANX, "1.11...", {"r-precision": 2 / 3, "recall@2": 1 / 3}, digits=8),
    Case(RANX, "1..1...", {"r-precision": 1 / 2, "recall@2": 1 / 2}, digits=8),
    Case(
        RANX,
        ".5.43 2",
        {
            "ndcg@10": (5 / log2(3) + 4 / log2(5) + 3 / log2(6)) / IDEAL,
            "ndcg@10:exp": (31 / log2(3) + 15 / log2(5) + 7 / log2(6)) / IDEAL_EXP,
        },
        digits=8,
    ),
    Case(
        RANX,
        "2354.",
        {
            "ndcg@10": (2 + 3 / log2(3) + 5 / 2 + 4 / log2(5)) / IDEAL,
            "ndcg@10:exp": (3 + 7 / log2(3) + 31 / 2 + 15 / log2(5)) / IDEAL_EXP,
        },
        digits=8,
    ),
    Case(RANX, "..... 5432", {"ndcg@10": 0.0, "ndcg@10:exp": 0.0}),
    Case(RANX_BPREF, "01.0 1", {"bpref": 1 / 4}, digits=9),
    Case(RANX_BPREF, "01..10", {"bpref": 1 / 2}, digits=9),
    Case(RANX_BPREF, "01..1010", {"bpref": 5 / 9}, digits=9),
    Case(RANX_BPREF, "0101100 1", {"bpref": 7 / 16}, digits=9),
    Case(RANX_RBP, "11...1....1.....1...", {"rbp:0.5": 0.7661, "rbp:0.8": 0.4526, "rbp:0.95": 0.1881}),
]


def parse_ranking(text: str) -> tuple[Run, Qrels]:
    returned, _, missed = text.partition(" ")
    marks = {f"p{place:04}": mark for place, mark in enumerate(returned + missed)}
    scores = {name: -float(place) for place, name in enumerate(list(marks)[: len(returned)])}
    grades = {name: GRADES[mark] for name, mark in marks.items() if mark != "."}
    return Run.from_dict({"q": scores}), Qrels.from_dict({"q": grades})


@pytest.mark.parametrize("ties", ["id", "average"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.source.split()[0]}-{case.ranking[:10]}")
def test_their_values_are_ours(case: Case, ties: str) -> None:
    names = [name for name in case.values if ties == "id" or not name.startswith("err")]
    scores = score(*parse_ranking(case.ranking), names, ties=ties, **case.options).means()
    expected = {name: case.values[name] for name in names}
    assert scores == pytest.approx(expected, abs=0.501 * 10**-case.digits, rel=0)


def test_a_product_twice_ranx_counts_it() -> None:
    """`test_reciprocal_rank` of ranx has a list with product 1 three times; ours is an error."""
    with pytest.raises(JudgeError, match="query 'q', product '1': duplicate pair"):
        Run.from_arrays(["q"] * 5, ["1", "1", "1", "4", "5"], np.arange(5, 0, -1))
