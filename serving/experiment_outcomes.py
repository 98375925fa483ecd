"""From the log of an experiment to one outcome per session.

An outcome must never change once people have seen it: the confidence sequence assumes that. So a session counts with
its first visit alone, until the first pause of `PAUSE`, and only when that is over. All of a session has one outcome,
as its searches hang together.
"""

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from vitrine_judge.interleaving import credit
from vitrine_judge.online import Day, Kind, OnlineResult

from catalog.schema import DataError
from serving.experiment import AB, CHALLENGER_ARM, CHAMPION_ARM, INTERLEAVED_ARM
from serving.experiment_log import ExperimentLog

PAUSE = np.timedelta64(30, "m")  # ends a visit
MISMATCH_LEVEL = 1e-3  # of the test of equal arms: strict, as people look every day


@dataclass(frozen=True)
class Outcomes:
    """The result of an experiment, and what was left out.

    Attributes:
        result: The outcomes by day; None for no session that counts.
        counts: What was counted → number.
        click_through: Arm → its sessions and the share of them with a click; of an A/B test only.
    """

    result: OnlineResult | None
    counts: dict[str, int]
    click_through: dict[str, tuple[int, float]]


@dataclass(frozen=True, eq=False)
class Visits:
    """The first visits of S sessions, which made R searches.

    Attributes:
        sessions: int64 (R,), the session of each search.
        searched: bool (R,), whether the search belongs to the first visit.
        clicked: int64 (C, 2), row of the search and code of the product of each click in a first visit.
        ends: datetime64 (S,), the last search or click of the visit.
        counted: bool (S,), whether the session is over and plausible.
        counts: What was left out → number.
    """

    sessions: np.ndarray
    searched: np.ndarray
    clicked: np.ndarray
    ends: np.ndarray
    counted: np.ndarray
    counts: dict[str, int]


@dataclass(frozen=True, eq=False)
class Shown:
    """The N results of all searches, in the order of searches and ranks.

    Attributes:
        searches: int64 (N,), row of the search.
        teams: int64 (N,), 0 if the challenger placed it, 1 if the champion did.
        clicked: bool (N,), whether it was clicked in the first visit of its session.
    """

    searches: np.ndarray
    teams: np.ndarray
    clicked: np.ndarray


def measure_outcomes(log: ExperimentLog, until: datetime, max_searches: int) -> Outcomes:
    """Measure an interleaving or an A/B test.

    Args:
        log: Of the experiment.
        until: Now, or the end of the log that was read; with a time zone.
        max_searches: Sessions with more searches do not count.

    Raises:
        DataError: the arms of an A/B test are of different sizes.
    """
    products = _flatten(log.searches, "product_id").dictionary_encode()
    now = np.datetime64(until.astimezone(UTC).replace(tzinfo=None), "us")
    visits = find_visits(log, products.dictionary, now, max_searches)
    shown = _mark_clicks(log, visits, products.indices.to_numpy())
    return (_measure_ab if log.kind == AB else _measure_interleaving)(log, visits, shown)


def find_visits(log: ExperimentLog, products: pa.Array, until: np.datetime64, max_searches: int) -> Visits:
    """Find the first visit of each session.

    Args:
        log: Of the experiment.
        products: (P,) str, all products that were shown.
        until: As in `measure_outcomes`, in UTC.
        max_searches: Likewise.
    """
    searches, clicks = log.searches, log.clicks
    sessions = searches["session"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    rows = pc.index_in(clicks["request_id"], searches["request_id"].combine_chunks()).to_numpy()
    items = pc.fill_null(pc.index_in(clicks["product_id"], products), -1).to_numpy()
    owners = np.concatenate([sessions, sessions[rows]])
    times = np.concatenate([_times(searches), _times(clicks)])
    is_first = _mark_first_visits(owners, times)
    searched, clicked = is_first[: len(sessions)], is_first[len(sessions) :]
    ends = np.full(sessions.max() + 1, np.datetime64(0, "us"))
    np.maximum.at(ends, owners[is_first], times[is_first])
    is_over = ends + PAUSE <= until
    is_plausible = np.bincount(sessions[searched], minlength=len(ends)) <= max_searches
    counts = {
        "sessions": len(ends),
        "sessions that are not over": int((~is_over).sum()),
        f"sessions with more than {max_searches:,} searches": int((is_over & ~is_plausible).sum()),
        "searches of later visits": int((~searched).sum()),
    }
    places = np.stack([rows, items], axis=1)[clicked]
    return Visits(sessions, searched, places, ends, is_over & is_plausible, counts)


def _mark_first_visits(owners: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether each search or click is before the first pause of its session: bool (N,)."""
    order = np.lexsort((times, owners))
    is_new = np.diff(owners[order], prepend=-1) != 0
    pauses = np.diff(times[order], prepend=times[order[0]]) >= PAUSE
    pauses[is_new] = False
    total = np.cumsum(pauses)
    before = np.maximum.accumulate(np.where(is_new, total, 0))  # pauses of earlier sessions
    is_first = np.empty(len(order), bool)
    is_first[order] = total == before
    return is_first


def _mark_clicks(log: ExperimentLog, visits: Visits, products: np.ndarray) -> Shown:
    lengths = pc.list_value_length(log.searches["results"]).to_numpy()
    searches = np.repeat(np.arange(len(lengths)), lengths)
    teams = pc.equal(_flatten(log.searches, "version"), log.pair.champion).to_numpy(zero_copy_only=False)
    is_clicked = np.isin(_join(searches, products), _join(*visits.clicked.T))
    return Shown(searches, teams.astype(np.int64), is_clicked)


def _measure_interleaving(log: ExperimentLog, visits: Visits, shown: Shown) -> Outcomes:
    """The team with more clicked results wins a session; sessions that saw only equal rankings do not count."""
    arms = log.searches["arm"].to_numpy(zero_copy_only=False)
    is_mixed = (arms == INTERLEAVED_ARM) & visits.searched & visits.counted[visits.sessions]
    counted = is_mixed[shown.searches]
    labels = visits.sessions[shown.searches[counted]]
    outcomes = credit(shown.teams[counted], shown.clicked[counted], labels)
    sessions = np.unique(labels)
    counts = visits.counts | {
        "searches with equal rankings": int(((arms == CHAMPION_ARM) & visits.searched).sum()),
        "sessions without a different ranking": int(visits.counted.sum()) - len(sessions),
    }
    return Outcomes(_count_days("interleaving", outcomes, visits.ends[sessions]), counts, {})


def _measure_ab(log: ExperimentLog, visits: Visits, shown: Shown) -> Outcomes:
    """Each session of the challenger meets one of the champion; the one with a click wins, if the other has none.

    The n-th sessions to end meet. So a pair never changes, and its expected outcome is the difference in the share of
    sessions with a click.
    """
    arms, size = log.searches["arm"].to_numpy(zero_copy_only=False), len(visits.ends)
    is_in = {
        arm: np.bincount(visits.sessions[(arms == arm) & visits.searched], minlength=size) > 0
        for arm in (CHALLENGER_ARM, CHAMPION_ARM)
    }
    is_mixed = is_in[CHALLENGER_ARM] & is_in[CHAMPION_ARM]
    has_click = np.zeros(size, bool)
    has_click[visits.sessions[shown.searches[shown.clicked]]] = True
    challenger, champion = (
        group[np.argsort(visits.ends[group], kind="stable")]
        for group in (np.flatnonzero(members & ~is_mixed & visits.counted) for members in is_in.values())
    )
    check_shares(len(champion), len(challenger))
    pairs = min(len(champion), len(challenger))
    outcomes = has_click[challenger[:pairs]].astype(np.int64) - has_click[champion[:pairs]]
    ends = np.maximum(visits.ends[challenger[:pairs]], visits.ends[champion[:pairs]])
    counts = visits.counts | {
        "sessions in both arms": int(is_mixed.sum()),
        "sessions without a partner": abs(len(champion) - len(challenger)),
    }
    click_through = {
        arm: (len(group), float(has_click[group].mean()) if len(group) else math.nan)
        for arm, group in (("challenger", challenger), ("champion", champion))
    }
    return Outcomes(_count_days("ab", outcomes, ends), counts, click_through)


def check_shares(champion: int, challenger: int) -> None:
    """Refuse an A/B test whose arms have significantly different numbers of sessions.

    Sessions choose the arms with equal chances. If the numbers differ, sessions of an arm are lost, and those that
    remain are not comparable. The test is chi-square with one degree of freedom.

    Args:
        champion, challenger: Sessions of each arm.

    Raises:
        DataError: p below `MISMATCH_LEVEL`.
    """
    if not (sessions := champion + challenger):
        return
    p_value = math.erfc(math.sqrt((champion - challenger) ** 2 / sessions / 2))
    if p_value < MISMATCH_LEVEL:
        raise DataError(
            f"sample-ratio mismatch: {champion:,} sessions saw the champion and {challenger:,} the challenger; equal "
            f"chances give such a difference with p = {p_value:.1g}, so the result is refused; look for lost searches "
            "of one arm (failures or slow answers of the challenger), and for changed settings"
        )


def _count_days(kind: str, outcomes: np.ndarray, ends: np.ndarray) -> OnlineResult | None:
    """The outcomes by the day on which sessions ended."""
    days: dict[str, Counter[int]] = {}
    for date, outcome in zip(
        ends.astype("datetime64[D]").astype(str).tolist(), outcomes.tolist(), strict=True
    ):
        days.setdefault(date, Counter())[outcome] += 1
    if not days:
        return None
    rows = tuple(Day(date, counts[-1], counts[0], counts[1]) for date, counts in sorted(days.items()))
    return OnlineResult(cast(Kind, kind), rows)


def _flatten(searches: pa.Table, field: str) -> pa.Array:
    """A field of all results, in the order of searches and ranks."""
    return pc.struct_field(pc.list_flatten(searches["results"].combine_chunks()), field)


def _times(table: pa.Table) -> np.ndarray:
    return table["time"].to_numpy().astype("datetime64[us]")


def _join(searches: np.ndarray, products: np.ndarray) -> np.ndarray:
    """One number for each pair of search and product; a product that was not shown has none of a shown one."""
    return (searches.astype(np.int64) << 32) | (products.astype(np.int64) & 0xFFFFFFFF)
