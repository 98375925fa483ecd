"""How often the gate errs, in simulated promotions: `python bench/gate.py EVALUATION SYSTEM [--plot FILE] > TABLE.md`.

EVALUATION is a folder of the evaluate stage. A simulated champion has the scores of its candidate on queries drawn with
replacement; a simulated candidate has the same plus noise, namely the differences to another system of it on
those queries, each with a random sign, and plus a gain, in per cent of the champion's mean. The rules are those of
params.yaml without floors and budgets, so that what is counted are the comparisons: gain, margins and segments. At a
gain of 0, every promotion is false. The stated ranges are 95 % Wilson intervals.
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
from tqdm import tqdm

from components.evaluate import CANDIDATE
from components.params import RegisterParams, load
from components.register import rules_of
from eval.gate import Evidence, Rules, decide
from eval.metrics import Scores

GAINS = (0, 2, 5)  # per cent
QUERIES = (250, 500, 1000, 2000, 4000, 8000)
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class World:
    """What is drawn from: scores of two systems on the same queries, and the queries' segments."""

    ours: Scores
    noise: Scores
    segments: np.ndarray
    rules: Rules

    def gate(self, queries: int, gain: float, seed: int) -> bool:
        """Whether a candidate is promoted."""
        rng = np.random.default_rng([seed, queries, int(100 * gain)])
        drawn = rng.integers(len(self.segments), size=queries)
        signs = rng.choice([-1.0, 1.0], queries)
        old, new = {}, {}
        for metric, values in self.ours.values.items():
            old[metric] = values[drawn]
            noise = (self.noise.values[metric] - values)[drawn] * signs
            new[metric] = old[metric] + noise + gain / 100 * values.mean()
        ids, answered = np.arange(queries).astype(str), np.ones(queries, bool)
        champion, candidate = (
            Evidence(Scores(ids, answered, values), self.segments[drawn], {}) for values in (old, new)
        )
        return decide(candidate, champion, replace(self.rules, seed=seed)).passed

    def promoted(self, queries: int, gain: float, gates: int) -> int:
        """Of so many simulated candidates."""
        return sum(self.gate(queries, gain, seed) for seed in range(gates))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("noise", metavar="SYSTEM")
    parser.add_argument("--gates", type=int, default=1000, help="at each gain and number of queries")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    asked = parser.parse_args()
    scores = [
        Scores.from_parquet(asked.evaluation / "scores" / f"{name}.parquet")
        for name in (CANDIDATE, asked.noise)
    ]
    segments = pq.read_table(asked.evaluation / "queries.parquet")["segment"].to_numpy()
    params = load(Path("params.yaml"), "register")
    rules = replace(rules_of(cast(RegisterParams, params)), floors={}, budgets={}, resamples=RESAMPLES)
    world = World(*scores, segments, rules)
    cells = list(product(GAINS, QUERIES))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        running = pool.map(
            world.promoted, *zip(*((q, g) for g, q in cells), strict=True), [asked.gates] * len(cells)
        )
        found = dict(zip(cells, tqdm(running, "gates", len(cells)), strict=True))
    print(table(found, asked.gates))
    if asked.plot:
        plot(found, asked.gates, asked.plot)


def wilson(count: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share. Wilson, "Probable inference", JASA 22, 1927."""
    share = count / of
    middle, reach = share + z**2 / (2 * of), z * np.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2)
    return (middle - reach) / (1 + z**2 / of), (middle + reach) / (1 + z**2 / of)


def table(found: dict[tuple[int, int], int], gates: int) -> str:
    """Markdown: promoted, of so many gates, by gain and number of queries."""

    def rows() -> Iterator[list[str]]:
        yield ["true gain", *(f"{queries:,} queries" for queries in QUERIES)]
        yield ["---"] * (1 + len(QUERIES))
        for gain in GAINS:
            cells = []
            for queries in QUERIES:
                count = found[gain, queries]
                low, high = wilson(count, gates)
                cells.append(f"{100 * count / gates:.1f} % ({100 * low:.1f}–{100 * high:.1f})")
            yield [f"{gain:+d} %" if gain else "none", *cells]

    return "\n".join(f"| {' | '.join(row)} |" for row in rows())


def plot(found: dict[tuple[int, int], int], gates: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")  # no display is needed
    mpl.rcParams.update({"svg.hashsalt": "vitrine", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for gain in GAINS:
        shares = [100 * found[gain, queries] / gates for queries in QUERIES]
        axes.plot(QUERIES, shares, marker="o", label=f"{gain:+d} %" if gain else "none")
    axes.axhline(5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="judged queries", ylabel="promoted, % of gates", ylim=(-2, 102))
    axes.set_xticks(QUERIES, [f"{queries:,}" for queries in QUERIES])
    axes.minorticks_off()
    axes.legend(title="true gain", frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
