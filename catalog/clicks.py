"""Relevance grades from a click log, corrected for position bias."""

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from catalog.logs import Impression, Impressions, count_equal, read_log
from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE

EM_STEPS = 100  # of expectation maximisation
GRADE_THRESHOLDS = {EXACT: 0.5, SUBSTITUTE: 0.2}  # minimal attractiveness, as a share of the query's maximum
MIN_EXAMINATIONS = 10  # expected examinations without a click that make a product irrelevant


def read_impressions(
    log: Path | str, product_ids: Collection[str], personal: Sequence[str] = (), mappings: Sequence[str] = ()
) -> Counter[Impression]:
    """Read the usable rows of a log of searches and clicks; see `catalog.logs`.

    Args:
        log: As for `catalog.logs.read_log`.
        product_ids: Products of the data set; rows of others are skipped.
        personal: Columns that are allowed although they look personal; they are not read.
        mappings: COLUMN=NAME: the names of columns in the log.

    Raises:
        DataError: if the log cannot be read, lacks a column, or has a column that looks personal.
    """
    impressions = read_log(log, personal, mappings)
    counted = count_equal(impressions)
    others = [key for key in counted if key.product not in product_ids]
    if unknown := sum(counted.pop(key) for key in others):
        print(
            f"{Path(log).name}: skipped {unknown:,} rows of products that are not in the data",
            file=sys.stderr,
        )
    return counted


def count_searches(impressions: Impressions) -> dict[str, int]:
    """Count the result pages of each query; a lower bound.

    The log does not say which impressions belong to the same page. But a page has each position at most once, so the
    count of the most frequent position is a lower bound.

    Returns:
        Query → number of searches.
    """
    searches: dict[str, int] = defaultdict(int)
    positions: Counter[tuple[str, int]] = Counter()
    for impression, count in count_equal(impressions).items():
        positions[impression.query, impression.position] += count
    for (query, _), count in positions.items():
        searches[query] = max(searches[query], count)
    return dict(searches)


def fit_position_model(
    pairs: np.ndarray, positions: np.ndarray, clicked: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the position-based click model: P(click) = attractiveness of the pair × examination of the position.

    Chuklin, Markov and de Rijke, *Click Models for Web Search*, 2015, sections 3.3 and 4.3.2: expectation maximisation,
    here started from the observed click rates and an examination of 1/position. The two factors can be separated only
    if products were shown at several positions.

    Args:
        pairs: int64 (N,): index of the impression's pair of query and product, 0 … P-1.
        positions: int64 (N,): 0 … K-1.
        clicked: bool (N,).
        counts: int64 (N,): how often each impression occurred; once by default.

    Returns:
        Attractiveness of each pair, float64 (P,); examination of each position relative to the first, float64 (K,).
    """
    counts = np.ones(len(pairs)) if counts is None else counts
    pair_counts = np.bincount(pairs, counts)
    position_counts = np.maximum(np.bincount(positions, counts), 1)
    prior = np.average(
        clicked, weights=counts
    )  # smoothing: one more impression per pair, with the mean click rate
    attractiveness = (prior + np.bincount(pairs, clicked * counts)) / (1 + pair_counts)
    examination = 1.0 / (1 + np.arange(len(position_counts)))  # with 1 everywhere, EM would not move
    for _ in range(EM_STEPS):
        alpha, gamma = attractiveness[pairs], examination[positions]
        no_click = np.maximum(1 - alpha * gamma, 1e-12)
        attracted = np.where(clicked, 1.0, alpha * (1 - gamma) / no_click)
        examined = np.where(clicked, 1.0, gamma * (1 - alpha) / no_click)
        attractiveness = (prior + np.bincount(pairs, attracted * counts)) / (1 + pair_counts)
        examination = np.bincount(positions, examined * counts) / position_counts
        first = max(examination[0], 1e-12)
        attractiveness = np.minimum(attractiveness * first, 1 - 1e-9)
        examination = np.minimum(examination / first, 1.0)
    return attractiveness, examination


def grade_clicks(impressions: Impressions) -> dict[str, dict[str, int]]:
    """Grade the products of each query that has a click; see `GRADE_THRESHOLDS` and `MIN_EXAMINATIONS`.

    Returns:
        Query → product → grade.
    """
    if not impressions:
        return {}
    counted = count_equal(impressions)
    times = np.array(list(counted.values()))
    keys = dict.fromkeys((impression.query, impression.product) for impression in counted)
    indices = {key: index for index, key in enumerate(keys)}
    pairs = np.array([indices[impression.query, impression.product] for impression in counted])
    positions = np.array([impression.position for impression in counted])
    clicked = np.array([impression.clicked for impression in counted])
    attractiveness, examination = fit_position_model(pairs, positions, clicked, times)
    clicks = np.bincount(pairs, clicked * times)
    examinations = np.bincount(pairs, examination[positions] * times)
    pairs_by_query: dict[str, dict[str, int]] = defaultdict(dict)
    for (query, product), index in indices.items():
        pairs_by_query[query][product] = index
    grades: dict[str, dict[str, int]] = {}
    for query, products in pairs_by_query.items():
        best = max((attractiveness[index] for index in products.values() if clicks[index]), default=0.0)
        if best:
            grades[query] = {
                product: _grade(attractiveness[index] / best) if clicks[index] else IRRELEVANT
                for product, index in products.items()
                if clicks[index] or examinations[index] >= MIN_EXAMINATIONS
            }
    return grades


def _grade(share: float) -> int:
    return next((grade for grade, minimum in GRADE_THRESHOLDS.items() if share >= minimum), IRRELEVANT)
