"""Grades from clicks, corrected for what is clicked only because it was shown first."""

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from catalog.reading import Files, rows, screened
from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE
from catalog.text import normalise

COLUMNS = ["query", "product_id", "position", "clicked"]
CLICKED = {"0": False, "1": True, "false": False, "true": True}
STEPS = 100  # of expectation maximisation
CUTS = {
    EXACT: 0.5,
    SUBSTITUTE: 0.2,
}  # attractiveness, as a share of the query's best, from which a grade is given
ENOUGH = 10  # times that a product was looked at, from which the lack of clicks makes it irrelevant


class Impression(NamedTuple):
    """A product that was shown."""

    query: str  # normalised
    product: str
    position: int  # from 0
    clicked: bool


def impressions(log: Path, known: Collection[str], personal: Collection[str] = ()) -> list[Impression]:
    """The usable rows of a log: query, product_id, position (from 1), clicked (0 or 1).

    Args:
        log: .csv, .jsonl or .parquet.
        known: Ids of products; others are left aside.
        personal: Columns that may be there though they look personal; none but the four is read.

    Raises:
        DataError: where the log cannot be read, lacks a column, or has one that looks personal.
    """
    found, unknown = [], 0
    with Files(log) as files:
        for one in screened(rows(files, log.name, COLUMNS), COLUMNS, personal):
            text, product = normalise(str(one.values["query"] or "")), str(one.values["product_id"])
            position, clicked = str(one.values["position"]), str(one.values["clicked"]).lower()
            if not text or not position.isdecimal() or int(position) < 1 or clicked not in CLICKED:
                files.fault(one.where, "no query, no position from 1 on, or clicked is neither 0 nor 1")
            elif product not in known:
                unknown += 1
            else:
                found.append(Impression(text, product, int(position) - 1, CLICKED[clicked]))
        if files.faults:
            where, reason = files.faults[0]
            print(
                f"{log.name}: left out {len(files.faults):,} rows, the first {where}: {reason}",
                file=sys.stderr,
            )
    if unknown:
        print(f"{log.name}: left out {unknown:,} rows of products that are not in the data", file=sys.stderr)
    return found


def count_searches(seen: Sequence[Impression]) -> dict[str, int]:
    """Query → how often its results were shown, at least.

    A log does not say which impressions belong to one page of results. But each page has a position at most once, so
    there were as many pages as there are impressions at the most frequent position.
    """
    searches: dict[str, int] = defaultdict(int)
    for (query, _), count in Counter((one.query, one.position) for one in seen).items():
        searches[query] = max(searches[query], count)
    return dict(searches)


def position_based(
    pairs: np.ndarray, positions: np.ndarray, clicked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the position-based model, by which a product is clicked if its position is looked at and it is attractive.

    Chuklin, Markov and de Rijke, *Click Models for Web Search*, 2015, sections 3.3 and 4.3.2: expectation maximisation,
    here begun from the observed rates, and looks that fall off as 1/position. It tells the two apart only where
    products were shown at several positions.

    Args:
        pairs: int64 (N,): which query and product each impression is of, 0 … P-1.
        positions: int64 (N,): 0 … K-1.
        clicked: bool (N,).

    Returns:
        How attractive each pair is, float64 (P,); how likely each position is looked at, the first taken as 1,
        float64 (K,).
    """
    shown, places = np.bincount(pairs), np.maximum(np.bincount(positions), 1)
    usual = clicked.mean()  # what one more impression of each pair would say
    attractive = (usual + np.bincount(pairs, clicked)) / (1 + shown)
    looked = 1.0 / (1 + np.arange(len(places)))  # of all at 1, nothing would change
    for _ in range(STEPS):
        a, e = attractive[pairs], looked[positions]
        missed = np.maximum(1 - a * e, 1e-12)
        attracted = np.where(clicked, 1.0, a * (1 - e) / missed)
        noticed = np.where(clicked, 1.0, e * (1 - a) / missed)
        attractive = (usual + np.bincount(pairs, attracted)) / (1 + shown)
        looked = np.bincount(positions, noticed) / places
        top = max(looked[0], 1e-12)
        attractive, looked = np.minimum(attractive * top, 1 - 1e-9), np.minimum(looked / top, 1.0)
    return attractive, looked


def graded(seen: Sequence[Impression]) -> dict[str, dict[str, int]]:
    """Query → product → grade, for queries with a click; see `CUTS` and `ENOUGH`."""
    if not seen:
        return {}
    places = {
        pair: number for number, pair in enumerate(dict.fromkeys((one.query, one.product) for one in seen))
    }
    pairs = np.array([places[one.query, one.product] for one in seen])
    positions, clicked = np.array([one.position for one in seen]), np.array([one.clicked for one in seen])
    attractive, looked = position_based(pairs, positions, clicked)
    clicks, looks = np.bincount(pairs, clicked), np.bincount(pairs, looked[positions])
    of: dict[str, dict[str, int]] = defaultdict(dict)
    for (query, product), place in places.items():
        of[query][product] = place
    grades: dict[str, dict[str, int]] = {}
    for query, shelf in of.items():
        best = max((attractive[place] for place in shelf.values() if clicks[place]), default=0.0)
        if best:
            grades[query] = {
                product: _grade(attractive[place] / best) if clicks[place] else IRRELEVANT
                for product, place in shelf.items()
                if clicks[place] or looks[place] >= ENOUGH
            }
    return grades


def _grade(share: float) -> int:
    return next((grade for grade, cut in CUTS.items() if share >= cut), IRRELEVANT)
