"""Error rates and power of the gate, simulated: `python bench/gate.py EVALUATION [PART…] [--runs N]`.

EVALUATION is an output folder of `evaluate`. Differences between queries are drawn from differences between real
systems, as they are: moved so that their mean is the true gain, not made symmetric; and from shapes that break usual
tests. At a true gain of 0 or below, every promotion is an error. Each part prints a Markdown table; a cell is a share
of N simulated cases, whose standard error is at most √(.25 / N). Seeds are fixed.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from mean_tests import INTERVALS, TESTS
from vitrine_judge.gate import Evidence, Rules, decide
from vitrine_judge.looks import look_level
from vitrine_judge.metrics import Scores
from vitrine_judge.significance import lower_bound, p_above

from catalog.progress import show_progress
from scoring.systems import CANDIDATE

LEVEL = 0.025  # one-sided
PRIMARY = "ndcg@10"
GAINS = (0.01, 0.02, 0.05)  # of the champion's mean
POWER_QUERIES = (250, 500, 1000, 2000, 4000, 8000)
ERROR_QUERIES = (50, 100, 200, 500, 1000)
COVERAGE_QUERIES = (20, 30, 50, 100, 200)
NIGHTS, YEAR = 30, 365
SLOW_TESTS = {"version 0.2", "bootstrap-t"}  # a tenth of the runs


@dataclass(frozen=True, eq=False)
class Shape:
    """A distribution of differences with mean 0.

    Attributes:
        values, weights: Of a finite population; the weights add up to 1.
    """

    values: np.ndarray
    weights: np.ndarray

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        """Draw differences; float64 of that shape."""
        return rng.choice(self.values, size, p=self.weights)


def list_shapes(evaluation: Path) -> dict[str, Shape]:
    """Differences of real pairs of systems, and shapes that break usual tests."""
    scores = {
        file.stem: Scores.from_parquet(file) for file in sorted((evaluation / "scores").glob("*.parquet"))
    }
    model = scores[CANDIDATE].values[PRIMARY]
    shapes = {}
    for system in ("no video", "no text", "image-only", "bm25"):
        if system in scores:
            difference = model - scores[system].values[PRIMARY]
            shapes[f"model – {system}"] = _centred(difference)
            shapes[f"{system} – model"] = _centred(-difference)
    grid = (np.arange(2000) + 0.5) / 2000
    exponential = -np.log(grid) / 10
    return shapes | {
        "1 % lose .45, 9 % gain .05": Shape(np.array([-0.45, 0.05, 0.0]), np.array([0.01, 0.09, 0.9])),
        "1 % gain .45, 9 % lose .05": Shape(np.array([0.45, -0.05, 0.0]), np.array([0.01, 0.09, 0.9])),
        "5 % lose .38, 95 % gain .02": Shape(np.array([-0.38, 0.02]), np.array([0.05, 0.95])),
        "long tail of losses": _centred(-exponential.clip(max=1)),
        "uniform": _centred(grid - 0.5),
        "2 % change by .5": Shape(np.array([-0.5, 0.5, 0.0]), np.array([0.01, 0.01, 0.98])),
    }


def simulate_errors(shapes: dict[str, Shape], runs: int) -> Iterator[list[str]]:
    """Samples with a true mean of 0 that a test calls positive: the largest share for 50 to 1,000 queries."""
    yield ["differences", *TESTS]
    for name, shape in shapes.items():
        largest = []
        for test, function in TESTS.items():
            count = runs // 10 if test in SLOW_TESTS else runs
            shares = []
            for queries in ERROR_QUERIES:
                rng = np.random.default_rng([queries, 1])
                shares.append(function(shape.draw(rng, (count, queries)), LEVEL, rng).mean())
            largest.append(max(shares))
        yield [name, *map(percent, largest)]


def simulate_coverage(shapes: dict[str, Shape], runs: int) -> Iterator[list[str]]:
    """95 % intervals that hold the true mean of 0: the smallest share of all differences, by number of queries."""
    yield ["interval", *(f"{queries} queries" for queries in COVERAGE_QUERIES)]
    for interval, function in INTERVALS.items():
        smallest = []
        for queries in COVERAGE_QUERIES:
            shares = []
            for shape in shapes.values():
                rng = np.random.default_rng([queries, 2])
                samples = shape.draw(rng, (runs // 10 if "BCa" in interval else runs, queries))
                ends = np.array([function(sample, 1 - 2 * LEVEL, rng) for sample in samples])
                shares.append(np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)))
            smallest.append(min(shares))
        yield [interval, *map(percent, smallest)]


def simulate_nights(shapes: dict[str, Shape], runs: int) -> Iterator[list[str]]:
    """Promotions of candidates that are no better, night after night, on the same queries."""
    yield [
        "queries",
        f"promoted at least once in {NIGHTS} nights, same level each night",
        "with spending",
        f"champion's measured NDCG after {YEAR} nights – true, same level each night",
        "with spending",
    ]
    shape = next(iter(shapes.values()))
    for queries in (209, 1000):
        cells = []
        for spend in (False, True):
            streams = [promote_nightly(shape, queries, NIGHTS, spend, seed) for seed in range(runs)]
            cells.append(percent(np.mean([promotions > 0 for promotions, _ in streams])))
        for spend in (False, True):
            drifts = [promote_nightly(shape, queries, YEAR, spend, seed)[1] for seed in range(runs)]
            cells.append(f"{np.mean(drifts):+.4f}")
        yield [f"{queries:,}", cells[0], cells[1], cells[2], cells[3]]


def promote_nightly(shape: Shape, queries: int, nights: int, spend: bool, seed: int) -> tuple[int, float]:
    """Judge an equal candidate each night against the champion on the same queries, and promote those that pass.

    The score of each model on a query is the query's plus noise of its own, so that the champion's luck stays.

    Returns:
        The number of promotions, and the champion's mean on these queries minus its true mean.
    """
    rng = np.random.default_rng([seed, queries, nights, 3])
    champion = shape.draw(rng, (queries,)) / np.sqrt(2)
    promotions = look = 0
    for _ in range(nights):
        candidate = shape.draw(rng, (queries,)) / np.sqrt(2)
        look += 1
        gain = candidate - champion
        level = look_level(LEVEL, look) if spend else LEVEL
        # the test without spending is Student's, which is nearly that of version 0.2 at so many queries
        passed = p_above(gain, 0.0, -1.0) <= level if spend else _t_passes(gain, level)
        if passed:
            champion, promotions, look = candidate, promotions + 1, 0
    return promotions, float(champion.mean())


def simulate_clusters(shapes: dict[str, Shape], runs: int) -> Iterator[list[str]]:
    """Promotions where 1,000 queries with a true gain of 0 form 50 clusters."""
    yield ["differences", "intraclass correlation", "clusters ignored", "by cluster"]
    labels = np.repeat(np.arange(50), 20)
    names = (next(iter(shapes)), "uniform", "5 % lose .38, 95 % gain .02")
    for name, correlation in product(names, (0.1, 0.3)):
        rng = np.random.default_rng([4, int(10 * correlation)])
        promoted = np.zeros((runs, 2), bool)
        for run in range(runs):
            common, single = shapes[name].draw(rng, (50,))[labels], shapes[name].draw(rng, (1000,))
            gain = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * single
            promoted[run] = [p_above(gain, 0.0, -1.0, clusters) <= LEVEL for clusters in (None, labels)]
        yield [name, f"{correlation:g}", *map(percent, promoted.mean(0))]


def simulate_segments(shapes: dict[str, Shape], runs: int) -> Iterator[list[str]]:
    """Verdicts on segments: some fall from .8 to 0, or none does; all others gain .02 on average."""
    yield ["segments", "queries each", "fall from .8 to 0", "refused", "all named"]
    shape = next(iter(shapes.values()))
    for segments, size, falling in (
        (520, 20, 8),
        (520, 20, 0),
        (60, 19, 2),
        (60, 19, 0),
        (10, 100, 1),
        (10, 100, 0),
    ):
        verdicts = [judge_segments(shape, segments, size, falling, seed) for seed in range(runs)]
        refused, named = np.mean([(bool(names), len(names) >= falling) for names in verdicts], axis=0)
        cells = [percent(refused), percent(named) if falling else "–"]
        yield [f"{segments}", f"{size}", f"{falling}", *cells]


def judge_segments(shape: Shape, segments: int, size: int, falling: int, seed: int) -> list[str]:
    """The names of the segments that a gate refuses."""
    rng = np.random.default_rng([seed, segments, 5])
    labels = np.repeat([f"s{number:03d}" for number in range(segments)], size)
    base = np.full(len(labels), 0.8)
    values = base + shape.draw(rng, (len(labels),)) + 0.02
    values[: falling * size] = 0.0
    ids, answered = np.arange(len(labels)).astype(str), np.ones(len(labels), bool)
    candidate, champion = (Evidence(Scores(ids, answered, {PRIMARY: v}), labels, {}) for v in (values, base))
    findings = decide(candidate, champion, Rules(PRIMARY)).findings
    return [item.rule for item in findings if item.rule.startswith("segment") and item.verdict != "passed"]


def simulate_power(shapes: dict[str, Shape], runs: int) -> Iterator[list[str]]:
    """Share of better candidates whose gain is significant, by true gain and number of queries."""
    yield ["true gain", "rule", *(f"{queries:,} queries" for queries in POWER_QUERIES)]
    shape = next(iter(shapes.values()))
    rules = {
        "version 0.2": None,
        "full level": LEVEL,
        "1st look": look_level(LEVEL, 1),
        "5th look": look_level(LEVEL, 5),
        "14th look": look_level(LEVEL, 14),
    }
    for gain, (name, level) in product(GAINS, rules.items()):
        cells = []
        for queries in POWER_QUERIES:
            rng = np.random.default_rng([queries, int(1000 * gain), 6])
            count = max(1, runs // 10)
            samples = shape.draw(rng, (count, queries)) + gain * 0.7
            if level is None:
                cells.append(TESTS["version 0.2"](samples, LEVEL, rng).mean())
            else:
                cells.append(np.mean([lower_bound(sample, level, -1.0) > 0 for sample in samples]))
        yield [f"{100 * gain:+.0f} %", name, *map(percent, cells)]


PARTS: dict[str, Callable[[dict[str, Shape], int], Iterator[list[str]]]] = {
    "errors": simulate_errors,
    "coverage": simulate_coverage,
    "nights": simulate_nights,
    "clusters": simulate_clusters,
    "segments": simulate_segments,
    "power": simulate_power,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="simulated cases of each cell")
    arguments = parser.parse_args()
    shapes = list_shapes(arguments.evaluation)
    parts = arguments.parts or list(PARTS)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tables = pool.map(_run_part, parts, [shapes] * len(parts), [arguments.runs] * len(parts))
        for part, rows in zip(parts, show_progress(tables, "parts", len(parts)), strict=True):
            print(f"**{PARTS[part].__doc__}**\n\n{format_rows(rows)}\n", flush=True)


def _run_part(part: str, shapes: dict[str, Shape], runs: int) -> list[list[str]]:
    return list(PARTS[part](shapes, runs))


def format_rows(rows: Sequence[Iterable[str]]) -> str:
    """A Markdown table; the first row is the head."""
    head, *body = (list(row) for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _centred(values: np.ndarray) -> Shape:
    return Shape(values - values.mean(), np.full(len(values), 1 / len(values)))


def _t_passes(gain: np.ndarray, level: float) -> bool:
    return bool(TESTS["Student's t"](gain[None], level, np.random.default_rng(0))[0])


if __name__ == "__main__":
    main()
