"""Two rankers on live traffic: interleaved lists, credit for clicks, and a preference that people may watch every day.

A list of results mixes the rankings of both, and each result belongs to the team of a ranker. The team with more
clicked results wins the session. The preference Δ is the mean outcome of a session: the share that the first ranker
wins minus the share that the second one wins.

The interval of Δ is a confidence sequence: with probability ≥ confidence it holds Δ after every session at once. So
people may look whenever they like, and stop at the first verdict. It is the hedged capital of Waudby-Smith & Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86(1), 2024, with a mixture of constant bets in place
of one bet that adapts. Whoever bets a share b of the capital on "Δ is above m", at fair prices, has after
outcomes x₁, …, xₙ in [−1, 1]

    K(m) = mean over b in BETS of Π (1 + b·((xᵢ + 1) / (m + 1) − 1)).

If no session has an expected outcome above m, K(m) is expected not to grow, so it ever reaches 2/α with probability
≤ α/2 (Ville). K falls as m rises. The lower end is where K(m) = 2/α; the upper end is that of the negated outcomes. The
bets are powers of 2, so that some bet is near the best one for large and for small preferences. K does not depend on
the order of the sessions.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeVar

import numpy as np

from vitrine_judge.errors import JudgeError

Id = TypeVar("Id", bound=Hashable)
Winner = Literal["first", "second", "undecided"]

# The smallest suits a preference that is 0.1 % of the share of decisive sessions.
BETS = 0.5 ** np.arange(1, 11)
OUTCOMES = np.array([-1.0, 0.0, 1.0])
BISECTIONS = 60
MOST_SESSIONS = 1 << 50


@dataclass(frozen=True)
class Preference:
    """The preference of users for the first of two rankers.

    Attributes:
        mean: The mean outcome of the sessions, in [−1, 1]; above 0 if the first ranker wins more.
        low, high: The ends of the confidence sequence now.
        confidence: That the sequence holds the true preference at all times.
        sessions: Their number.
        decisive: The share of sessions with a winner.
    """

    mean: float
    low: float
    high: float
    confidence: float
    sessions: int
    decisive: float

    @property
    def winner(self) -> Winner:
        """The ranker that is better by the interval."""
        return "first" if self.low > 0 else "second" if self.high < 0 else "undecided"


def team_draft(
    first: Sequence[Id], second: Sequence[Id], k: int, rng: np.random.Generator
) -> tuple[list[Id], list[int]]:
    """Interleave two rankings: the teams pick in turns, each its best result that is not in the list yet.

    A coin decides who picks first in each round. Radlinski, Kurup & Joachims, "How does clickthrough data reflect
    retrieval quality?", CIKM 2008, algorithm 2; but a team goes on alone when the other one has no more results. A
    result that both would pick belongs to the team that picks it; over many lists both have it equally often. A
    duplicate in a ranking is ignored.

    Args:
        first, second: Ids, the best first.
        k: The length of the list, at least 1.
        rng: Of the coins. Give one that is seeded by session and query, so that a list stays the same when it is shown
            again.

    Returns:
        At most k ids; and the team of each, 0 for first and 1 for second.

    Raises:
        JudgeError: k below 1.
    """
    if k < 1:
        raise JudgeError(f"k is {k}; an interleaved list needs one result or more")
    rankings = (first, second)
    pointers, picks = [0, 0], [0, 0]
    teams: dict[Id, int] = {}
    while len(teams) < k:
        for team, ranking in enumerate(rankings):
            while pointers[team] < len(ranking) and ranking[pointers[team]] in teams:
                pointers[team] += 1
        has_results = [pointers[team] < len(ranking) for team, ranking in enumerate(rankings)]
        if not any(has_results):
            break
        team = int(rng.integers(2)) if picks[0] == picks[1] else int(picks[0] > picks[1])
        team = team if has_results[team] else 1 - team
        teams[rankings[team][pointers[team]]] = team
        picks[team] += 1
    return list(teams), list(teams.values())


def credit(teams: np.ndarray, clicks: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """The outcome of each session: the team with more clicked results wins.

    Args:
        teams: (N,) int, 0 or 1: the team of each result that was shown.
        clicks: (N,) bool, whether it was clicked.
        sessions: (N,) labels of the session of each result. Sessions must be over: later clicks would change outcomes
            that people have seen. Searches of one person hang together; give them one label.

    Returns:
        (S,) int64: 1 if the first ranker wins, −1 if the second one does, 0 for none; by label, ascending.

    Raises:
        JudgeError: different shapes, or a team other than 0 and 1.
    """
    teams, clicks, sessions = np.asarray(teams), np.asarray(clicks), np.asarray(sessions)
    if teams.ndim != 1 or not teams.shape == clicks.shape == sessions.shape:
        shapes = f"{teams.shape}, {clicks.shape} and {sessions.shape}"
        raise JudgeError(f"teams, clicks and sessions of shapes {shapes}; give one of each per result")
    if len(wrong := np.flatnonzero((teams != 0) & (teams != 1))):
        raise JudgeError(f"the team at index {wrong[0]} is {teams[wrong[0]]}; it must be 0 or 1")
    labels, index = np.unique(sessions, return_inverse=True)
    lead = np.bincount(index, np.where(clicks, 1 - 2 * teams, 0), len(labels))
    return np.sign(lead).astype(np.int64)


def preference(outcomes: np.ndarray, confidence: float = 0.95) -> Preference:
    """The preference for the first ranker, with an interval that is valid at any time.

    Args:
        outcomes: (S,) one number in [−1, 1] per session, such as `credit` gives, of all sessions since the start.
        confidence: In (0, 1).

    Raises:
        JudgeError: no sessions, an outcome that is not in [−1, 1], or a confidence out of range.
    """
    values = np.asarray(outcomes, np.float64)
    _check_share("confidence", confidence)
    if values.ndim != 1 or not len(values):
        raise JudgeError(f"outcomes of shape {values.shape}; a preference needs one number per session")
    if not (is_valid := np.abs(values) <= 1).all():
        index = int(np.argmin(is_valid))
        raise JudgeError(f"the outcome at index {index} is {values[index]}; it must lie between -1 and 1")
    return _measure(*np.unique(values, return_counts=True), confidence)


def preference_from_counts(lost: int, tied: int, won: int, confidence: float = 0.95) -> Preference:
    """The same from the numbers of sessions that the first ranker lost, tied and won.

    Raises:
        JudgeError: no sessions, a negative number, or a confidence out of range.
    """
    counts = np.array([lost, tied, won])
    _check_share("confidence", confidence)
    if counts.min() < 0 or not counts.any():
        raise JudgeError(f"{lost}, {tied} and {won} sessions; a preference needs sessions")
    return _measure(OUTCOMES[counts > 0], counts[counts > 0], confidence)


def log_capital(values: np.ndarray, counts: np.ndarray, limit: float) -> np.ndarray:
    """The logarithm of K(limit), the evidence that the preference is above a limit; see the module.

    `preference` has its lower end above the limit if K is 2 / (1 − confidence) or more.

    Args:
        values: (V,) different outcomes in [−1, 1].
        counts: (…, V) the number of sessions of each.
        limit: In (−1, 1].

    Returns:
        (…,) float64.
    """
    growth = np.log1p(((values + 1) / (limit + 1) - 1)[:, None] * BETS)
    log_capitals = np.asarray(counts) @ growth
    largest = log_capitals.max(-1, keepdims=True)
    return np.asarray(largest[..., 0] + np.log(np.exp(log_capitals - largest).mean(-1)))


def required_sessions(mean: float, decisive: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """The number of sessions after which a true preference is shown with probability `power`.

    The normal approximation: of n sessions, the first ranker wins by n·Δ − z_power·√(n·(decisive − Δ²)) or more with
    probability `power`; K(0) at that lead must be 2 / (1 − confidence). It is a little too large: some experiments in
    which K is smaller then had a verdict before. An experiment that stops at its first verdict takes two thirds of it
    on average (`bench/interleaving.py`).

    Args:
        mean: The true preference Δ, not 0; its sign does not matter.
        decisive: The share of sessions with a winner, at least |Δ| and at most 1.
        confidence, power: In (0, 1).

    Raises:
        JudgeError: a preference of 0 or one so small that no traffic would do, or an argument out of range.
    """
    _check_share("confidence", confidence)
    _check_share("power", power)
    if not 0 < abs(mean) <= decisive <= 1:
        raise JudgeError(
            f"the preference is {mean} and the share of decisive sessions is {decisive}; the size of the preference "
            "must be above 0 and at most this share, which is at most 1"
        )
    drift, threshold = abs(mean), _threshold(confidence)
    quantile = NormalDist().inv_cdf(power) * np.sqrt(decisive - drift**2)

    def is_enough(sessions: int) -> bool:
        winners = sessions * decisive
        lead = min(sessions * drift - quantile * np.sqrt(sessions), winners)
        counts = np.array([(winners - lead) / 2, sessions - winners, (winners + lead) / 2])
        return bool(log_capital(OUTCOMES, counts, 0.0) >= threshold)

    return _smallest(is_enough)


def _measure(levels: np.ndarray, counts: np.ndarray, confidence: float) -> Preference:
    """The preference of `counts` sessions with these outcomes."""
    threshold, sessions = _threshold(confidence), int(counts.sum())
    low = _lower_end(levels, counts, threshold)
    high = -_lower_end(-levels, counts, threshold) + 0.0  # no −0.0
    mean, decisive = float(levels @ counts / sessions), float(counts[levels != 0].sum() / sessions)
    return Preference(mean, low, high, confidence, sessions, decisive)


def _threshold(confidence: float) -> float:
    """The logarithm of the capital that decides, in one direction."""
    return float(np.log(2 / (1 - confidence)))


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise JudgeError(f"{name} is {share}; it must lie between 0 and 1")


def _lower_end(values: np.ndarray, counts: np.ndarray, threshold: float) -> float:
    """The largest limit at which the capital reaches the threshold: below the mean, where it is at most 1."""
    low, high = -1.0, float(values @ counts / counts.sum())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle <= -1:  # all outcomes are −1, or nearly
            break
        reaches = log_capital(values, counts, middle) >= threshold
        low, high = (middle, high) if reaches else (low, middle)
    return low


def _smallest(is_enough: Callable[[int], bool]) -> int:
    """The smallest number that is enough, by doubling and bisection."""
    high = 1
    while not is_enough(high):
        high *= 2
        if high > MOST_SESSIONS:
            raise JudgeError("the preference is too small to be shown with any traffic")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
