"""What evaluations found, as tables for a document: `python bench/tables.py EVALUATION … [--metrics …] > TABLES.md`.

EVALUATION is a folder as the stage writes it, `artifacts/evaluate`; of several, say those of other seeds, each query's
mean counts. The first metric is the one that segments and differences are of. Differences are the candidate's to each
other system, paired over queries, over all of them and segment by segment, with the resamples of `evaluate`.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
    parser.add_argument("evaluations", type=Path, nargs="+", metavar="EVALUATION")
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    asked = parser.parse_args()
    first = asked.evaluations[0]
    systems = sorted(path.name for path in (first / "scores").glob("*.parquet"))
    scores = {
        Path(name).stem: mean([Scores.from_parquet(folder / "scores" / name) for folder in asked.evaluations])
        for name in systems
    }
    scores[CANDIDATE] = scores.pop(CANDIDATE)  # last
    segments = pq.read_table(first / "queries.parquet")["segment"].to_numpy(zero_copy_only=False)
    masks = {EVERY: np.ones(len(segments), bool)} | {name: segments == name for name in np.unique(segments)}
    print(table(["system", *asked.metrics], overall(scores, asked.metrics)), end="\n\n")
    primary = asked.metrics[0]
    print(table(["segment", "queries", *scores], by_segment(scores, masks, primary)), end="\n\n")
    heads = ["segment", f"{CANDIDATE} against", f"difference in {primary}", "95 % interval", "p"]
    print(table(heads, differences(scores, masks, primary)))


def mean(several: Sequence[Scores]) -> Scores:
    """Each query's, over evaluations of the same queries."""
    first = several[0]
    if not all(np.array_equal(one.query_ids, first.query_ids) for one in several):
        raise SystemExit("these evaluations are not of the same queries")
    values = {name: np.mean([one.values[name] for one in several], axis=0) for name in first.values}
    return replace(first, values=values)


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
                yield [name, system, f"{test.difference:+.3f}", interval, f"{test.p_value:.2g}"]


if __name__ == "__main__":
    main()
