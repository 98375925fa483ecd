"""Score two TREC runs with the judge alone: python examples/judge_a_run.py [RUN BASELINE QRELS]"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.significance import paired_test

METRICS = ["ndcg@10", "mrr@10", "recall@100"]
FILES = {  # TREC's formats: query, Q0, product, rank, score, tag; and query, 0, product, grade
    "run.trec": "q1 Q0 p1 1 0.9 new\nq1 Q0 p2 2 0.5 new\nq2 Q0 p3 1 0.8 new\nq2 Q0 p1 2 0.7 new\n",
    "baseline.trec": "q1 Q0 p2 1 0.9 old\nq1 Q0 p1 2 0.5 old\nq2 Q0 p1 1 0.8 old\nq2 Q0 p3 2 0.7 old\n",
    "qrels.trec": "q1 0 p1 3\nq1 0 p2 0\nq2 0 p3 2\nq2 0 p1 0\n",
}


def judge(run: Path, baseline: Path, qrels: Path) -> None:
    """Print the mean of each metric for both runs, and a paired test of the first metric."""
    judgements = Qrels.from_file(qrels)
    run_scores = score(Run.from_file(run), judgements, METRICS)
    baseline_scores = score(Run.from_file(baseline), judgements, METRICS)
    for name, mean in run_scores.means().items():
        print(f"{name:12} {mean:.4f}   baseline {baseline_scores.means()[name]:.4f}")
    test = paired_test(run_scores.values[METRICS[0]], baseline_scores.values[METRICS[0]])
    print(f"difference in {METRICS[0]}: {test.difference:+.4f}, p = {test.p_value:.2g}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        judge(*map(Path, sys.argv[1:]))
    else:
        with TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in FILES]
            for path in paths:
                path.write_text(FILES[path.name])
            judge(*paths)
