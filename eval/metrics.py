"""Ranking metrics: one registry, one function each, all queries at once.

A metric's name is `name[@k][:variant]`, for instance "ndcg@10" or "ndcg@10:exp"; without `@k` the whole list
counts. What holds for all of them:

- Averages run over the judged queries. One that the run does not answer scores 0 and is counted
  (`Scores.unanswered`); queries that are not judged are left out.
- A query without any relevant product scores 0 and stays in the average, as in trec_eval: it lowers every
  system's mean alike and can decide no comparison.
- A product is relevant from the grade `relevant` on. Unjudged products are irrelevant and gain nothing;
  `judged@k` says how many there were.
- The order is the run's: by score descending, ties by product id ascending.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.rankings import JudgeError, Qrels, Run, locate, read_table


@dataclass(frozen=True, eq=False)
class Matched:
    """A run laid against judgements: N results and J judgements of Q judged queries, flat, ordered by query.

    Attributes:
        row: (N,) int64, the judged query of each result.
        rank: (N,) int64, its place, from 1.
        gain: (N,) float64, 0 where unjudged.
        relevant: (N,) bool.
        judged: (N,) bool.
        ideal_row, ideal_rank, ideal_gain: (J,) the same for the judgements themselves, best gain first.
        all_relevant: (Q,) int64, relevant products of each query, found or not.
    """

    row: np.ndarray
    rank: np.ndarray
    gain: np.ndarray
    relevant: np.ndarray
    judged: np.ndarray
    ideal_row: np.ndarray
    ideal_rank: np.ndarray
    ideal_gain: np.ndarray
    all_relevant: np.ndarray

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of (N,) values over each query's results: (Q,) float64."""
        return _total(self.row, values, len(self.all_relevant))

    def top(self, k: int | None) -> Self:
        """The first `k` results of each query, and of each ideal list; all of them for None."""
        if k is None:
            return self
        kept, ideal = self.rank <= k, self.ideal_rank <= k
        return replace(
            self,
            row=self.row[kept],
            rank=self.rank[kept],
            gain=self.gain[kept],
            relevant=self.relevant[kept],
            judged=self.judged[kept],
            ideal_row=self.ideal_row[ideal],
            ideal_rank=self.ideal_rank[ideal],
            ideal_gain=self.ideal_gain[ideal],
        )


Metric = Callable[[Matched, int | None], np.ndarray]

METRICS: dict[str, Metric] = {}


def metric(name: str) -> Callable[[Metric], Metric]:
    """Register a function of (results cut at k, k) → (Q,) float64 under `name` or `name:variant`."""

    def register(function: Metric) -> Metric:
        METRICS[name] = function
        return function

    return register


@metric("ndcg")
def ndcg(top: Matched, k: int | None) -> np.ndarray:
    """Normalised discounted cumulative gain: Σ gain / log2(rank + 1), over that of the best possible list.

    The best list holds every judged product, retrieved or not. In [0, 1]; 0 where no product has a gain.
    Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20(4), 2002, with the
    discount of trec_eval.
    """
    return _normalised(top, top.gain, top.ideal_gain)


@metric("ndcg:exp")
def ndcg_exponential(top: Matched, k: int | None) -> np.ndarray:
    """As `ndcg`, with 2^gain − 1 for gain.

    Burges et al., "Learning to rank using gradient descent", ICML 2005.
    """
    return _normalised(top, np.exp2(top.gain) - 1, np.exp2(top.ideal_gain) - 1)


@metric("recall")
def recall(top: Matched, k: int | None) -> np.ndarray:
    """Share of *all* relevant products that are among the first k: below 1 where more than k are relevant."""
    return _ratio(top.total(top.relevant), top.all_relevant)


@metric("hit")
def hit(top: Matched, k: int | None) -> np.ndarray:
    """1 where any relevant product is among the first k, else 0; trec_eval's `success`."""
    return (top.total(top.relevant) > 0).astype(np.float64)


@metric("precision")
def precision(top: Matched, k: int | None) -> np.ndarray:
    """Share of the first k places that hold a relevant product; a shorter list has empty places.

    Without k, share of the results returned.
    """
    places = top.total(np.ones(len(top.row))) if k is None else np.full(len(top.all_relevant), float(k))
    return _ratio(top.total(top.relevant), places)


@metric("mrr")
def mrr(top: Matched, k: int | None) -> np.ndarray:
    """Reciprocal rank of the first relevant product; 0 where none is among the first k."""
    return top.total((top.relevant & (_found_so_far(top) == 1)) / top.rank)


@metric("map")
def average_precision(top: Matched, k: int | None) -> np.ndarray:
    """Precision at the place of each relevant product among the first k, summed, over the number of *all*.

    As trec_eval's `map` and `map_cut`; some libraries divide by min(k, all relevant) instead.
    """
    return _ratio(top.total(top.relevant * _found_so_far(top) / top.rank), top.all_relevant)


@metric("judged")
def judged(top: Matched, k: int | None) -> np.ndarray:
    """Share of the results returned, among the first k, that somebody judged; 0 where none was returned."""
    return _ratio(top.total(top.judged), top.total(np.ones(len(top.row))))


def _normalised(top: Matched, gain: np.ndarray, ideal_gain: np.ndarray) -> np.ndarray:
    dcg = top.total(gain / np.log2(top.rank + 1))
    best = _total(top.ideal_row, ideal_gain / np.log2(top.ideal_rank + 1), len(dcg))
    return _ratio(dcg, best)


def _found_so_far(top: Matched) -> np.ndarray:
    """(N,) relevant products down to each place, its own included."""
    running = np.cumsum(top.relevant)
    before = np.cumsum(top.total(top.relevant)) - top.total(top.relevant)
    return running - before[top.row]


def _total(row: np.ndarray, values: np.ndarray, queries: int) -> np.ndarray:
    return np.bincount(row, values, queries).astype(
        np.float64, copy=False
    )  # of nothing, bincount makes integers


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


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


def parse(name: str) -> tuple[Metric, int | None]:
    """A metric's name as its function and cut-off.

    Raises:
        JudgeError: for a name that is not `name[@k][:variant]` with a known name and k ≥ 1.
    """
    parts = re.fullmatch(r"([a-z]+)(?:@([1-9][0-9]*))?(:[a-z]+)?", name)
    function = METRICS.get(parts[1] + (parts[3] or "")) if parts else None
    if parts is None or function is None:
        raise JudgeError(
            f"'{name}' is not a metric; known are {', '.join(METRICS)}, "
            "with a cut-off of 1 or more as in 'ndcg@10' or 'ndcg@10:exp'"
        )
    return function, int(parts[2]) if parts[2] else None


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
        gains: Grade → gain ≥ 0, for NDCG. By default a grade is its own gain, a negative one 0.
        relevant: The grade from which a product is relevant to all other metrics.

    Raises:
        JudgeError: an unknown metric, or a grade that `gains` does not know.

    Example:
        >>> run = Run.from_dict({"red shoe": {"a": 2.0, "b": 1.0}})
        >>> score(run, Qrels.from_dict({"red shoe": {"b": 3}}), ["mrr@10"]).means()
        {'mrr@10': 0.5}
    """
    parsed = {name: parse(name) for name in metrics}
    matched = match(run, qrels, gains, relevant)
    tops = {k: matched.top(k) for k in {k for _, k in parsed.values()}}
    values = {name: function(tops[k], k) for name, (function, k) in parsed.items()}
    return Scores(qrels.query_ids, locate(qrels.query_ids, run.query_ids) >= 0, values)


def match(run: Run, qrels: Qrels, gains: Mapping[int, float] | None = None, relevant: float = 1.0) -> Matched:
    """Lay a run against judgements; arguments as for `score`."""
    row = np.repeat(locate(run.query_ids, qrels.query_ids), np.diff(run.offsets))
    known = row >= 0
    row, rank = row[known], run.ranks[known]
    item = locate(run.vocabulary, qrels.vocabulary)[run.items[known]]

    # A judged pair as one integer: ascending, because judgements are sorted by query, then product.
    pairs = qrels.rows * len(qrels.vocabulary) + qrels.items
    place = locate(np.where(item >= 0, row * len(qrels.vocabulary) + item, -1), pairs)
    is_judged = place >= 0

    gain = _gain(qrels.values, gains)
    is_relevant = qrels.values >= relevant
    best_first = np.lexsort((-gain, qrels.rows))
    return Matched(
        row=row,
        rank=rank,
        gain=np.where(is_judged, gain[place], 0.0),
        relevant=is_judged & is_relevant[place],
        judged=is_judged,
        ideal_row=qrels.rows,
        ideal_rank=qrels.ranks,
        ideal_gain=gain[best_first],
        all_relevant=np.bincount(qrels.rows, is_relevant).astype(np.int64),
    )


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
