"""Ranking metrics: one registry, one function each, all queries at once.

A metric's name is `name[@k][:variant]`, for instance "ndcg@10", "ndcg@10:exp" or "rbp:0.95"; without `@k` the whole
list counts. What holds for all of them:

- Averages run over the judged queries. One that the run does not answer scores 0 and is counted
  (`Scores.unanswered`); queries that are not judged are left out.
- A query without any relevant product scores 0 and stays in the average, as in trec_eval: it lowers every
  system's mean alike and can decide no comparison.
- A product is relevant from the grade `relevant` on. Unjudged products are irrelevant and gain nothing;
  `judged@k` says how many there were.
- The order is the run's: by score descending, ties by product id ascending.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.rankings import JudgeError, Qrels, Run, locate, read_table

CELLS = 1 << 22  # places looked at together: tens of MB, however large the run


@dataclass(frozen=True, eq=False)
class Matched:
    """A run laid against the judgements of Q queries: a column a query, a row for each of the first D places.

    Attributes:
        gain: (D, Q) float64, 0 where unjudged or empty.
        relevant: (D, Q) bool.
        judged: (D, Q) bool.
        returned: (Q,) int64, how many of the places are not empty.
        ideal: (I, Q) float64, the gains of what was judged, found or not, best first.
        all_relevant, all_judged: (Q,) int64, relevant and judged products of each query, found or not.
        highest: The highest gain that a product may have.
    """

    gain: np.ndarray
    relevant: np.ndarray
    judged: np.ndarray
    returned: np.ndarray
    ideal: np.ndarray
    all_relevant: np.ndarray
    all_judged: np.ndarray
    highest: float

    @property
    def rank(self) -> np.ndarray:
        """(D, 1) float64, from 1."""
        return np.arange(1.0, len(self.gain) + 1)[:, None]

    def top(self, k: int | None) -> Self:
        """The first `k` places, and those of the ideal list; all of them for None."""
        if k is None:
            return self
        return replace(
            self,
            gain=self.gain[:k],
            relevant=self.relevant[:k],
            judged=self.judged[:k],
            returned=self.returned.clip(max=k),
            ideal=self.ideal[:k],
        )


Function = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Metric:
    """How to compute a metric.

    Attributes:
        function: Of (results cut at k, k, and the number where one is named) → (Q,) float64.
        cut: Whether `@k` means something.
        number: Whether a variant may be a number strictly between 0 and 1.
    """

    function: Function
    cut: bool = True
    number: bool = False


METRICS: dict[str, Metric] = {}


def metric(name: str, *, cut: bool = True, number: bool = False) -> Callable[[Function], Function]:
    """Register a function under `name` or `name:variant`; see `Metric`."""

    def register(function: Function) -> Function:
        METRICS[name] = Metric(function, cut, number)
        return function

    return register


@metric("ndcg")
def ndcg(top: Matched, k: int | None) -> np.ndarray:
    """Normalised discounted cumulative gain: Σ gain / log2(rank + 1), over that of the best possible list.

    The best list holds every judged product, retrieved or not. In [0, 1]; 0 where no product has a gain.
    Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20(4), 2002, with the
    discount of trec_eval.
    """
    return _ratio(_discounted(top.gain), _discounted(top.ideal))


@metric("ndcg:exp")
def ndcg_exponential(top: Matched, k: int | None) -> np.ndarray:
    """As `ndcg`, with 2^gain − 1 for gain.

    Burges et al., "Learning to rank using gradient descent", ICML 2005.
    """
    return _ratio(_discounted(np.exp2(top.gain) - 1), _discounted(np.exp2(top.ideal) - 1))


@metric("recall")
def recall(top: Matched, k: int | None) -> np.ndarray:
    """Share of *all* relevant products that are among the first k: below 1 where more than k are relevant."""
    return _ratio(top.relevant.sum(0), top.all_relevant)


@metric("hit")
def hit(top: Matched, k: int | None) -> np.ndarray:
    """1 where any relevant product is among the first k, else 0; trec_eval's `success`."""
    return np.asarray(top.relevant.any(0), np.float64)


@metric("precision")
def precision(top: Matched, k: int | None) -> np.ndarray:
    """Share of the first k places that hold a relevant product; a shorter list has empty places.

    Without k, share of the results returned.
    """
    return _ratio(top.relevant.sum(0), top.returned if k is None else np.full(len(top.returned), k))


@metric("mrr")
def mrr(top: Matched, k: int | None) -> np.ndarray:
    """Reciprocal rank of the first relevant product; 0 where none is among the first k."""
    return np.asarray((top.relevant / top.rank).max(0, initial=0.0))


@metric("map")
def average_precision(top: Matched, k: int | None) -> np.ndarray:
    """Precision at the place of each relevant product among the first k, summed, over the number of *all*.

    As trec_eval's `map` and `map_cut`; some libraries divide by min(k, all relevant) instead.
    """
    return _ratio(_total(top.relevant * top.relevant.cumsum(0) / top.rank), top.all_relevant)


@metric("r-precision", cut=False)
def r_precision(top: Matched, k: None) -> np.ndarray:
    """Precision at R, the number of relevant products of the query."""
    return _ratio((top.relevant & (top.rank <= top.all_relevant)).sum(0), top.all_relevant)


@metric("bpref", cut=False)
def bpref(top: Matched, k: None) -> np.ndarray:
    """How rarely products judged irrelevant stand before relevant ones; unjudged products do not matter.

    Σ over relevant products found of 1 − min(irrelevant before it, R) / min(all irrelevant, R), over R, all relevant.
    Buckley & Voorhees, "Retrieval evaluation with incomplete information", SIGIR 2004, as corrected in trec_eval.
    """
    before = np.minimum((top.judged & ~top.relevant).cumsum(0), top.all_relevant)
    most = np.minimum(top.all_judged - top.all_relevant, top.all_relevant)
    return _ratio(_total(top.relevant * (1 - _ratio(before, most))), top.all_relevant)


@metric("err")
def expected_reciprocal_rank(top: Matched, k: int | None) -> np.ndarray:
    """Expected reciprocal rank of the product at which a shopper who goes down the list stops.

    A product satisfies with the chance (2^gain − 1) / 2^highest. The highest gain is the highest of `gains` or, where
    grades are their own gains, the highest grade given. Chapelle et al., "Expected reciprocal rank for graded
    relevance", CIKM 2009.
    """
    stops = (np.exp2(top.gain) - 1) / 2**top.highest
    arrives = np.concatenate([np.ones((1, stops.shape[1])), (1 - stops).cumprod(0)[:-1]])
    return _total(arrives[: len(stops)] * stops / top.rank)


@metric("rbp", number=True)
def rank_biased_precision(top: Matched, k: int | None, persistence: float = 0.8) -> np.ndarray:
    """(1 − p) Σ p^(rank − 1) over relevant products: p is the chance that a shopper goes on to the next one.

    "rbp:0.95" has p = 0.95. Moffat & Zobel, "Rank-biased precision for measurement of retrieval effectiveness",
    TOIS 27(1), 2008.
    """
    return (1 - persistence) * _total(top.relevant * persistence ** (top.rank - 1))


@metric("judged")
def judged(top: Matched, k: int | None) -> np.ndarray:
    """Share of the results returned, among the first k, that somebody judged; 0 where none was returned."""
    return _ratio(top.judged.sum(0), top.returned)


def _discounted(gain: np.ndarray) -> np.ndarray:
    return _total(gain / np.log2(np.arange(2.0, len(gain) + 2))[:, None])


def _total(values: np.ndarray) -> np.ndarray:
    """(Q,) sums of (D, Q), from the first place down: a query's last digit must not depend on its neighbours."""
    return values.cumsum(0)[-1] if len(values) else np.zeros(values.shape[1])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


@dataclass(frozen=True, eq=False)
class Scores:
    """What each of Q judged queries scored, on each metric.

    Attributes:
        query_ids: (Q,) str, ascending, unique.
        answered: (Q,) bool, whether the run holds the query.
        values: metric → (Q,) float64.
    """

    query_ids: np.ndarray
    answered: np.ndarray
    values: Mapping[str, np.ndarray]

    @property
    def unanswered(self) -> int:
        """Judged queries that the run does not answer; they scored 0."""
        return int(np.count_nonzero(~self.answered))

    def means(self) -> dict[str, float]:
        """Metric → mean over all Q queries."""
        return {name: float(np.mean(values)) for name, values in self.values.items()}

    def restrict(self, queries: Sequence[str] | np.ndarray) -> Self:
        """Only the queries of a (Q,) bool mask, or with the ids given; the order stays ascending.

        Raises:
            JudgeError: a mask of another length, an unknown id, or nothing left.
        """
        which = np.asarray(queries)
        if which.dtype != bool:
            which = np.unique(which.astype(str))
            if len(unknown := np.setdiff1d(which, self.query_ids)):
                raise JudgeError(
                    f"query '{unknown[0]}' is not among the {len(self.query_ids)} that were scored"
                )
            which = np.isin(self.query_ids, which)
        if which.shape != self.query_ids.shape:
            raise JudgeError(
                f"a mask of shape {which.shape} for {len(self.query_ids)} queries; give one bool each"
            )
        if not which.any():
            raise JudgeError("no query is left to average over; widen the selection")
        values = {name: column[which] for name, column in self.values.items()}
        return type(self)(self.query_ids[which], self.answered[which], values)

    def to_parquet(self, path: Path) -> None:
        """Write one row per query: query_id, answered, and one column per metric."""
        columns = {"query_id": self.query_ids, "answered": self.answered, **self.values}
        pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), path)

    @classmethod
    def from_parquet(cls, path: Path) -> Self:
        """Read what `to_parquet` wrote.

        Raises:
            JudgeError: where the file cannot be read or has no such columns.
        """
        table = read_table(path)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        try:
            return cls(columns.pop("query_id").astype(str), columns.pop("answered"), columns)
        except KeyError as error:
            raise JudgeError(f"{path}: column {error} is missing; write it with Scores.to_parquet") from error


def parse(name: str) -> tuple[Function, int | None]:
    """A metric's name as its function and cut-off.

    Raises:
        JudgeError: for a name that is not `name[@k][:variant]` with a known name and k ≥ 1.
    """
    parts = re.fullmatch(r"([a-z-]+)(?:@([1-9][0-9]*))?(?::(?:([a-z]+)|(0\.[0-9]*[1-9])))?", name)
    base, cut, variant, number = parts.groups() if parts else ("", None, None, None)
    found = METRICS.get(f"{base}:{variant}" if variant else base)
    if found is None or (cut and not found.cut) or (number and not found.number):
        raise JudgeError(
            f"'{name}' is not a metric; known are {', '.join(METRICS)}, "
            "with a cut-off of 1 or more as in 'ndcg@10' or 'ndcg@10:exp', but for "
            f"{' and '.join(one for one, metric in METRICS.items() if not metric.cut)}"
        )
    function = partial(found.function, persistence=float(number)) if number else found.function
    return function, int(cut) if cut else None


def score(
    run: Run,
    qrels: Qrels,
    metrics: Sequence[str],
    *,
    gains: Mapping[int, float] | None = None,
    relevant: float = 1.0,
) -> Scores:
    """Score every judged query on every metric.

    Args:
        run: What a system returned.
        qrels: What people judged.
        metrics: Names, such as "ndcg@10"; see `METRICS`.
        gains: Grade → gain ≥ 0, for NDCG and ERR. By default a grade is its own gain, a negative one 0.
        relevant: The grade from which a product is relevant to all other metrics.

    Raises:
        JudgeError: an unknown metric, or a grade that `gains` does not know.

    Example:
        >>> run = Run.from_dict({"red shoe": {"a": 2.0, "b": 1.0}})
        >>> score(run, Qrels.from_dict({"red shoe": {"b": 3}}), ["mrr@10"]).means()
        {'mrr@10': 0.5}
    """
    parsed = {name: parse(name) for name in metrics}
    cuts = [k for _, k in parsed.values()]
    deepest = None if None in cuts else max((k for k in cuts if k), default=0)
    values = {name: np.zeros(len(qrels.query_ids)) for name in parsed}
    for part, matched in match(run, qrels, gains, relevant, deepest):
        tops = {k: matched.top(k) for k in cuts}
        for name, (function, k) in parsed.items():
            values[name][part] = function(tops[k], k)
    return Scores(qrels.query_ids, locate(qrels.query_ids, run.query_ids) >= 0, values)


def match(
    run: Run,
    qrels: Qrels,
    gains: Mapping[int, float] | None = None,
    relevant: float = 1.0,
    deepest: int | None = None,
) -> Iterator[tuple[slice, Matched]]:
    """Lay a run against judgements, some queries at a time; arguments as for `score`, and places that matter.

    Yields:
        Which of `qrels.query_ids`, and what they got.
    """
    gain, is_relevant = _gain(qrels.values, gains), qrels.values >= relevant
    highest = float(max(gains.values())) if gains else float(gain.max())
    at = locate(qrels.query_ids, run.query_ids)
    returned = np.where(at >= 0, np.diff(run.offsets)[at], 0)
    if deepest is not None:
        returned = np.minimum(returned, deepest)
    first = np.where(at >= 0, run.offsets[at], 0)
    judged = np.diff(qrels.offsets)
    all_relevant = np.add.reduceat(is_relevant, qrels.offsets[:-1], dtype=np.int64)
    names = locate(run.vocabulary, qrels.vocabulary)
    # A judged pair as one integer: ascending, because judgements are sorted by query, then product.
    pairs = qrels.rows * len(qrels.vocabulary) + qrels.items

    for part in _parts(returned, judged):
        cells = _cells(returned[part])
        place = np.arange(len(cells))[:, None]
        item = names[run.items[(first[part] + place)[cells]]]
        row = np.broadcast_to(np.arange(part.start, part.stop), cells.shape)[cells]
        known = np.full(cells.shape, -1)
        known[cells] = locate(np.where(item >= 0, row * len(qrels.vocabulary) + item, -1), pairs)
        is_judged = known >= 0

        listed = _cells(judged[part])
        ideal = np.zeros(listed.shape)
        ideal[listed] = gain[(qrels.offsets[part] + np.arange(len(listed))[:, None])[listed]]
        yield (
            part,
            Matched(
                gain=np.where(is_judged, gain[known], 0.0),
                relevant=is_judged & is_relevant[known],
                judged=is_judged,
                returned=returned[part],
                ideal=-np.sort(-ideal, axis=0),
                all_relevant=all_relevant[part],
                all_judged=judged[part],
                highest=highest,
            ),
        )


def _parts(*heights: np.ndarray) -> Iterator[slice]:
    """Neighbouring queries, so many that their columns make up `CELLS` at most, or one that has more."""
    size = max(1, CELLS // max(1, *(int(height.max()) for height in heights)))
    for start in range(0, len(heights[0]), size):
        yield slice(start, min(start + size, len(heights[0])))


def _cells(heights: np.ndarray) -> np.ndarray:
    """Which cells of columns so high are not empty, bool (max height, Q)."""
    return np.arange(heights.max(initial=0))[:, None] < heights


def _gain(grades: np.ndarray, gains: Mapping[int, float] | None) -> np.ndarray:
    if gains is None:
        return np.maximum(grades, 0.0)
    if bad := [f"{grade}: {gain}" for grade, gain in gains.items() if not 0 <= gain < np.inf]:
        raise JudgeError(f"gains: {bad[0]}; a gain is a finite number ≥ 0")
    levels, place = np.unique(grades, return_inverse=True)
    if unknown := [level for level in levels.tolist() if level not in gains]:
        raise JudgeError(
            f"grade {unknown[0]:g} has no gain; gains are given for {', '.join(map(str, gains))}"
        )
    return np.array([gains[level] for level in levels.tolist()], dtype=np.float64)[place]
