"""Error rates of the gate in simulated promotions: `python bench/gate.py EVALUATION SYSTEM [--plot FILE] > TABLE.md`.

EVALUATION is an output folder of `evaluate`. The simulated champion has the scores of its candidate on queries drawn
with replacement. The simulated candidate has the same scores plus noise plus a gain. The noise is the difference to
SYSTEM on the same queries, each with a random sign; the gain is in per cent of the champion's mean. The rules are those
of params.yaml without floors and budgets, so only the comparisons count: gain, margins and segments. At a gain of 0,
every promotion is an error. The ranges are 95 % Wilson intervals.
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
from vitrine_judge.gate import Evidence, Rules, decide
from vitrine_judge.metrics import Scores

from catalog.progress import show_progress
from components.params import RegisterParams, load_section
from registry.comparison import make_rules
from scoring.systems import CANDIDATE

GAINS = (0, 2, 5)  # per cent
QUERIES = (250, 500, 1000, 2000, 4000, 8000)
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Simulation:
    """The data to draw from: scores of two systems on the same queries, and the queries' segments."""

    scores: Scores
    noise: Scores
    segments: np.ndarray
    rules: Rules

    def run_gate(self, queries: int, gain: float, seed: int) -> bool:
        """Simulate one gate; returns whether the candidate is promoted."""
        rng = np.random.default_rng([seed, queries, int(100 * gain)])
        drawn = rng.integers(len(self.segments), size=queries)
        signs = rng.choice([-1.0, 1.0], queries)
        old, new = {}, {}
        for metric, values in self.scores.values.items():
            old[metric] = values[drawn]
            noise = (self.noise.values[metric] - values)[drawn] * signs
            new[metric] = old[metric] + noise + gain / 100 * values.mean()
        ids, answered = np.arange(queries).astype(str), np.ones(queries, bool)
        champion, candidate = (
            Evidence(Scores(ids, answered, values), self.segments[drawn], {}) for values in (old, new)
        )
        return decide(candidate, champion, replace(self.rules, seed=seed)).passed

    def count_promoted(self, queries: int, gain: float, gates: int) -> int:
        """Number of promoted candidates in a number of simulated gates."""
        return sum(self.run_gate(queries, gain, seed) for seed in range(gates))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("noise", metavar="SYSTEM")
    parser.add_argument(
        "--gates", type=int, default=1000, help="simulated gates for each gain and number of queries"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    scores = [
        Scores.from_parquet(arguments.evaluation / "scores" / f"{name}.parquet")
        for name in (CANDIDATE, arguments.noise)
    ]
    segments = pq.read_table(arguments.evaluation / "queries.parquet")["segment"].to_numpy()
    params = load_section(Path("params.yaml"), "register")
    rules = replace(make_rules(cast(RegisterParams, params)), floors={}, budgets={}, resamples=RESAMPLES)
    simulation = Simulation(*scores, segments, rules)
    cells = list(product(GAINS, QUERIES))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        counts = pool.map(
            simulation.count_promoted,
            *zip(*((q, g) for g, q in cells), strict=True),
            [arguments.gates] * len(cells),
        )
        promoted = dict(zip(cells, show_progress(counts, "gates", len(cells)), strict=True))
    print(format_counts(promoted, arguments.gates))
    if arguments.plot:
        plot_counts(promoted, arguments.gates, arguments.plot)


def wilson_interval(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share. Wilson, "Probable inference", JASA 22, 1927."""
    share = count / total
    middle, reach = (
        share + z**2 / (2 * total),
        z * np.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2),
    )
    return (middle - reach) / (1 + z**2 / total), (middle + reach) / (1 + z**2 / total)


def format_counts(promoted: dict[tuple[int, int], int], gates: int) -> str:
    """Markdown: share of promotions by gain and number of queries."""

    def rows() -> Iterator[list[str]]:
        yield ["true gain", *(f"{queries:,} queries" for queries in QUERIES)]
        yield ["---"] * (1 + len(QUERIES))
        for gain in GAINS:
            cells = []
            for queries in QUERIES:
                count = promoted[gain, queries]
                low, high = wilson_interval(count, gates)
                cells.append(f"{100 * count / gates:.1f} % ({100 * low:.1f}–{100 * high:.1f})")
            yield [f"{gain:+d} %" if gain else "none", *cells]

    return "\n".join(f"| {' | '.join(row)} |" for row in rows())


def plot_counts(promoted: dict[tuple[int, int], int], gates: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")  # no display is needed
    mpl.rcParams.update({"svg.hashsalt": "vitrine", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for gain in GAINS:
        shares = [100 * promoted[gain, queries] / gates for queries in QUERIES]
        axes.plot(QUERIES, shares, marker="o", label=f"{gain:+d} %" if gain else "none")
    axes.axhline(5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="judged queries", ylabel="promoted, % of gates", ylim=(-2, 102))
    axes.set_xticks(QUERIES, [f"{queries:,}" for queries in QUERIES])
    axes.minorticks_off()
    axes.legend(title="true gain", frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
