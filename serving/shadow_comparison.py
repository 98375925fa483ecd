"""What a challenger answers in the shadow of the champion: how much its results and its latency differ."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.experiment_log import ExperimentLog


class Comparison(NamedTuple):
    """Means over the searches that both answered, unless something else is stated.

    Attributes:
        searches: All searches.
        failed: The share of searches that the challenger did not answer.
        overlap: Products that both show, as a share of the longer list; 1 if both lists are empty.
        equal: The share of searches with the same list.
        rank_correlation: Spearman's, of the products that both show, over searches with two of them or more; NaN for
            none.
        empty_champion, empty_challenger: The shares of searches without results.
        ms_champion, ms_challenger: Median latencies, in milliseconds; NaN for none.
        p95_champion, p95_challenger: Their 95th percentiles.
    """

    searches: int
    failed: float
    overlap: float
    equal: float
    rank_correlation: float
    empty_champion: float
    empty_challenger: float
    ms_champion: float
    ms_challenger: float
    p95_champion: float
    p95_challenger: float


def compare_shadow(log: ExperimentLog) -> Comparison:
    """Compare the results that customers saw with those that the challenger gave.

    Args:
        log: Of a shadow; it has a search at least.
    """
    searches = log.searches
    answered = searches.filter(pc.is_valid(searches["shadow_results"]))
    pairs = list(
        zip(_list_products(answered, "results"), _list_products(answered, "shadow_results"), strict=True)
    )
    champion, challenger = (answered[name].drop_null().to_numpy() for name in ("latency_ms", "shadow_ms"))
    return Comparison(
        searches.num_rows,
        1 - answered.num_rows / searches.num_rows,
        _mean([_share_overlap(*pair) for pair in pairs]),
        _mean([first == second for first, second in pairs]),
        _mean(list(_correlate_ranks(pairs))),
        *(_mean([not results for results in lists]) for lists in zip(*pairs, strict=True))
        if pairs
        else (np.nan, np.nan),
        *(_quantile(times, share) for share in (0.5, 0.95) for times in (champion, challenger)),
    )


def _list_products(searches: pa.Table, column: str) -> Iterator[list[str]]:
    for results in searches[column].to_pylist():
        yield [result["product_id"] for result in results]


def _share_overlap(first: Sequence[str], second: Sequence[str]) -> float:
    longest = max(len(first), len(second))
    return len({*first} & {*second}) / longest if longest else 1.0


def _correlate_ranks(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Iterator[float]:
    for first, second in pairs:
        places = {product: place for place, product in enumerate(second)}
        common = np.array([places[product] for product in first if product in places])
        if len(common) > 1:
            ranks = np.argsort(np.argsort(common))
            yield float(np.corrcoef(np.arange(len(common)), ranks)[0, 1])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _quantile(times: np.ndarray, share: float) -> float:
    return float(np.quantile(times, share)) if len(times) else np.nan
