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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.arrays import alphabetical, equal_rows, locate, side_by_side
from eval.rankings import JudgeError, Qrels, Run, read_table


@dataclass(frozen=True, eq=False)
class Matched:
    """Where a run has what was judged: F judged products of Q queries, flat, by query.

    Attributes:
        row: (F,) int64, the query of each.
        rank: (F,) float64, its place in the run, from 1.
        gain: (F,) float64.
        relevant: (F,) bool.
        returned: (Q,) int64, how many products the run has.
        ideal_row, ideal_rank, ideal_gain: (J,) of all that was judged, found or not, best gain first.
        all_relevant, all_judged: (Q,) int64, relevant and judged products of each query, found or not.
        highest: The highest gain that a product may have.
    """

    row: np.ndarray
    rank: np.ndarray
    gain: np.ndarray
    relevant: np.ndarray
    returned: np.ndarray
    ideal_row: np.ndarray
    ideal_rank: np.ndarray
    ideal_gain: np.ndarray
    all_relevant: np.ndarray
    all_judged: np.ndarray
    highest: float

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of (F,) values over each query: (Q,) float64."""
        return _total(self.row, values, len(self.returned))

    def top(self, k: int | None) -> Self:
        """The first `k` places of each query, and of each ideal list; all of them for None."""
        if k is None:
            return self
        top = replace(self, returned=self.returned.clip(max=k))
        if (self.rank > k).any():
            top = top._take(np.flatnonzero(self.rank <= k))
        if (self.ideal_rank > k).any():
            best = np.flatnonzero(self.ideal_rank <= k)
            top = replace(
                top,
                ideal_row=self.ideal_row[best],
                ideal_rank=self.ideal_rank[best],
                ideal_gain=self.ideal_gain[best],
            )
        return top

    def in_order(self) -> Self:
        """The same, by query and rank."""
        return self._take(np.lexsort((self.rank, self.row)))

    def _take(self, index: np.ndarray) -> Self:
        return replace(
            self,
            row=self.row[index],
            rank=self.rank[index],
            gain=self.gain[index],
            relevant=self.relevant[index],
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
    cut: bool
    number: bool


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
    return _ratio(top.total(top.relevant), top.returned if k is None else np.full(len(top.returned), k))


@metric("mrr")
def mrr(top: Matched, k: int | None) -> np.ndarray:
    """Reciprocal rank of the first relevant product; 0 where none is among the first k."""
    best = np.zeros(len(top.returned))
    np.maximum.at(best, top.row, top.relevant / top.rank)
    return best


@metric("map")
def average_precision(top: Matched, k: int | None) -> np.ndarray:
    """Precision at the place of each relevant product among the first k, summed, over the number of *all*.

    As trec_eval's `map` and `map_cut`; some libraries divide by min(k, all relevant) instead.
    """
    top = top.in_order()
    return _ratio(top.total(top.relevant * _so_far(top, top.relevant) / top.rank), top.all_relevant)


@metric("r-precision", cut=False)
def r_precision(top: Matched, k: None) -> np.ndarray:
    """Precision at R, the number of relevant products of the query."""
    return _ratio(top.total(top.relevant & (top.rank <= top.all_relevant[top.row])), top.all_relevant)


@metric("bpref", cut=False)
def bpref(top: Matched, k: None) -> np.ndarray:
    """How rarely products judged irrelevant stand before relevant ones; unjudged products do not matter.

    Σ over relevant products found of 1 − min(irrelevant before it, R) / min(all irrelevant, R), over R, all relevant.
    Buckley & Voorhees, "Retrieval evaluation with incomplete information", SIGIR 2004, as corrected in trec_eval.
    """
    top = top.in_order()
    before = np.minimum(_so_far(top, ~top.relevant), top.all_relevant[top.row])
    most = np.minimum(top.all_judged - top.all_relevant, top.all_relevant)[top.row]
    return _ratio(top.total(top.relevant * (1 - _ratio(before, most))), top.all_relevant)


@metric("err")
def expected_reciprocal_rank(top: Matched, k: int | None) -> np.ndarray:
    """Expected reciprocal rank of the product at which a shopper who goes down the list stops.

    A product satisfies with the chance (2^gain − 1) / 2^highest. The highest gain is the highest of `gains` or, where
    grades are their own gains, the highest grade given. Chapelle et al., "Expected reciprocal rank for graded
    relevance", CIKM 2009.
    """
    top = top.in_order()
    stops = (np.exp2(top.gain) - 1) / 2**top.highest
    return top.total(_product_before(top.row, 1 - stops) * stops / top.rank)


@metric("rbp", number=True)
def rank_biased_precision(top: Matched, k: int | None, persistence: float = 0.8) -> np.ndarray:
    """(1 − p) Σ p^(rank − 1) over relevant products: p is the chance that a shopper goes on to the next one.

    "rbp:0.95" has p = 0.95. Moffat & Zobel, "Rank-biased precision for measurement of retrieval effectiveness",
    TOIS 27(1), 2008.
    """
    return (1 - persistence) * top.total(top.relevant * persistence ** (top.rank - 1))


@metric("judged")
def judged(top: Matched, k: int | None) -> np.ndarray:
    """Share of the results returned, among the first k, that somebody judged; 0 where none was returned."""
    return _ratio(top.total(np.ones(len(top.row))), top.returned)


def _normalised(top: Matched, gain: np.ndarray, ideal_gain: np.ndarray) -> np.ndarray:
    best = _total(top.ideal_row, ideal_gain / np.log2(top.ideal_rank + 1), len(top.returned))
    return _ratio(top.total(gain / np.log2(top.rank + 1)), best)


def _so_far(top: Matched, counted: np.ndarray) -> np.ndarray:
    """(F,) how many of (F,) bool there are down to each place of its query, its own included."""
    before = np.concatenate([[0], np.cumsum(counted)])
    return before[1:] - before[np.searchsorted(top.row, top.row)]


def _product_before(row: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(F,) product of the factors of a query that stand before each; by doubling, so that no other query has a part."""
    found = np.ones(len(row))
    found[1:][row[1:] == row[:-1]] = factors[:-1][row[1:] == row[:-1]]
    step = 1
    while step < len(row) and (same := row[step:] == row[:-step]).any():
        found[step:] *= np.where(same, found[:-step], 1.0)
        step *= 2
    return found


def _total(row: np.ndarray, values: np.ndarray, queries: int) -> np.ndarray:
    return np.bincount(row, values, queries).astype(np.float64, copy=False)  # of nothing, it makes integers


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


def is_metric(name: str) -> bool:
    """Whether `parse` takes it."""
    try:
        parse(name)
    except JudgeError:
        return False
    return True


def score(
    run: Run | Iterable[Run],
    qrels: Qrels,
    metrics: Sequence[str],
    *,
    gains: Mapping[int, float] | None = None,
    relevant: float = 1.0,
) -> Scores:
    """Score every judged query on every metric.

    Args:
        run: What a system returned; also as several runs, some queries after the others, as of `Run.batches`.
        qrels: What people judged.
        metrics: Names, such as "ndcg@10"; see `METRICS`.
        gains: Grade → gain ≥ 0, for NDCG and ERR. By default a grade is its own gain, a negative one 0.
        relevant: The grade from which a product is relevant to all other metrics.

    Raises:
        JudgeError: an unknown metric, a grade that `gains` does not know, or a query that is in several runs.

    Example:
        >>> run = Run.from_dict({"red shoe": {"a": 2.0, "b": 1.0}})
        >>> score(run, Qrels.from_dict({"red shoe": {"b": 3}}), ["mrr@10"]).means()
        {'mrr@10': 0.5}
    """
    parsed = {name: parse(name) for name in metrics}
    answered = np.zeros(len(qrels.queries), bool)
    values = {name: np.zeros(len(answered)) for name in metrics}
    highest = max(gains.values()) if gains else max(0.0, qrels.values.max())
    matched = partial(_match, gains=gains, relevant=relevant, highest=highest)
    for one in [run] if isinstance(run, Run) else run:
        at = locate(qrels.queries, one.queries)
        own = np.flatnonzero(at >= 0)
        if (again := answered[own]).any():
            raise JudgeError(
                f"query '{qrels.queries[own[again.argmax()]]}' comes again after others; sort the run by query"
            )
        answered[own] = True
        if len(own):
            columns = _columns(one, qrels.only(own), at[own], list(parsed.values()), matched)
            for name, column in zip(values, columns, strict=True):
                values[name][own] = column
    order = alphabetical(qrels.queries)
    return Scores(
        qrels.query_ids[order], answered[order], {name: column[order] for name, column in values.items()}
    )


def _columns(
    run: Run,
    qrels: Qrels,
    at: np.ndarray,
    metrics: Sequence[tuple[Function, int | None]],
    match: Callable[[Run, Qrels, np.ndarray, np.ndarray], Matched],
) -> Iterator[np.ndarray]:
    """Of each metric (Q,) float64, for Q judged queries, of which `at` is the index in `run.queries`."""
    product, cuts = locate(qrels.products, run.products), {k for _, k in metrics}

    def scored(part: tuple[slice, Qrels]) -> list[np.ndarray]:
        some, judged = part
        matched = match(run, judged, at[some], product)
        tops = {k: matched.top(k) for k in cuts}
        return [function(tops[k], k) for function, k in metrics]

    return map(np.concatenate, zip(*side_by_side(scored, qrels.split()), strict=True))


def _match(
    run: Run,
    qrels: Qrels,
    at: np.ndarray,
    product: np.ndarray,
    gains: Mapping[int, float] | None,
    relevant: float,
    highest: float,
) -> Matched:
    """Find what was judged in a run.

    Args:
        run: What a system returned.
        qrels: What people judged.
        at: (Q,) int64, the index of each judged query in `run.queries`.
        product: (V,) int64, the index of each judged product in `run.products`, −1 where it is not there.
        gains, relevant: As for `score`.
        highest: As in `Matched`.
    """
    gain, is_relevant, rows = _gain(qrels.values, gains), qrels.values >= relevant, qrels.rows
    rank = run.find(at[rows], product[qrels.items])
    found = np.flatnonzero(rank)
    ideal_gain = np.empty_like(gain)
    for count, cells in equal_rows(qrels.offsets):
        ideal_gain[cells] = np.sort(gain[cells].reshape(-1, count), axis=1)[:, ::-1].ravel()
    return Matched(
        row=rows[found],
        rank=rank[found].astype(np.float64),
        gain=gain[found],
        relevant=is_relevant[found],
        returned=run.counts[at],
        ideal_row=rows,
        ideal_rank=qrels.ranks,
        ideal_gain=ideal_gain,
        all_relevant=np.add.reduceat(is_relevant, qrels.offsets[:-1], dtype=np.int64),
        all_judged=qrels.counts,
        highest=highest,
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
