"""Results of evaluations as Markdown tables: `python bench/tables.py EVALUATION … [--metrics …] > TABLES.md`.

EVALUATION is an output folder of `evaluate`, such as `artifacts/evaluate`. For several folders (such as several seeds),
each query has its mean. The tables of segments and differences are of the first metric. Differences are between the
candidate and each other system, paired over queries, overall and by segment.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from vitrine_judge.metrics import Scores
from vitrine_judge.significance import paired_test

from scoring.systems import CANDIDATE

METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "hit@10")
EVERY = "all"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluations", type=Path, nargs="+", metavar="EVALUATION")
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    arguments = parser.parse_args()
    first = arguments.evaluations[0]
    systems = sorted(path.name for path in (first / "scores").glob("*.parquet"))
    scores = {
        Path(name).stem: mean_scores(
            [Scores.from_parquet(folder / "scores" / name) for folder in arguments.evaluations]
        )
        for name in systems
    }
    scores[CANDIDATE] = scores.pop(CANDIDATE)  # last
    segments = pq.read_table(first / "queries.parquet")["segment"].to_numpy(zero_copy_only=False)
    masks = {EVERY: np.ones(len(segments), bool)} | {name: segments == name for name in np.unique(segments)}
    print(format_table(["system", *arguments.metrics], overall_rows(scores, arguments.metrics)), end="\n\n")
    primary = arguments.metrics[0]
    print(format_table(["segment", "queries", *scores], segment_rows(scores, masks, primary)), end="\n\n")
    heads = ["segment", f"{CANDIDATE} against", f"difference in {primary}", "95 % interval", "p"]
    print(format_table(heads, difference_rows(scores, masks, primary)))


def mean_scores(evaluations: Sequence[Scores]) -> Scores:
    """Mean of each query over evaluations of the same queries."""
    first = evaluations[0]
    if not all(np.array_equal(scores.query_ids, first.query_ids) for scores in evaluations):
        raise SystemExit("the evaluations have different queries; give folders of the same data set")
    values = {name: np.mean([scores.values[name] for scores in evaluations], axis=0) for name in first.values}
    return replace(first, values=values)


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def overall_rows(scores: Mapping[str, Scores], metrics: Sequence[str]) -> Iterable[list[str]]:
    for system, system_scores in scores.items():
        means = system_scores.means()
        yield [system, *(f"{means[metric]:.3f}" for metric in metrics)]


def segment_rows(
    scores: Mapping[str, Scores], masks: Mapping[str, np.ndarray], metric: str
) -> Iterable[list[str]]:
    for name, mask in masks.items():
        yield [
            name,
            str(mask.sum()),
            *(f"{system.values[metric][mask].mean():.3f}" for system in scores.values()),
        ]


def difference_rows(
    scores: Mapping[str, Scores], masks: Mapping[str, np.ndarray], metric: str
) -> Iterable[list[str]]:
    candidate = scores[CANDIDATE].values[metric]
    for name, mask in masks.items():
        for system, system_scores in scores.items():
            if system != CANDIDATE:
                reference = system_scores.values[metric]
                test = paired_test(candidate[mask], reference[mask])
                interval = f"{test.low:+.3f} to {test.high:+.3f}"
                yield [name, system, f"{test.difference:+.3f}", interval, f"{test.p_value:.2g}"]


if __name__ == "__main__":
    main()
