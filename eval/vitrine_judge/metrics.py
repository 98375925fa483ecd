"""Ranking metrics: one registry, one function each, all queries at once.

A metric's name is `name[@k][:variant]`, for instance "ndcg@10", "ndcg@10:exp" or "rbp:0.95"; without `@k` the whole
list counts. Another package can add a metric with `@metric("name")` and an entry point (`PLUGINS`). For all metrics:

- Means are over the judged queries. A judged query that the run does not answer scores 0 (`Scores.unanswered` counts
  them); unjudged queries are left out.
- A query without relevant products scores 0 and stays in the mean, as in trec_eval: it lowers the mean of every system
  by the same amount and decides no comparison.
- A product is relevant from the grade `relevant` on. Unjudged products are irrelevant and have no gain; `judged@k` is
  the share of judged products.
- The order is that of the run: by score descending, ties by product id ascending; or, with `ties="average"`, all orders
  of equal scores count alike: see `vitrine_judge.tie_averages`.

Names of ir_measures, such as "nDCG@10", are understood too (`SPELLINGS`); results have our names.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa

from vitrine_judge.arrays import equal_count_blocks, locate, map_parallel, text_order, to_text
from vitrine_judge.errors import JudgeError
from vitrine_judge.pair_index import PairIndex
from vitrine_judge.rankings import Qrels, Run, as_runs

PLUGINS = "vitrine_judge.metrics"  # group of entry points: functions that import modules with metrics
REGISTERED_NAME = re.compile(r"[a-z][a-z0-9-]*(?::[a-z]+)?")
TIES = ("id", "average")
METRIC_NAME = re.compile(r"([a-z][a-z0-9-]*)(?:@([1-9][0-9]*))?(?::(?:([a-z]+)|(0\.[0-9]*[1-9])))?")


# ir_measures' names (0.4.3: `ir_measures.measures.registry`) and aliases of metrics that are also here → our names.
SPELLINGS = {
    "P": "precision",
    "Precision": "precision",
    "SetP": "precision",
    "R": "recall",
    "Recall": "recall",
    "SetR": "recall",
    "nDCG": "ndcg",
    "NDCG": "ndcg",
    "nDCG(dcg='exp-log2')": "ndcg:exp",
    "NDCG(dcg='exp-log2')": "ndcg:exp",
    "RR": "mrr",
    "MRR": "mrr",
    "AP": "map",
    "MAP": "map",
    "Success": "hit",
    "Rprec": "r-precision",
    "RPrec": "r-precision",
    "Bpref": "bpref",
    "BPref": "bpref",
    "ERR": "err",
    "RBP": "rbp",
    "Judged": "judged",
}


@dataclass(frozen=True, eq=False)
class JudgedResults:
    """The judged products that a run returned: F products of Q queries, flat, grouped by query.

    Attributes:
        query_index: (F,) int64, the query of each product.
        rank: (F,) float64, its position in the run, from 1.
        gain: (F,) float64.
        is_relevant: (F,) bool.
        result_counts: (Q,) int64, the number of products that the run returned, judged or not.
        ideal_query_index, ideal_rank, ideal_gain: (J,) of all judged products, returned or not, best gain first.
        relevant_counts, judged_counts: (Q,) int64, all relevant and all judged products of each query.
        highest_gain: The highest gain that a product can have.
    """

    RESULT_COLUMNS: ClassVar[tuple[str, ...]] = ("query_index", "rank", "gain", "is_relevant")

    query_index: np.ndarray
    rank: np.ndarray
    gain: np.ndarray
    is_relevant: np.ndarray
    result_counts: np.ndarray
    ideal_query_index: np.ndarray
    ideal_rank: np.ndarray
    ideal_gain: np.ndarray
    relevant_counts: np.ndarray
    judged_counts: np.ndarray
    highest_gain: float

    def sum_by_query(self, values: np.ndarray) -> np.ndarray:
        """Sum of (F,) values over each query: (Q,) float64."""
        return _sum_by_query(self.query_index, values, len(self.result_counts))

    def cut(self, k: int | None) -> Self:
        """The first `k` positions of each query, and of each ideal list; all for None."""
        if k is None:
            return self
        top = replace(self, result_counts=self.result_counts.clip(max=k))
        if (self.rank > k).any():
            top = top._take(np.flatnonzero(self.rank <= k))
        if (self.ideal_rank > k).any():
            best = np.flatnonzero(self.ideal_rank <= k)
            top = replace(
                top,
                ideal_query_index=self.ideal_query_index[best],
                ideal_rank=self.ideal_rank[best],
                ideal_gain=self.ideal_gain[best],
            )
        return top

    def sort_by_rank(self) -> Self:
        """The same, by query and rank."""
        return self._take(np.lexsort((self.rank, self.query_index)))

    def exponential_gains(self) -> tuple[np.ndarray, np.ndarray]:
        """2^gain − 1 of the results (F,) and of the ideal lists (J,), over 2^(the best gain of the query)."""
        best = self.ideal_gain[
            self.ideal_rank == 1
        ]  # without this division, gains of 1,024 and more are infinite
        columns = ((self.gain, self.query_index), (self.ideal_gain, self.ideal_query_index))
        ours, ideal = (np.exp2(gain - best[query]) - np.exp2(-best[query]) for gain, query in columns)
        return ours, ideal

    def _take(self, indices: np.ndarray) -> Self:
        return replace(self, **{name: getattr(self, name)[indices] for name in self.RESULT_COLUMNS})


MetricFunction = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Metric:
    """How to compute a metric.

    Attributes:
        function: (results cut at k, k, and the number if the name has one) → (Q,) float64.
        has_cutoff: Whether the name can have a cut-off, `@k`.
        has_number: Whether the variant can be a number strictly between 0 and 1.
    """

    function: MetricFunction
    has_cutoff: bool
    has_number: bool


METRICS: dict[str, Metric] = {}


def metric(
    name: str, *, cutoff: bool = True, number: bool = False
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a function under `name` or `name:variant`; see `Metric`.

    Raises:
        JudgeError: a name that `parse_metric` could not read.
    """
    if not REGISTERED_NAME.fullmatch(name):
        raise JudgeError(
            f"'{name}' cannot be the name of a metric; it must begin with a small letter and consist of small letters, "
            "digits and hyphens, with a variant of small letters as in 'ndcg:exp'"
        )

    def register(function: MetricFunction) -> MetricFunction:
        METRICS[name] = Metric(function, cutoff, number)
        return function

    return register


def known_metrics() -> dict[str, Metric]:
    """All metrics by name, with those of other packages."""
    for load in _plugin_loaders():
        load()
    return METRICS


@cache  # to read the metadata of all installed packages takes time
def _plugin_loaders() -> list[Callable[[], object]]:
    from importlib.metadata import entry_points  # takes time, too, and few runs need it

    return [entry_point.load() for entry_point in entry_points(group=PLUGINS)]


@metric("ndcg")
def ndcg(results: JudgedResults, k: int | None) -> np.ndarray:
    """Normalised discounted cumulative gain: Σ gain / log2(rank + 1), over that of the best possible list.

    The best list holds every judged product, retrieved or not. In [0, 1]; 0 where no product has a gain.
    Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20(4), 2002, with the
    discount of trec_eval.
    """
    return _normalise_dcg(results, results.gain, results.ideal_gain)


@metric("ndcg:exp")
def ndcg_exponential(results: JudgedResults, k: int | None) -> np.ndarray:
    """As `ndcg`, with 2^gain − 1 for gain.

    Burges et al., "Learning to rank using gradient descent", ICML 2005.
    """
    return _normalise_dcg(results, *results.exponential_gains())


@metric("recall")
def recall(results: JudgedResults, k: int | None) -> np.ndarray:
    """Share of *all* relevant products that are among the first k; below 1 where more than k are relevant."""
    return divide(results.sum_by_query(results.is_relevant), results.relevant_counts)


@metric("hit")
def hit(results: JudgedResults, k: int | None) -> np.ndarray:
    """1 where any relevant product is among the first k, else 0; trec_eval's `success`."""
    return (results.sum_by_query(results.is_relevant) > 0).astype(np.float64)


@metric("precision")
def precision(results: JudgedResults, k: int | None) -> np.ndarray:
    """Share of relevant products among the first k positions; positions after the end of a short list count, too.

    Without k, share of relevant products among all results.
    """
    positions = results.result_counts if k is None else np.full(len(results.result_counts), k)
    return divide(results.sum_by_query(results.is_relevant), positions)


@metric("mrr")
def mrr(results: JudgedResults, k: int | None) -> np.ndarray:
    """Reciprocal rank of the first relevant product; 0 where none is among the first k."""
    best = np.zeros(len(results.result_counts))
    np.maximum.at(best, results.query_index, results.is_relevant / results.rank)
    return best


@metric("map")
def average_precision(results: JudgedResults, k: int | None) -> np.ndarray:
    """Sum of the precision at the rank of each relevant product in the first k, divided by the number of *all* of them.

    As trec_eval's `map` and `map_cut`; some libraries divide by min(k, all relevant) instead.
    """
    results = results.sort_by_rank()
    precisions = results.is_relevant * _cumulative_count(results, results.is_relevant) / results.rank
    return divide(results.sum_by_query(precisions), results.relevant_counts)


@metric("r-precision", cutoff=False)
def r_precision(results: JudgedResults, k: None) -> np.ndarray:
    """Precision at R, the number of relevant products of the query."""
    is_within = results.rank <= results.relevant_counts[results.query_index]
    return divide(results.sum_by_query(results.is_relevant & is_within), results.relevant_counts)


@metric("bpref", cutoff=False)
def bpref(results: JudgedResults, k: None) -> np.ndarray:
    """How rarely products that were judged irrelevant rank above relevant ones; unjudged products do not matter.

    Σ (1 − min(irrelevant above it, R) / min(all irrelevant, R)) / R over the relevant products in the run, where R is
    the number of all relevant products.
    Buckley & Voorhees, "Retrieval evaluation with incomplete information", SIGIR 2004, as corrected in trec_eval.
    """
    results = results.sort_by_rank()
    relevant_counts = results.relevant_counts
    irrelevant_above = np.minimum(
        _cumulative_count(results, ~results.is_relevant), relevant_counts[results.query_index]
    )
    highest = np.minimum(results.judged_counts - relevant_counts, relevant_counts)[results.query_index]
    preferences = results.is_relevant * (1 - divide(irrelevant_above, highest))
    return divide(results.sum_by_query(preferences), relevant_counts)


@metric("err")
def expected_reciprocal_rank(results: JudgedResults, k: int | None) -> np.ndarray:
    """Expected reciprocal rank of the product at which a shopper stops reading the list.

    The shopper stops at a product with probability (2^gain − 1) / 2^highest. The highest gain is the highest of `gains`
    or, where grades are their own gains, the highest grade of all judgements. Chapelle et al., "Expected reciprocal
    rank for graded relevance", CIKM 2009.
    """
    results = results.sort_by_rank()
    highest = results.highest_gain
    stops = np.exp2(results.gain - highest) - np.exp2(-highest)  # 2^1024 would be infinite
    return results.sum_by_query(_preceding_product(results.query_index, 1 - stops) * stops / results.rank)


@metric("rbp", number=True)
def rank_biased_precision(results: JudgedResults, k: int | None, persistence: float = 0.8) -> np.ndarray:
    """(1 − p) Σ p^(rank − 1) over relevant products; a shopper goes on to the next product with probability p.

    "rbp:0.95" has p = 0.95. Moffat & Zobel, "Rank-biased precision for measurement of retrieval effectiveness",
    TOIS 27(1), 2008.
    """
    return (1 - persistence) * results.sum_by_query(results.is_relevant * persistence ** (results.rank - 1))


@metric("judged")
def judged(results: JudgedResults, k: int | None) -> np.ndarray:
    """Share of the first k results that were judged; 0 where the run returned none."""
    return divide(results.sum_by_query(np.ones(len(results.query_index))), results.result_counts)


def ideal_dcg(results: JudgedResults, ideal_gain: np.ndarray) -> np.ndarray:
    """(Q,) Σ gain / log2(rank + 1) of the best possible list, with (J,) gains."""
    ideal_discounted = ideal_gain / np.log2(results.ideal_rank + 1)
    return _sum_by_query(results.ideal_query_index, ideal_discounted, len(results.result_counts))


def _normalise_dcg(results: JudgedResults, gain: np.ndarray, ideal_gain: np.ndarray) -> np.ndarray:
    discounted = results.sum_by_query(gain / np.log2(results.rank + 1))
    return divide(discounted, ideal_dcg(results, ideal_gain))


def _cumulative_count(results: JudgedResults, mask: np.ndarray) -> np.ndarray:
    """(F,) number of True values of a (F,) bool mask in the query so far, this position included."""
    before = np.concatenate([[0], np.cumsum(mask)])
    return before[1:] - before[np.searchsorted(results.query_index, results.query_index)]


def _preceding_product(query_index: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(F,) product of all earlier factors of the same query; by doubling, so that queries do not mix."""
    product = np.ones(len(query_index))
    is_same = query_index[1:] == query_index[:-1]
    product[1:][is_same] = factors[:-1][is_same]
    step = 1
    while step < len(query_index) and (is_same := query_index[step:] == query_index[:-step]).any():
        product[step:] *= np.where(is_same, product[:-step], 1.0)
        step *= 2
    return product


def _sum_by_query(query_index: np.ndarray, values: np.ndarray, queries: int) -> np.ndarray:
    sums = np.bincount(query_index, values, queries)
    return sums.astype(np.float64, copy=False)  # without values, bincount returns integers


def divide(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """part / total; 0 where the total is 0."""
    return np.divide(part, total, out=np.zeros(part.shape), where=total > 0)


@dataclass(frozen=True, eq=False)
class Scores:
    """The value of every metric for each of Q judged queries.

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
        """The number of judged queries that the run does not answer; they score 0."""
        return int(np.count_nonzero(~self.answered))

    def means(self) -> dict[str, float]:
        """Metric → mean over all Q queries."""
        return {name: float(np.mean(values)) for name, values in self.values.items()}

    def restrict(self, queries: Sequence[str] | np.ndarray) -> Self:
        """Only some queries; the order stays ascending.

        Args:
            queries: A (Q,) bool mask, or query ids.

        Raises:
            JudgeError: a mask of another length, an unknown id, or no query left.
        """
        mask = np.asarray(queries)
        if mask.dtype != bool:
            mask = self._mask_of(mask.astype(str))
        if mask.shape != self.query_ids.shape:
            raise JudgeError(
                f"a mask of shape {mask.shape} for {len(self.query_ids)} queries; give one bool per query"
            )
        if not mask.any():
            raise JudgeError("no query is left to average over; select at least one query")
        values = {name: column[mask] for name, column in self.values.items()}
        return type(self)(self.query_ids[mask], self.answered[mask], values)

    def _mask_of(self, query_ids: np.ndarray) -> np.ndarray:
        if len(unknown := np.setdiff1d(query_ids, self.query_ids)):
            raise JudgeError(f"query '{unknown[0]}' is not among the {len(self.query_ids)} scored queries")
        return np.isin(self.query_ids, query_ids)

    def to_parquet(self, path: Path) -> None:
        """Write one row per query: query_id, answered, and one column per metric."""
        import pyarrow.parquet as pq  # takes time, and few runs need it

        columns = {"query_id": self.query_ids, "answered": self.answered, **self.values}
        pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), path)

    @classmethod
    def from_parquet(cls, path: Path) -> Self:
        """Read what `to_parquet` wrote.

        Raises:
            JudgeError: an unreadable file, or a missing column.
        """
        from vitrine_judge.parquet_files import read_table

        table = read_table(path)
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        try:
            query_ids, answered = to_text(columns.pop("query_id")), columns.pop("answered")
            values = {name: column.to_numpy() for name, column in columns.items()}
            return cls(query_ids, answered.to_numpy(zero_copy_only=False), values)
        except KeyError as error:
            raise JudgeError(f"{path}: column {error} is missing; write it with Scores.to_parquet") from error


def parse_metric(name: str) -> tuple[MetricFunction, int | None]:
    """The function and the cut-off of a metric.

    Raises:
        JudgeError: a name that is not `name[@k][:variant]` with a known name and k ≥ 1.
    """
    base, cutoff, persistence = split_metric(name)
    return with_number(METRICS[base].function, persistence), cutoff


def with_number(function: MetricFunction, number: float | None) -> MetricFunction:
    """A metric's function with the number of its name, if it has one."""
    return function if number is None else partial(function, persistence=number)


def split_metric(name: str) -> tuple[str, int | None, float | None]:
    """The registered name, the cut-off and the number of a metric: "rbp@10:0.95" gives "rbp", 10 and 0.95.

    Raises:
        JudgeError: as for `parse_metric`.
    """
    parts = METRIC_NAME.fullmatch(name)
    base, cutoff, variant, number = parts.groups() if parts else ("", None, None, None)
    registered = f"{base}:{variant}" if variant else base
    entry = METRICS.get(registered) or known_metrics().get(registered)
    if entry is None or (cutoff and not entry.has_cutoff) or (number and not entry.has_number):
        metrics = known_metrics()
        without_cutoff = [name for name, metric in metrics.items() if not metric.has_cutoff]
        raise JudgeError(
            f"'{name}' is not a metric; known are {', '.join(metrics)}, "
            "with a cut-off of 1 or more as in 'ndcg@10' or 'ndcg@10:exp'; without cut-off: "
            f"{' and '.join(without_cutoff)}"
        )
    return registered, int(cutoff) if cutoff else None, float(number) if number else None


def metric_name(name: str) -> str:
    """Our name of a metric that is spelled as in ir_measures; any other name as it is.

    Example:
        >>> metric_name("nDCG@10"), metric_name("ndcg@10")
        ('ndcg@10', 'ndcg@10')
    """
    spelling, at, cutoff = name.partition("@")
    base, colon, variant = SPELLINGS.get(spelling, spelling).partition(":")
    return f"{base}{at}{cutoff}{colon}{variant}"


def is_metric(name: str) -> bool:
    """Whether this is the name of a metric, in our spelling."""
    try:
        parse_metric(name)
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
    ties: str = "id",
) -> Scores:
    """Score every judged query on every metric.

    Args:
        run: The results of a system; also several runs of some queries each, as of `Run.batches`.
        qrels: The judgements.
        metrics: Names, such as "ndcg@10"; see `known_metrics` and `SPELLINGS`.
        gains: Grade → gain ≥ 0, for NDCG and ERR. By default a grade is its own gain, a negative grade has gain 0.
        relevant: The grade from which a product is relevant, for all other metrics.
        ties: The order of equal scores: "id" for ascending ids, "average" for the mean over all orders.

    Raises:
        JudgeError: an unknown metric, one without a mean over orders for ties = "average", a grade without a gain in
            `gains`, a query that is in several runs, or a value that is not finite.

    Example:
        >>> run = Run.from_dict({"red shoe": {"a": 2.0, "b": 1.0}})
        >>> score(run, Qrels.from_dict({"red shoe": {"b": 3}}), ["mrr@10"]).means()
        {'mrr@10': 0.5}
    """
    metrics = [metric_name(name) for name in metrics]
    functions = _metric_functions(metrics, ties)
    check_gains(gains)
    if not np.isfinite(relevant):
        raise JudgeError(f"relevant: {relevant}; it must be a finite grade")
    answered = np.zeros(len(Qrels.require(qrels).queries), bool)
    values = {name: np.zeros(len(answered)) for name in metrics}
    highest_gain = max(gains.values()) if gains else max(0.0, qrels.values.max())
    grading = _Grading(gains, relevant, highest_gain, ties)
    for part in as_runs(run):
        rows = locate(qrels.queries, part.queries)
        in_part = np.flatnonzero(rows >= 0)
        _check_first_time(answered[in_part], qrels.queries, in_part)
        answered[in_part] = True
        if len(in_part):
            columns = _score_queries(part, qrels.select(in_part), rows[in_part], functions, grading)
            for name, column in zip(metrics, columns, strict=True):
                _check_values(column, name, qrels.queries, in_part)
                values[name][in_part] = column
    order = text_order(qrels.queries)
    sorted_values = {name: column[order] for name, column in values.items()}
    return Scores(qrels.query_ids[order], answered[order], sorted_values)


@dataclass(frozen=True)
class _Grading:
    """`gains`, `relevant` and `ties` as for `score`; `highest_gain` as in `JudgedResults`."""

    gains: Mapping[int, float] | None
    relevant: float
    highest_gain: float
    ties: str


def _metric_functions(names: Sequence[str], ties: str) -> list[tuple[MetricFunction, int | None]]:
    if ties == "id":
        return [parse_metric(name) for name in names]
    if ties != "average":
        raise JudgeError(f"ties: '{ties}'; it must be {' or '.join(TIES)}")
    from vitrine_judge.tie_averages import parse_average

    return [parse_average(name) for name in names]


def _check_values(values: np.ndarray, name: str, queries: pa.Array, rows: np.ndarray) -> None:
    is_finite = np.isfinite(values)
    if not is_finite.all():
        row = int(is_finite.argmin())
        raise JudgeError(
            f"query '{queries[rows[row]]}': {name} is {values[row]}; its gains are too large to add up"
        )


def _check_first_time(answered: np.ndarray, queries: pa.Array, rows: np.ndarray) -> None:
    if answered.any():
        query = queries[rows[answered.argmax()]]
        raise JudgeError(f"query '{query}' is in two parts of the run; sort the run by query")


def _score_queries(
    run: Run,
    qrels: Qrels,
    rows: np.ndarray,
    metrics: Sequence[tuple[MetricFunction, int | None]],
    grading: _Grading,
) -> Iterator[np.ndarray]:
    """(Q,) float64 of each metric, for Q judged queries with indices `rows` in `run.queries`."""
    (index, products), cutoffs = run.index_products(qrels.products), {k for _, k in metrics}

    def score_part(part: tuple[slice, Qrels]) -> list[np.ndarray]:
        positions, part_qrels = part
        results = _match_judgements(run, index, part_qrels, rows[positions], products, grading)
        if grading.ties == "average":
            from vitrine_judge.tie_averages import TiedResults

            results = TiedResults.from_results(results, run, rows[positions])
        results_by_cutoff = {k: results.cut(k) for k in cutoffs}
        with np.errstate(over="ignore", invalid="ignore"):  # `_check_values` reports what is not finite
            return [function(results_by_cutoff[k], k) for function, k in metrics]

    return map(np.concatenate, zip(*map_parallel(score_part, qrels.split()), strict=True))


def _match_judgements(
    run: Run, index: PairIndex, qrels: Qrels, rows: np.ndarray, products: np.ndarray, grading: _Grading
) -> JudgedResults:
    """Look up the judged products in a run.

    Args:
        run: The results of a system.
        index: Its pairs by product.
        qrels: The judgements.
        rows: (Q,) int64, the index of each judged query in `run.queries`.
        products: (V,) int64, the number of each judged product in `index`, −1 where it is missing.
        grading: How grades become gains and relevance.
    """
    gain, is_relevant = _to_gains(qrels.values, grading.gains), qrels.values >= grading.relevant
    query_index = qrels.query_index
    rank = index.find_ranks(rows[query_index], products[qrels.product_index])
    returned = np.flatnonzero(rank)
    ideal_gain = np.empty_like(gain)
    for count, cells in equal_count_blocks(qrels.offsets):
        ideal_gain[cells] = np.sort(gain[cells].reshape(-1, count), axis=1)[:, ::-1].ravel()
    return JudgedResults(
        query_index=query_index[returned],
        rank=rank[returned].astype(np.float64),
        gain=gain[returned],
        is_relevant=is_relevant[returned],
        result_counts=run.counts[rows],
        ideal_query_index=query_index,
        ideal_rank=qrels.ranks,
        ideal_gain=ideal_gain,
        relevant_counts=np.add.reduceat(is_relevant, qrels.offsets[:-1], dtype=np.int64),
        judged_counts=qrels.counts,
        highest_gain=grading.highest_gain,
    )


def check_gains(gains: Mapping[int, float] | None) -> None:
    """Refuse gains that `score` cannot use.

    Raises:
        JudgeError: no gain at all, or a gain that is not a finite number ≥ 0.
    """
    if gains is None:
        return
    if not gains:
        raise JudgeError("gains: none is given; give one for every grade")
    if invalid := [f"{grade}: {gain}" for grade, gain in gains.items() if not 0 <= gain < np.inf]:
        raise JudgeError(f"gains: {invalid[0]}; a gain is a finite number ≥ 0")


def _to_gains(grades: np.ndarray, gains: Mapping[int, float] | None) -> np.ndarray:
    if gains is None:
        return np.maximum(grades, 0.0)
    levels, level_index = np.unique(grades, return_inverse=True)
    if unknown := [level for level in levels.tolist() if level not in gains]:
        raise JudgeError(
            f"grade {unknown[0]:g} has no gain; gains are given for {', '.join(map(str, gains))}"
        )
    return np.array([gains[level] for level in levels.tolist()], dtype=np.float64)[level_index]
