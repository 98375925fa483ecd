"""Why other judges give other numbers for the same run.

A convention of another judge is a set of causes. A cause is one difference to `vitrine_judge.metrics`. It is applied
alone to measure its effect, and with the others to compute the numbers of that judge.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from vitrine_judge.arrays import locate, text_order, text_ranks
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.metrics import Scores, score, split_metric
from vitrine_judge.rankings import Pairs, Qrels, Run

NO_PRODUCT = "\0"  # an id that no product has

PairsType = TypeVar("PairsType", bound=Pairs)


@dataclass(frozen=True, eq=False)
class EvaluationSetup:
    """A run, its judgements, and how to score it.

    Attributes:
        run, qrels: As for `vitrine_judge.metrics.score`.
        metrics: Requested name → computed name.
        configuration: Gains, relevance and ties; its own metrics do not matter.
        answered_only: Whether the mean leaves out queries that the run does not answer.
        formulas: Metric without cut-off → another formula: (this setup, computed name) → (Q,) values.
    """

    run: Run
    qrels: Qrels
    metrics: Mapping[str, str]
    configuration: MetricConfiguration = field(default_factory=MetricConfiguration)
    answered_only: bool = False
    formulas: Mapping[str, Callable[["EvaluationSetup", str], np.ndarray]] = field(default_factory=dict)

    def score(self, metrics: Sequence[str], relevant: float | None = None) -> Scores:
        """Our scores of this run with these judgements; `relevant` replaces that of the configuration."""
        configuration = self.configuration
        return score(
            self.run,
            self.qrels,
            metrics,
            gains=configuration.gains,
            relevant=configuration.relevant if relevant is None else relevant,
            ties=configuration.ties,
        )

    def means(self) -> dict[str, float]:
        """Requested metric → mean."""
        scores = self.score(list(self.metrics.values()))
        queries = scores.answered if self.answered_only and scores.answered.any() else slice(None)
        means = {}
        for requested, computed in self.metrics.items():
            formula = self.formulas.get(split_metric(computed)[0])
            values = formula(self, computed) if formula else scores.values[computed]
            means[requested] = float(values[queries].mean())
        return means


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
        "equal scores, in single precision (all digits from version 10 on), are sorted by id descending: "
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
    is_negative = qrels.values < 0
    # A query with negative grades only stays in the mean, with a judged product that no run holds.
    mask = ~is_negative | (~np.isin(qrels.query_index, qrels.query_index[~is_negative]) & (qrels.ranks == 1))
    rest = _filter_pairs(qrels, mask, qrels.values)
    products = pa.concat_arrays([qrels.products.cast(pa.string()), pa.array([NO_PRODUCT])])
    product_index = np.where(rest.values < 0, len(qrels.products), rest.product_index)
    why = f"products with a negative grade count as unjudged: {int(is_negative.sum()):,}"
    return replace(setup, qrels=replace(rest, products=products, product_index=product_index)), why


@cause("gains")
def gains(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """A grade is its own gain, and a whole number."""
    grades = setup.qrels.values
    truncated = np.trunc(grades)
    count = int((truncated != grades).sum())
    ours, configuration = "", setup.configuration
    if configuration.gains:
        ours = f" (ours: {', '.join(f'{grade} → {gain:g}' for grade, gain in configuration.gains.items())})"
    why = f"a grade is its own gain{ours}; fractions of grades are dropped: {count:,}"
    all_pairs = np.ones(len(grades), bool)
    configuration = replace(configuration, gains=None)
    qrels = _filter_pairs(setup.qrels, all_pairs, truncated)
    return replace(setup, configuration=configuration, qrels=qrels), why


@cause("cut-offs")
def cut_offs(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """The reciprocal rank and rank-biased precision are computed on the whole list."""
    metrics = {
        requested: re.sub(r"^(mrr|rbp)@[0-9]+", r"\1", computed)
        for requested, computed in setup.metrics.items()
    }
    return replace(setup, metrics=metrics), "the reciprocal rank and rank-biased precision have no cut-off"


@cause("persistence")
def persistence(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """The persistence of rank-biased precision is 0.9 where the name gives none."""
    metrics = {
        requested: f"{computed}:0.9" if re.fullmatch(r"rbp(@[0-9]+)?", computed) else computed
        for requested, computed in setup.metrics.items()
    }
    return replace(setup, metrics=metrics), "rank-biased precision has persistence 0.9 by default (ours: 0.8)"


@cause("graded rbp")
def graded_rbp(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """In rank-biased precision, the relevance of a product is its grade in parts of the best grade of the query."""
    above = int((setup.qrels.values > 1).sum())
    why = (
        "in rank-biased precision the relevance is the grade over the best grade of the query, as documented; "
        "trec_eval 10.0 itself uses two numbers without setting them, so what it prints varies: grades above 1: "
        f"{above:,}"
    )
    return replace(setup, formulas={**setup.formulas, "rbp": _graded_values}), why


@cause("short lists")
def short_lists(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """Of the first k positions, those after the end of a shorter list count as judged."""
    cutoffs = [split_metric(name)[1] or 0 for name in setup.metrics.values() if name.startswith("judged")]
    count = int((setup.run.counts < max(cutoffs, default=0)).sum())
    why = (
        f"judged@k counts positions after the end of a list as judged: {count:,} queries; "
        "trec_eval prints unj_k, which is 1 − judged@k"
    )
    return replace(setup, formulas={**setup.formulas, "judged": _filled_judged}), why


@cause("identical")
def identical(setup: EvaluationSetup) -> tuple[EvaluationSetup, str]:
    """A product whose id is that of the query is removed from the run."""
    run = setup.run
    mask = run.product_ids != run.query_ids[run.query_index]
    why = f"results with the id of their query are dropped: {int((~mask).sum()):,}"
    return replace(setup, run=_filter_pairs(run, mask, run.values)), why


# BEIR computes with trec_eval, except for the reciprocal rank, which has a cut-off there and is not compared here.
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "trec_eval": (
        *("ties", "missing", "unjudged", "gains", "cut-offs"),
        *("persistence", "graded rbp", "short lists"),  # from version 10 on
    ),
    "BEIR": ("identical", "ties", "missing", "unjudged", "gains"),
}
SUPPORTED_METRICS = {
    "trec_eval": (
        *("ndcg", "recall", "hit", "precision", "mrr", "map", "r-precision", "bpref"),
        *("rbp", "judged"),  # from version 10 on
    ),
    "BEIR": ("ndcg", "recall", "precision", "map"),
}


def supports(judge: str, metric: str) -> bool:
    """Whether another judge has a metric of ours."""
    base, cutoff, _ = split_metric(metric)
    return base in SUPPORTED_METRICS[judge] and (base != "judged" or cutoff is not None)


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


def default_setup(run: Run, qrels: Qrels, configuration: MetricConfiguration) -> EvaluationSetup:
    """Our own conventions."""
    metrics = {metric: metric for metric in configuration.metrics}
    return EvaluationSetup(run, qrels, metrics, configuration)


def _graded_values(setup: EvaluationSetup, metric: str) -> np.ndarray:
    """(Q,) a metric that is linear in relevance, for relevances of grade / best grade of the query.

    A grade is the sum of the steps between levels up to it, so this is a weighted sum of scores with each level as
    `relevant`.
    """
    qrels = setup.qrels
    best = np.maximum.reduceat(qrels.values, qrels.offsets[:-1])[text_order(qrels.queries)].clip(min=1.0)
    total, before = np.zeros(len(best)), 0.0
    for level in np.unique(qrels.values[qrels.values > 0]).tolist():
        total += (level - before) * setup.score([metric], relevant=level).values[metric]
        before = level
    return total / best


def _filled_judged(setup: EvaluationSetup, metric: str) -> np.ndarray:
    """(Q,) judged@k where positions after the end of a list count as judged; 0 where the run has no answer."""
    k, order = split_metric(metric)[1], text_order(setup.qrels.queries)
    rows = locate(setup.qrels.queries, setup.run.queries)[order]
    scores = setup.score([metric])
    lengths = np.where(rows < 0, 0, setup.run.counts[rows])
    share = 1.0 if k is None else lengths.clip(max=k) / k
    return np.where(scores.answered, 1 - (1 - scores.values[metric]) * share, 0.0)


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
