"""Interleaving beside A/B tests, simulated: `nice python bench/interleaving.py [PART…]`.

Users click as in the position-based model of `catalog.clicks`: P(click) = attractiveness of the product × examination
of the position. Each session is one search of a new query, whose products two rankers order by attractiveness plus
noise. The rankers share most of the noise, as a model and its successor share most of their mistakes; a better one has
less noise. Each part prints a Markdown table. Seeds are fixed.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from vitrine_judge.interleaving import OUTCOMES, credit, log_capital, required_sessions

SEED = 36
PRODUCTS, K = 30, 10
ATTRACTIVENESS = np.repeat(
    [0.6, 0.25, 0.03], [2, 6, 22]
)  # exact, substitute and irrelevant products of a query
EXAMINATION = 1.0 / np.arange(1, K + 1)  # from which `fit_position_model` starts
CHAMPION_NOISE, SHARED = 0.3, 0.8  # standard deviation; the share of its variance that both rankers have
CHALLENGER_NOISES = (0.22, 0.26, 0.28, 0.29)
ATTENTIVE = (1.0, 0.3, 0.1)  # shares of searches whose users click at all, whatever they see
LEVEL, POWER = 0.05, 0.8  # two-sided
THRESHOLD = np.log(2 / LEVEL)
SIMULATIONS, DAYS, DAILY = 1000, 28, 200
BLOCK = 20_000  # sessions at once, so that arrays fit into the cache
MEASURED = 3_000_000  # sessions behind each row of the table of traffic
LOOK = 50  # sessions between looks, where sequences are compared

Test = Callable[[np.ndarray], np.ndarray]


class Sessions(NamedTuple):
    """n searches and their interleaved lists.

    Attributes:
        attractiveness: float64 (n, PRODUCTS).
        rankings: int64 (2, n, K): the best products of both rankers.
        products, teams: int64 (n, K): the interleaved list.
    """

    attractiveness: np.ndarray
    rankings: np.ndarray
    products: np.ndarray
    teams: np.ndarray


def draw_sessions(noises: Sequence[float], n: int, rng: np.random.Generator) -> Sessions:
    """Draw searches of new queries for two rankers with noise of these standard deviations."""
    attractiveness = rng.permuted(np.tile(ATTRACTIVENESS, (n, 1)), axis=1)
    shared = np.sqrt(SHARED) * rng.standard_normal((n, PRODUCTS))
    rankings = []
    for noise in noises:
        independent = np.sqrt(1 - SHARED) * rng.standard_normal((n, PRODUCTS))
        rankings.append(np.argsort(-attractiveness - noise * (shared + independent), axis=1)[:, :K])
    both = np.stack(rankings)
    return Sessions(attractiveness, both, *draft(both, rng.integers(2, size=(n, K // 2))))


def draft(rankings: np.ndarray, coins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`vitrine_judge.interleaving.team_draft` of n pairs of rankings at once.

    Args:
        rankings: int64 (2, n, L) with L ≥ K: products 0 … PRODUCTS - 1.
        coins: int64 (n, K / 2): the team that picks first in each round.

    Returns:
        Products and teams, int64 (n, K) each.
    """
    rows = np.arange(rankings.shape[1])
    products, teams = (np.empty((len(rows), K), np.int64) for _ in range(2))
    is_taken = np.zeros((len(rows), PRODUCTS), bool)
    for position in range(K):
        coin = coins[:, position // 2]
        team = coin if position % 2 == 0 else 1 - coin
        ranking = rankings[team, rows]
        pick = ranking[rows, np.argmin(is_taken[rows[:, None], ranking], axis=1)]
        is_taken[rows, pick] = True
        products[:, position], teams[:, position] = pick, team
    return products, teams


def click_chances(attractiveness: np.ndarray, products: np.ndarray) -> np.ndarray:
    """P(click) of each position, float64 (n, K)."""
    return np.take_along_axis(attractiveness, products, axis=1) * EXAMINATION


def draw_outcomes(noises: Sequence[float], n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) int64: the outcomes of n interleaved searches with clicks."""
    outcomes = []
    for start in range(0, n, BLOCK):
        sessions = draw_sessions(noises, min(BLOCK, n - start), rng)
        clicks = rng.random(sessions.products.shape) < click_chances(
            sessions.attractiveness, sessions.products
        )
        labels = np.repeat(np.arange(len(clicks)), K)
        outcomes.append(credit(sessions.teams.ravel(), clicks.ravel(), labels))
    return np.concatenate(outcomes)


def count_outcomes(outcomes: np.ndarray) -> np.ndarray:
    """(S, D, n) outcomes of each day → (S, D, 3): how many were −1, 0 and 1 up to the end of each day."""
    return np.stack([(outcomes == value).sum(2) for value in OUTCOMES], axis=2).cumsum(1)


def sequence_test(counts: np.ndarray) -> np.ndarray:
    """(…, 3) counts → (…,) bool: whether `vitrine_judge.interleaving.preference` has a verdict."""
    first, second = (log_capital(sign * OUTCOMES, counts, 0.0) for sign in (1, -1))
    return np.maximum(first, second) >= THRESHOLD


def z_test(counts: np.ndarray) -> np.ndarray:
    """(…, 3) counts → (…,) bool: whether wins and losses differ by the z test of one look."""
    lead, decisive = counts[..., 2] - counts[..., 0], counts[..., 2] + counts[..., 0]
    return np.abs(lead) >= NormalDist().inv_cdf(1 - LEVEL / 2) * np.sqrt(np.maximum(decisive, 1))


def error_rows() -> Iterator[list[str]]:
    """Verdicts about two equal rankers: each is an error."""
    yield ["sessions", "test", "looks", "verdicts"]
    rng = np.random.default_rng(SEED)
    outcomes = draw_outcomes((CHAMPION_NOISE, CHAMPION_NOISE), SIMULATIONS * DAYS * DAILY, rng)
    clicked = count_outcomes(outcomes.reshape(SIMULATIONS, DAYS, DAILY))
    share = np.mean(outcomes != 0) / 2
    # A year of clicks needs too long: its outcomes are drawn with the share of winners of those before.
    year = rng.multinomial(10_000, [share, 1 - 2 * share, share], (SIMULATIONS, 365)).cumsum(1)
    tests: tuple[tuple[str, Test], ...] = (("confidence sequence", sequence_test), ("z test", z_test))
    for name, counts in ((f"{DAYS} days of {DAILY}", clicked), ("365 days of 10,000", year)):
        for test, is_rejected in tests:
            rejected = is_rejected(counts)
            yield [name, test, "every day", format_share(rejected.any(1))]
            yield [name, test, "last day", format_share(rejected[:, -1])]


def format_share(flags: np.ndarray) -> str:
    error = np.sqrt(flags.mean() * (1 - flags.mean()) / len(flags))
    return f"{100 * flags.mean():.1f} % ± {100 * error:.1f}"


class Traffic(NamedTuple):
    """What two rankers do to clicks.

    Attributes:
        first_rate, second_rate: The share of searches with a click, where a ranker is alone.
        lost, tied, won: The shares of interleaved searches with an outcome of −1, 0 and 1.
    """

    first_rate: float
    second_rate: float
    lost: float
    tied: float
    won: float

    def dilute(self, attentive: float) -> "Traffic":
        """The same where only this share of the users clicks at all."""
        first_rate, second_rate, lost, _, won = (attentive * share for share in self)
        return Traffic(first_rate, second_rate, lost, 1 - lost - won, won)


def measure_traffic(noises: Sequence[float], n: int, rng: np.random.Generator) -> Traffic:
    """Probabilities of clicks over n searches; clicks are not drawn, so that little of it is noise."""
    parts = []
    for _ in range(n // BLOCK):
        sessions = draw_sessions(noises, BLOCK, rng)
        rates = [
            np.mean(1 - np.prod(1 - click_chances(sessions.attractiveness, ranking), axis=1))
            for ranking in sessions.rankings
        ]
        lead = lead_distribution(click_chances(sessions.attractiveness, sessions.products), sessions.teams)
        parts.append([*rates, lead[: K // 2].sum(), lead[K // 2], lead[K // 2 + 1 :].sum()])
    return Traffic(*np.mean(parts, axis=0).tolist())


def lead_distribution(chances: np.ndarray, teams: np.ndarray) -> np.ndarray:
    """The mean distribution of clicked results of the first team minus those of the second: float64 (K + 1,)."""
    n = len(chances)
    leads = np.zeros((K + 3, n))  # with an edge that stays 0; each team has K / 2 results
    leads[K // 2 + 1] = 1
    for chance, team in zip(chances.T, teams.T, strict=True):
        moved = np.where(team == 0, leads[:-2], leads[2:])
        leads[1:-1] += chance * (moved - leads[1:-1])
    return np.asarray(leads[1:-1].mean(1))


def z_sessions(variance: float, difference: float) -> float:
    """Observations with which the z test shows a difference at the level and power above."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) ** 2 * variance / difference**2


def traffic_rows() -> Iterator[list[str]]:
    """Sessions until a true difference is shown: interleaving beside an A/B test with half of the traffic each."""
    kinds = [f"{kind}, {time}" for time in ("one look", "any time") for kind in ("interleaving", "A/B")]
    yield ["click-through", "preference", *kinds, "ratios", "shown by then", "mean stop"]
    rng = np.random.default_rng(SEED + 1)
    measured = [measure_traffic((noise, CHAMPION_NOISE), MEASURED, rng) for noise in CHALLENGER_NOISES]
    for attentive in ATTENTIVE:
        for traffic in measured:
            yield traffic_row(traffic.dilute(attentive), rng)


def traffic_row(traffic: Traffic, rng: np.random.Generator) -> list[str]:
    rates = traffic.first_rate, traffic.second_rate
    gain, mean, decisive = rates[0] - rates[1], traffic.won - traffic.lost, traffic.won + traffic.lost
    # An A/B test at any time: the same sequence of pairs of sessions, one of each arm.
    pairs = rates[0] * (1 - rates[1]) + rates[1] * (1 - rates[0])
    sessions = [
        z_sessions(decisive - mean**2, mean),
        2 * z_sessions(sum(rate * (1 - rate) for rate in rates), gain),  # two-proportion z test
        required_sessions(mean, decisive, 1 - LEVEL, POWER),
        2 * required_sessions(gain, pairs, 1 - LEVEL, POWER),
    ]
    shown, stop = simulate_power(np.array([traffic.lost, traffic.tied, traffic.won]), int(sessions[2]), rng)
    return [
        f"{100 * rates[1]:.1f} % → {100 * rates[0]:.1f} %",
        f"{mean:+.4f}",
        *(f"{round(number):,}" for number in sessions),
        f"{sessions[1] / sessions[0]:.1f}, {sessions[3] / sessions[2]:.1f}",
        f"{100 * shown:.0f} %",
        f"{stop / sessions[2]:.2f}",
    ]


def simulate_power(shares: np.ndarray, sessions: int, rng: np.random.Generator) -> tuple[float, float]:
    """The share of experiments that show the first ranker within these sessions, and the mean number of sessions.

    There are `DAYS` looks. The mean is over experiments that run four times as long if they have to.
    """
    daily = -(-sessions // DAYS)
    counts = rng.multinomial(daily, shares, (SIMULATIONS, 4 * DAYS)).cumsum(1)
    is_shown = log_capital(OUTCOMES, counts, 0.0) >= THRESHOLD
    days = np.where(is_shown.any(1), is_shown.argmax(1) + 1, 4 * DAYS)
    return float(np.mean(days <= DAYS)), float(days.mean() * daily)


def mixture_sequence(outcomes: np.ndarray) -> np.ndarray:
    """(S, n) outcomes → (S, n / LOOK) bool: whether `vitrine_judge.interleaving` shows a mean above 0 at each look."""
    counts = count_outcomes(outcomes.reshape(len(outcomes), -1, LOOK))
    return log_capital(OUTCOMES, counts, 0.0) >= THRESHOLD


def plug_in_sequence(outcomes: np.ndarray) -> np.ndarray:
    """The same by one bet that adapts to the variance: the hedged capital of Waudby-Smith & Ramdas, 2024, with c = 1/2.

    The bet on session t is √(2·ln(2/α) / (σ²·t·ln(t + 1))) for outcomes in [0, 1], whose σ² has a prior of 1/4.
    """
    steps = np.arange(1, outcomes.shape[1] + 1)
    scaled = (outcomes + 1) / 2
    means = (0.5 + scaled.cumsum(1)) / (steps + 1)
    variances = (0.25 + ((scaled - means) ** 2).cumsum(1)) / (steps + 1)
    earlier = np.hstack([np.full((len(outcomes), 1), 0.25), variances[:, :-1]])
    bets = np.minimum(np.sqrt(2 * THRESHOLD / (earlier * steps * np.log(steps + 1))), 1)
    return (np.log1p(bets * (scaled - 0.5)).cumsum(1) >= THRESHOLD)[:, LOOK - 1 :: LOOK]


def normal_sequence(outcomes: np.ndarray) -> np.ndarray:
    """The same by the normal mixture of sub-Gaussian sums: Howard et al., Annals of Statistics 49(2), 2021.

    Two-sided at α, with ρ for the tightest limit near 1,000 sessions.
    """
    steps, rho = np.arange(1, outcomes.shape[1] + 1), 1000 / 10
    limits = np.sqrt((steps + rho) * np.log((steps + rho) / (rho * LEVEL**2)))
    return (outcomes.cumsum(1) >= limits)[:, LOOK - 1 :: LOOK]


SEQUENCES: dict[str, Test] = {
    "mixture of bets": mixture_sequence,
    "adaptive bet": plug_in_sequence,
    "normal mixture": normal_sequence,
}


def sequence_rows() -> Iterator[list[str]]:
    """Sessions until 50 % and 80 % of the experiments have a verdict, by confidence sequence."""
    cases = [
        (0.3, 0.15, 1500),
        (0.3, 0.05, 10_000),
        (0.1, 0.02, 40_000),
    ]  # decisive, preference, sessions at most
    yield ["sequence", *(f"{mean} of {decisive}" for decisive, mean, _ in cases)]
    rng = np.random.default_rng(SEED + 2)
    cells: dict[str, list[str]] = {name: [] for name in SEQUENCES}
    for decisive, mean, most in cases:
        shares = [(decisive - mean) / 2, 1 - decisive, (decisive + mean) / 2]
        outcomes = rng.choice(OUTCOMES, (SIMULATIONS // 4, most), p=shares)
        for name, sequence in SEQUENCES.items():
            is_shown = sequence(outcomes)
            stops = np.where(is_shown.any(1), (is_shown.argmax(1) + 1.0) * LOOK, np.inf)
            cells[name].append(
                ", ".join(f"{stop:,.0f}" for stop in np.quantile(stops, (0.5, 0.8), method="higher"))
            )
    yield from ([name, *row] for name, row in cells.items())


PARTS: dict[str, Callable[[], Iterable[list[str]]]] = {
    "errors": error_rows,
    "traffic": traffic_rows,
    "sequences": sequence_rows,
}


def main(*names: str) -> None:
    for name in names or PARTS:
        if name not in PARTS:
            sys.exit(f"no part '{name}'; choose from {', '.join(PARTS)}")
        header, *rows = PARTS[name]()
        print(f"{name}:\n")
        for row in (header, ["---"] * len(header), *rows):
            print(f"| {' | '.join(row)} |")
        print(flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
