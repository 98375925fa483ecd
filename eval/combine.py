"""Several runs made one: reciprocal rank fusion, CombSUM, CombMNZ, and a weighted sum with its weight chosen."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from eval.arrays import locate
from eval.metrics import score
from eval.rankings import JudgeError, Qrels, Run

RRF_K = 60.0  # of Cormack et al.
WEIGHTS = tuple(step / 20 for step in range(21))

Normalisation = Callable[[np.ndarray, np.ndarray], np.ndarray]


def min_max(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A query's scores stretched to [0, 1]; all 1 where they are equal.

    Args:
        values: (N,) scores.
        starts: (Q,) where each query's begin.
    """
    sizes = np.diff(starts, append=len(values))
    low, high = (np.repeat(reach.reduceat(values, starts), sizes) for reach in (np.minimum, np.maximum))
    return np.divide(values - low, high - low, out=np.ones_like(values), where=high > low)


def z_score(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A query's scores with mean 0 and standard deviation 1; all 0 where they are equal. Arguments as `min_max`."""
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
    return _combined(runs, [1 / (k + run.ranks) for run in runs])


def comb_sum(runs: Sequence[Run], normalisation: str = "min-max") -> Run:
    """The sum of a product's normalised scores; where a run does not hold it, nothing.

    Fox & Shaw, "Combination of multiple searches", TREC-2, 1994.

    Raises:
        JudgeError: no runs, or an unknown normalisation.
    """
    return weighted(runs, [1.0] * len(runs), normalisation)


def comb_mnz(runs: Sequence[Run], normalisation: str = "min-max") -> Run:
    """`comb_sum` times the number of runs that hold the product; source and errors as there."""
    return _combined(runs, [_normalised(run, normalisation) for run in runs], times_found=True)


def weighted(runs: Sequence[Run], weights: Sequence[float], normalisation: str = "min-max") -> Run:
    """The weighted sum of a product's normalised scores.

    Raises:
        JudgeError: no runs, an unknown normalisation, or other than one weight a run.
    """
    if len(weights) != len(runs):
        raise JudgeError(f"{len(weights)} weights for {len(runs)} runs; give each run one")
    parts = [weight * _normalised(run, normalisation) for run, weight in zip(runs, weights, strict=True)]
    return _combined(runs, parts)


def best_weight(
    first: Run,
    second: Run,
    qrels: Qrels,
    metric: str,
    normalisation: str = "min-max",
    weights: Sequence[float] = WEIGHTS,
    **judging: object,
) -> float:
    """The w with which w · first + (1 − w) · second scores best, on queries that are not those to report.

    Args:
        first, second: Two runs of the same queries.
        qrels: Of the validation queries.
        metric: What is to be high; `judging` are the arguments of `eval.metrics.score`.
        normalisation: Of the scores.
        weights: Tried; of equally good ones the first wins.

    Raises:
        JudgeError: as for `weighted` and `eval.metrics.score`.
    """

    def found(weight: float) -> float:
        run = weighted([first, second], [weight, 1 - weight], normalisation)
        return score(run, qrels, [metric], **judging).means()[metric]  # type: ignore[arg-type]

    return max(weights, key=found)


def _normalised(run: Run, normalisation: str) -> np.ndarray:
    if normalisation not in NORMALISATIONS:
        raise JudgeError(f"'{normalisation}' is no normalisation; known are {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[normalisation](run.values, run.offsets[:-1])


def _combined(runs: Sequence[Run], parts: Sequence[np.ndarray], times_found: bool = False) -> Run:
    """The sums of what the runs' pairs contribute."""
    if not runs:
        raise JudgeError("no runs to combine; give at least one")
    queries, asked = _joined([run.queries for run in runs])
    products, named = _joined([run.products for run in runs])
    keys = np.concatenate(
        [q[run.rows] * len(products) + p[run.items] for run, q, p in zip(runs, asked, named, strict=True)]
    )
    pairs, pair, found = np.unique(keys, return_inverse=True, return_counts=True)
    sums = np.bincount(pair, np.concatenate(parts), len(pairs))
    row, item = np.divmod(pairs, len(products))
    return Run.from_arrays(
        pa.DictionaryArray.from_arrays(row, queries),
        pa.DictionaryArray.from_arrays(item, products),
        sums * found if times_found else sums,
    )


def _joined(several: Sequence[pa.Array]) -> tuple[pa.Array, list[np.ndarray]]:
    """Each id once, and where among them those of each array are."""
    text = [ids.cast(pa.string()) for ids in several]
    every = pa.concat_arrays(text).unique()
    return every, [locate(ids, every) for ids in text]
