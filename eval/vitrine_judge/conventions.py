"""Why other judges give other numbers for the same run.

A convention of another judge is a set of causes. A cause is one difference to `vitrine_judge.metrics`. It is applied
alone to measure its effect, and with the others to compute the numbers of that judge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from vitrine_judge.arrays import locate, text_ranks
from vitrine_judge.metrics import parse_metric, score
from vitrine_judge.rankings import Pairs, Qrels, Run

PairsType = TypeVar("PairsType", bound=Pairs)


@dataclass(frozen=True, eq=False)
class EvaluationSetup:
    """A run, its judgements, and how to score it.

    Attributes:
        run, qrels: As for `vitrine_judge.metrics.score`.
        metrics: Requested name → computed name.
        gains: As for `vitrine_judge.metrics.score`.
        relevant: Likewise.
        answered_only: Whether the mean leaves out queries that the run does not answer.
    """

    run: Run
    qrels: Qrels
    metrics: Mapping[str, str]
    gains: Mapping[int, float] | None = None
    relevant: float = 1.0
    answered_only: bool = False

    def means(self) -> dict[str, float]:
        """Requested metric → mean."""
        scores = score(
            self.run, self.qrels, list(self.metrics.values()), gains=self.gains, relevant=self.relevant
        )
        queries = scores.answered if self.answered_only and scores.answered.any() else slice(None)
        return {
            requested: float(scores.values[computed][queries].mean())
            for requested, computed in self.metrics.items()
        }


@dataclass(frozen=True)
class Difference:
    """The effect of one cause on the numbers.

    Attributes:
        cause: A name of `CAUSES`.
        why: The difference in words, with the number of affected queries or products.
        changes: Metric → its mean with this cause alone, minus ours.
    """

    cause: str
    why: str
    changes: Mapping[str, float]


Cause = Callable[[EvaluationSetup], tuple[EvaluationSetup, str]]

CAUSES: dict[str, Cause] = {}


def cause(name: str) -> Callable[[Cause], Cause]:
    """Register a cause: a function of a setup that returns the changed setup, and the change in words."""

    def register(function: Cause) -> Cause:
        CAUSES[name] = function
        return function

    return register


@cause("ties")
def ties(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """Scores are compared in single precision, and equal ones are sorted by id descending."""
    run = setup.run
    single = run.values.astype(np.float32)
    order = np.lexsort((-text_ranks(run.products)[run.product_index], -single, run.query_index))
    changed = np.unique(run.query_index[order != np.arange(len(order))])
    reordered = replace(run, product_index=run.product_index[order], values=-run.ranks.astype(np.float64))
    why = (
        "equal scores, in single precision, are sorted by id descending: "
        f"another order for {len(changed):,} queries"
    )
    return replace(setup, run=reordered), why


@cause("missing")
def missing(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """The mean is over the queries that the run answers."""
    count = int((locate(setup.qrels.queries, setup.run.queries) < 0).sum())
    why = f"judged queries that the run does not answer are left out of the mean: {count:,}"
    return replace(setup, answered_only=True), why


@cause("unjudged")
def unjudged(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """Products with a negative grade count as unjudged."""
    qrels = setup.qrels
    mask = qrels.values >= 0
    # A query keeps its judgements if all are negative: it stays in the mean, and scores 0 either way.
    mask |= ~np.isin(qrels.query_index, qrels.query_index[mask])
    why = f"products with a negative grade count as unjudged: {int((~mask).sum()):,}"
    return replace(setup, qrels=_filter_pairs(qrels, mask, qrels.values)), why


@cause("gains")
def gains(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """A grade is its own gain, and a whole number."""
    grades = setup.qrels.values
    truncated = np.trunc(grades)
    count = int((truncated != grades).sum())
    ours = ""
    if setup.gains:
        ours = f" (ours: {', '.join(f'{grade} → {gain:g}' for grade, gain in setup.gains.items())})"
    why = f"a grade is its own gain{ours}; fractions of grades are dropped: {count:,}"
    all_pairs = np.ones(len(grades), bool)
    return replace(setup, gains=None, qrels=_filter_pairs(setup.qrels, all_pairs, truncated)), why


@cause("cut-offs")
def cut_offs(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """The reciprocal rank is computed on the whole list."""
    metrics = {
        requested: "mrr" if computed.startswith("mrr@") else computed
        for requested, computed in setup.metrics.items()
    }
    return replace(setup, metrics=metrics), "the reciprocal rank has no cut-off"


@cause("identical")
def identical(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """A product whose id is that of the query is removed from the run."""
    run = setup.run
    mask = run.product_ids != run.query_ids[run.query_index]
    why = f"results with the id of their query are dropped: {int((~mask).sum()):,}"
    return replace(setup, run=_filter_pairs(run, mask, run.values)), why


# BEIR computes with trec_eval, except for the reciprocal rank, which has a cut-off there and is not compared here.
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "trec_eval": ("ties", "missing", "unjudged", "gains", "cut-offs"),
    "BEIR": ("identical", "ties", "missing", "unjudged", "gains"),
}
SUPPORTED_METRICS = {
    "trec_eval": ("ndcg", "recall", "hit", "precision", "mrr", "map", "r-precision", "bpref"),
    "BEIR": ("ndcg", "recall", "precision", "map"),
}


def supports(judge: str, metric: str) -> bool:
    """Whether another judge has a metric of ours."""
    parse_metric(metric)
    return ":" not in metric and metric.partition("@")[0] in SUPPORTED_METRICS[judge]


def explain(setup: EvaluationSetup) -> tuple[dict[str, dict[str, float]], dict[str, list[Difference]]]:
    """The means by judge, ours first, and the causes of each judge's differences.

    The means of a judge hold only the metrics that it supports.

    Raises:
        JudgeError: as for `vitrine_judge.metrics.score`.
    """
    means, differences = {"vitrine": setup.means()}, {}
    for judge, causes in CONVENTIONS.items():
        metrics = {
            requested: computed for requested, computed in setup.metrics.items() if supports(judge, requested)
        }
        if metrics:
            base = replace(setup, metrics=metrics)
            means[judge] = _apply_all(base, causes).means()
            differences[judge] = _measure_each(base, causes)
    return means, differences


def default_setup(
    run: Run,
    qrels: Qrels,
    metrics: Sequence[str],
    gains: Mapping[int, float] | None = None,
    relevant: float = 1.0,
) -> EvaluationSetup:
    """Our own conventions; arguments as for `vitrine_judge.metrics.score`."""
    return EvaluationSetup(run, qrels, {metric: metric for metric in metrics}, gains, relevant)


def _apply_all(setup: EvaluationSetup, causes: Sequence[str]) -> EvaluationSetup:
    for name in causes:
        setup, _ = CAUSES[name](setup)
    return setup


def _measure_each(setup: EvaluationSetup, causes: Sequence[str]) -> list[Difference]:
    base, differences = setup.means(), []
    for name in causes:
        changed, why = CAUSES[name](setup)
        changes = {metric: mean - base[metric] for metric, mean in changed.means().items()}
        differences.append(Difference(name, why, changes))
    return differences


def _filter_pairs(pairs: PairsType, mask: np.ndarray, values: np.ndarray) -> PairsType:
    """The pairs of a (N,) bool mask, in the same order, with other (N,) values."""
    counts = np.bincount(pairs.query_index[mask], minlength=len(pairs.queries))
    has_pairs = counts > 0
    return replace(
        pairs,
        queries=pairs.queries.filter(pa.array(has_pairs)),
        offsets=np.concatenate([[0], np.cumsum(counts[has_pairs])]),
        product_index=pairs.product_index[mask],
        values=values[mask],
    )
