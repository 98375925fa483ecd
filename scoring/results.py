"""The scores of several systems, and the files that hold them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
from vitrine_judge.comparison import compare_with_others
from vitrine_judge.configuration import CONFIGURATION_FILE, MetricConfiguration
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Run
from vitrine_judge.significance import PairedResult

from scoring.judgements import Judgements


@dataclass(frozen=True)
class Results:
    """The scores of all systems.

    Attributes:
        served: The system that is registered and served.
        configuration: How the runs are scored.
        judge: Whose judgements decide, the most trusted; all but `scores_by_judge` is of these.
        judgements: Of this judge.
        runs: System → run.
        scores_by_judge: Judge → system → scores.
        comparisons: System → the served one minus this system, on the primary metric.
    """

    served: str
    configuration: MetricConfiguration
    judge: str
    judgements: Judgements
    runs: Mapping[str, Run]
    scores_by_judge: Mapping[str, Mapping[str, Scores]]
    comparisons: Mapping[str, PairedResult]

    @property
    def scores(self) -> Mapping[str, Scores]:
        """System → scores by the most trusted judge."""
        return self.scores_by_judge[self.judge]


def score_systems(
    runs: Mapping[str, Run],
    served: str,
    judgements: Mapping[str, Judgements],
    configuration: MetricConfiguration,
) -> Results:
    """Score all runs by every kind of judge, and compare the served system with every other system.

    Args:
        runs: System → run.
        served: The system that is registered and served.
        judgements: Judge → judgements, the most trusted first.
        configuration: How runs are scored; its first metric is the primary one.
    """
    scores_by_judge = {
        judge: {system: kind.score(run, configuration) for system, run in runs.items()}
        for judge, kind in judgements.items()
    }
    judge = next(iter(judgements))
    clusters = judgements[judge].clusters
    comparisons = compare_with_others(scores_by_judge[judge], served, configuration.metrics[0], clusters)
    return Results(served, configuration, judge, judgements[judge], runs, scores_by_judge, comparisons)


def write_results(folder: Path, results: Results) -> None:
    """Write the files with scores, runs and judgements that `components.evaluate` names."""
    scores, (qrels, segments, clusters, _) = results.scores, results.judgements
    means = {system: system_scores.means() for system, system_scores in scores.items()}
    write_json(folder / "metrics.json", means)
    write_json(folder / "summary.json", means[results.served])
    pv.write_csv(tabulate_by_segment(scores, segments), folder / "segments.csv")
    pv.write_csv(tabulate_by_judge(results.scores_by_judge), folder / "judged_by.csv")
    comparisons = {system: asdict(comparison) for system, comparison in results.comparisons.items()}
    write_json(folder / "comparisons.json", comparisons)
    for name in ("scores", "runs"):
        (folder / name).mkdir()
    for system, run in results.runs.items():
        scores[system].to_parquet(folder / "scores" / f"{system}.parquet")
        run.to_parquet(folder / "runs" / f"{system}.parquet")
        run.to_trec(folder / "runs" / f"{system}.trec")
    qrels.to_trec(folder / "qrels.trec")
    results.configuration.to_file(folder / CONFIGURATION_FILE)
    queries = pa.table({"query_id": scores[results.served].query_ids, "segment": segments})
    if clusters is not None:
        queries = queries.append_column("cluster", pa.array(clusters))
    pq.write_table(queries, folder / "queries.parquet")


def tabulate_by_segment(scores: Mapping[str, Scores], segments: np.ndarray) -> pa.Table:
    """Tabulate a row per segment and system, with the number of queries and the mean of every metric.

    Args:
        scores: By system.
        segments: str (Q,), aligned with the scores.
    """
    return pa.Table.from_pylist(
        [
            {"segment": str(name), "queries": int((segments == name).sum()), "system": system}
            | system_scores.restrict(segments == name).means()
            for name in np.unique(segments)
            for system, system_scores in scores.items()
        ]
    )


def tabulate_by_judge(scores_by_judge: Mapping[str, Mapping[str, Scores]]) -> pa.Table:
    """Tabulate as `tabulate_by_segment`, a row per kind of judge and system."""
    return pa.Table.from_pylist(
        [
            {"judged_by": judge, "queries": len(system_scores.query_ids), "system": system}
            | system_scores.means()
            for judge, scores in scores_by_judge.items()
            for system, system_scores in scores.items()
        ]
    )


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")
