"""What an evaluation found, as tables for a document: `python bench/tables.py EVALUATION [METRIC …] > TABLES.md`.

EVALUATION is a folder as the stage writes it, `artifacts/evaluate`. The first metric is the one that segments and
differences are of. Differences are the candidate's to each other system, paired over queries, over all of them and
segment by segment, with the resamples of `evaluate`.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from components.evaluate import CANDIDATE
from components.params import EvaluateParams
from eval.metrics import Scores
from eval.significance import paired_test

METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "hit@10")
EVERY = "all"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("metrics", nargs="*", default=METRICS)
    asked = parser.parse_args()
    files = sorted((asked.evaluation / "scores").glob("*.parquet"))
    scores = {path.stem: Scores.from_parquet(path) for path in files}
    scores[CANDIDATE] = scores.pop(CANDIDATE)  # last
    segments = pq.read_table(asked.evaluation / "queries.parquet")["segment"].to_numpy(zero_copy_only=False)
    masks = {EVERY: np.ones(len(segments), bool)} | {name: segments == name for name in np.unique(segments)}
    print(table(["system", *asked.metrics], overall(scores, asked.metrics)), end="\n\n")
    primary = asked.metrics[0]
    print(table(["segment", "queries", *scores], by_segment(scores, masks, primary)), end="\n\n")
    heads = ["segment", f"{CANDIDATE} against", f"difference in {primary}", "95 % interval", "p"]
    print(table(heads, differences(scores, masks, primary)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def overall(scores: Mapping[str, Scores], metrics: Sequence[str]) -> Iterable[list[str]]:
    for system, one in scores.items():
        means = one.means()
        yield [system, *(f"{means[metric]:.3f}" for metric in metrics)]


def by_segment(
    scores: Mapping[str, Scores], masks: Mapping[str, np.ndarray], metric: str
) -> Iterable[list[str]]:
    for name, mask in masks.items():
        yield [name, str(mask.sum()), *(f"{one.values[metric][mask].mean():.3f}" for one in scores.values())]


def differences(
    scores: Mapping[str, Scores], masks: Mapping[str, np.ndarray], metric: str
) -> Iterable[list[str]]:
    params = EvaluateParams()
    ours = scores[CANDIDATE].values[metric]
    for name, mask in masks.items():
        for system, one in scores.items():
            if system != CANDIDATE:
                test = paired_test(ours[mask], one.values[metric][mask], params.resamples, params.seed)
                interval = f"{test.low:+.3f} to {test.high:+.3f}"
                yield [name, system, f"{test.difference:+.3f}", interval, f"{test.p_value:.1g}"]


if __name__ == "__main__":
    main()
