"""Where other judges' conventions give other numbers for the same run, and why.

A convention is a set of causes. Each cause is a way to judge otherwise than `eval.metrics` does, applied alone to tell
what it changes, and with the others to tell what that judge would say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from eval.arrays import alphabet, locate
from eval.metrics import parse, score
from eval.rankings import Qrels, Run

Pairs = TypeVar("Pairs", Run, Qrels)


@dataclass(frozen=True, eq=False)
class Judging:
    """What is judged, and how.

    Attributes:
        run, qrels: As for `eval.metrics.score`.
        metrics: Name as asked → name as computed.
        gains: As for `eval.metrics.score`.
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
        """Of each metric as asked."""
        found = score(
            self.run, self.qrels, list(self.metrics.values()), gains=self.gains, relevant=self.relevant
        )
        counted = found.answered if self.answered_only and found.answered.any() else slice(None)
        return {asked: float(found.values[name][counted].mean()) for asked, name in self.metrics.items()}


@dataclass(frozen=True)
class Difference:
    """What one cause does to a judge's numbers.

    Attributes:
        cause: A name of `CAUSES`.
        why: What is done otherwise, and to how much.
        changes: Metric → its mean with this cause alone, minus ours.
    """

    cause: str
    why: str
    changes: Mapping[str, float]


Cause = Callable[[Judging], tuple[Judging, str]]

CAUSES: dict[str, Cause] = {}


def cause(name: str) -> Callable[[Cause], Cause]:
    """Register a way to judge otherwise: of a judging → the other one, and in words what happened."""

    def register(function: Cause) -> Cause:
        CAUSES[name] = function
        return function

    return register


@cause("ties")
def ties(ours: Judging) -> tuple[Judging, str]:
    """Scores are compared in single precision, and of equal ones the last id comes first."""
    run = ours.run
    single = run.values.astype(np.float32)
    order = np.lexsort((-alphabet(run.products)[run.items], -single, run.rows))
    moved = np.unique(run.rows[order != np.arange(len(order))])
    values = -run.ranks.astype(np.float64)
    why = (
        f"equal scores, in single precision, stand by id descending: another order for {len(moved):,} queries"
    )
    return replace(ours, run=replace(run, items=run.items[order], values=values)), why


@cause("missing")
def missing(ours: Judging) -> tuple[Judging, str]:
    """The mean is over the queries that the run answers."""
    absent = int((locate(ours.qrels.queries, ours.run.queries) < 0).sum())
    why = f"judged queries that the run does not answer are left out of the mean: {absent:,}"
    return replace(ours, answered_only=True), why


@cause("unjudged")
def unjudged(ours: Judging) -> tuple[Judging, str]:
    """A negative grade is no judgement."""
    qrels = ours.qrels
    kept = qrels.values >= 0
    # A query that would be left without judgements keeps them: it stays in the mean, and scores 0 either way.
    kept |= ~np.isin(qrels.rows, qrels.rows[kept])
    why = f"products with a negative grade count as unjudged: {int((~kept).sum()):,}"
    return replace(ours, qrels=_pairs(qrels, kept, qrels.values)), why


@cause("gains")
def gains(ours: Judging) -> tuple[Judging, str]:
    """A grade is its own gain, and a whole number."""
    whole = np.trunc(ours.qrels.values)
    cut = int((whole != ours.qrels.values).sum())
    instead = (
        f", in place of {', '.join(f'{g} → {x:g}' for g, x in ours.gains.items())}" if ours.gains else ""
    )
    why = f"a grade is its own gain{instead}; fractions of grades are dropped: {cut:,}"
    every = np.ones(len(whole), bool)
    return replace(ours, gains=None, qrels=_pairs(ours.qrels, every, whole)), why


@cause("cut-offs")
def cut_offs(ours: Judging) -> tuple[Judging, str]:
    """Reciprocal rank looks down the whole list."""
    metrics = {asked: "mrr" if name.startswith("mrr@") else name for asked, name in ours.metrics.items()}
    return replace(ours, metrics=metrics), "the reciprocal rank has no cut-off"


@cause("identical")
def identical(ours: Judging) -> tuple[Judging, str]:
    """A product whose id is that of the query is not in the run."""
    run = ours.run
    kept = run.item_ids != run.query_ids[run.rows]
    why = f"results with the id of their query are dropped: {int((~kept).sum()):,}"
    return replace(ours, run=_pairs(run, kept, run.values)), why


# BEIR computes with trec_eval, but for the reciprocal rank, which has a cut-off there and is not looked at here.
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "trec_eval": ("ties", "missing", "unjudged", "gains", "cut-offs"),
    "BEIR": ("identical", "ties", "missing", "unjudged", "gains"),
}
KNOWN = {
    "trec_eval": ("ndcg", "recall", "hit", "precision", "mrr", "map", "r-precision", "bpref"),
    "BEIR": ("ndcg", "recall", "precision", "map"),
}


def known(judge: str, metric: str) -> bool:
    """Whether a judge has a metric of ours."""
    parse(metric)
    return ":" not in metric and metric.partition("@")[0] in KNOWN[judge]


def explain(ours: Judging) -> tuple[dict[str, dict[str, float]], dict[str, list[Difference]]]:
    """The means by judge, ours first, and what makes the others differ.

    A metric that a judge does not have is not in its means.

    Raises:
        JudgeError: as for `eval.metrics.score`.
    """
    means, differences = {"vitrine": ours.means()}, {}
    for judge, causes in CONVENTIONS.items():
        theirs = replace(ours, metrics={m: n for m, n in ours.metrics.items() if known(judge, m)})
        if not theirs.metrics:
            continue
        base, whole, found = theirs.means(), theirs, []
        for name in causes:
            alone, why = CAUSES[name](theirs)
            changes = {metric: mean - base[metric] for metric, mean in alone.means().items()}
            found.append(Difference(name, why, changes))
            whole, _ = CAUSES[name](whole)
        means[judge], differences[judge] = whole.means(), found
    return means, differences


def judging(
    run: Run,
    qrels: Qrels,
    metrics: Sequence[str],
    gains: Mapping[int, float] | None = None,
    relevant: float = 1.0,
) -> Judging:
    """Ours; arguments as for `eval.metrics.score`."""
    return Judging(run, qrels, {metric: metric for metric in metrics}, gains, relevant)


def _pairs(pairs: Pairs, kept: np.ndarray, values: np.ndarray) -> Pairs:
    """Those kept, in the order they have, with other values."""
    counts = np.bincount(pairs.rows[kept], minlength=len(pairs.queries))
    some = counts > 0
    return replace(
        pairs,
        queries=pairs.queries.filter(pa.array(some)),
        offsets=np.concatenate([[0], np.cumsum(counts[some])]),
        items=pairs.items[kept],
        values=values[kept],
    )
