"""Combine several runs into one: reciprocal rank fusion, CombSUM, CombMNZ, and a weighted sum with the best weight."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from vitrine_judge.arrays import locate
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

RRF_K = 60.0  # of Cormack et al.
WEIGHTS = tuple(step / 20 for step in range(21))

Normalisation = Callable[[np.ndarray, np.ndarray], np.ndarray]


def min_max(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The scores of each query scaled to [0, 1]; all 1 where they are equal.

    Args:
        values: (N,) scores.
        starts: (Q,) the position of each query's first score.
    """
    sizes = np.diff(starts, append=len(values))
    low, high = (np.repeat(extreme.reduceat(values, starts), sizes) for extreme in (np.minimum, np.maximum))
    return np.divide(values - low, high - low, out=np.ones_like(values), where=high > low)


def z_score(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The scores of each query with mean 0 and standard deviation 1; all 0 where they are equal. Args as `min_max`."""
    sizes = np.diff(starts, append=len(values))
    centred = values - np.repeat(np.add.reduceat(values, starts) / sizes, sizes)
    spread = np.repeat(np.sqrt(np.add.reduceat(centred**2, starts) / sizes), sizes)
    return np.divide(centred, spread, out=np.zeros_like(values), where=spread > 1e-12 * np.abs(values))


NORMALISATIONS: dict[str, Normalisation] = {
    "min-max": min_max,
    "z-score": z_score,
    "none": lambda values, starts: values,
}


def rrf(runs: Sequence[Run], k: float = RRF_K) -> Run:
    """Reciprocal rank fusion: Σ 1 / (k + rank) over the runs that hold a product.

    Cormack, Clarke & Büttcher, "Reciprocal rank fusion outperforms Condorcet", SIGIR 2009.

    Raises:
        JudgeError: no runs.
    """
    return _sum_contributions(runs, [1 / (k + run.ranks) for run in runs])


def comb_sum(runs: Sequence[Run], normalisation: str = "min-max") -> Run:
    """The sum of a product's normalised scores; runs that do not hold the product add nothing.

    Fox & Shaw, "Combination of multiple searches", TREC-2, 1994.

    Raises:
        JudgeError: no runs, or an unknown normalisation.
    """
    return weighted(runs, [1.0] * len(runs), normalisation)


def comb_mnz(runs: Sequence[Run], normalisation: str = "min-max") -> Run:
    """`comb_sum` times the number of runs that hold the product; same source and errors."""
    contributions = [_normalise(run, normalisation) for run in runs]
    return _sum_contributions(runs, contributions, multiply_by_runs=True)


def weighted(runs: Sequence[Run], weights: Sequence[float], normalisation: str = "min-max") -> Run:
    """The weighted sum of a product's normalised scores.

    Raises:
        JudgeError: no runs, an unknown normalisation, or another number of weights than runs.
    """
    if len(weights) != len(runs):
        raise JudgeError(f"{len(weights)} weights for {len(runs)} runs; give one weight per run")
    contributions = [
        weight * _normalise(run, normalisation) for run, weight in zip(runs, weights, strict=True)
    ]
    return _sum_contributions(runs, contributions)


def best_weight(
    first: Run,
    second: Run,
    qrels: Qrels,
    metric: str,
    normalisation: str = "min-max",
    weights: Sequence[float] = WEIGHTS,
    **score_options: object,
) -> float:
    """The w for which w · first + (1 − w) · second scores best, on other queries than the reported ones.

    Args:
        first, second: Two runs of the same queries.
        qrels: The judgements of the validation queries.
        metric: The metric to maximise; `score_options` are arguments of `vitrine_judge.metrics.score`.
        normalisation: Of the scores.
        weights: The weights to try; the first of equally good ones wins.

    Raises:
        JudgeError: as for `weighted` and `vitrine_judge.metrics.score`.
    """

    def mean_score(weight: float) -> float:
        run = weighted([first, second], [weight, 1 - weight], normalisation)
        return score(run, qrels, [metric], **score_options).means()[metric]  # type: ignore[arg-type]

    return max(weights, key=mean_score)


def _normalise(run: Run, normalisation: str) -> np.ndarray:
    if normalisation not in NORMALISATIONS:
        raise JudgeError(f"unknown normalisation '{normalisation}'; known are {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[normalisation](run.values, run.offsets[:-1])


def _sum_contributions(
    runs: Sequence[Run], contributions: Sequence[np.ndarray], multiply_by_runs: bool = False
) -> Run:
    """A run whose scores are the sums of (N,) contributions of the pairs of each run."""
    if not runs:
        raise JudgeError("no runs to combine; give at least one")
    queries, query_rows = _merge_ids([run.queries for run in runs])
    products, product_rows = _merge_ids([run.products for run in runs])
    keys = np.concatenate(
        [
            query_row[run.query_index] * len(products) + product_row[run.product_index]
            for run, query_row, product_row in zip(runs, query_rows, product_rows, strict=True)
        ]
    )
    pairs, pair_index, run_counts = np.unique(keys, return_inverse=True, return_counts=True)
    sums = np.bincount(pair_index, np.concatenate(contributions), len(pairs))
    query_index, product_index = np.divmod(pairs, len(products))
    return Run.from_arrays(
        pa.DictionaryArray.from_arrays(query_index, queries),
        pa.DictionaryArray.from_arrays(product_index, products),
        sums * run_counts if multiply_by_runs else sums,
    )


def _merge_ids(columns: Sequence[pa.Array]) -> tuple[pa.Array, list[np.ndarray]]:
    """All ids without duplicates, and the index of each column's ids among them."""
    text_columns = [ids.cast(pa.string()) for ids in columns]
    unique = pa.concat_arrays(text_columns).unique()
    return unique, [locate(ids, unique) for ids in text_columns]
