"""`vitrine-judge`: score a run, compare runs, explain the numbers of other judges, or write a report.

Files are parquet, TREC, BEIR or JSON; their content tells which. See `vitrine_judge.rankings`. The report needs Jinja2
and matplotlib: the extra `report`.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from vitrine_judge.arrays import locate
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import Scores, known_metrics, score
from vitrine_judge.ranking_files import read_table
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.segments import traffic_thirds
from vitrine_judge.significance import Contest, detectable_difference, differences, holm, paired_test, t_test
from vitrine_judge.tables import format_table

DEFAULT_METRICS = ("ndcg@10", "recall@100", "mrr@10")
COMPARISON_HEADS = (
    "metric", "against", "ours", "theirs", "difference", "95 % interval", "p", "p (Holm)", "p (t)",
    "won/drawn/lost", "detectable",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0; or 1 after one line on stderr about bad input."""
    arguments = _build_parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except JudgeError as error:
        print(f"vitrine-judge: {error}", file=sys.stderr)
    except OSError as error:
        print(f"vitrine-judge: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        return 0
    return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitrine-judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, help_text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}."
        )

    command = add_command("score", "the mean of every metric over the judged queries")
    _add_arguments(command, with_others=False)
    command.add_argument("--json", action="store_true", help="print metric → mean as JSON")
    command.add_argument(
        "--scores", type=Path, metavar="FILE", help="write the scores of each query as parquet"
    )
    command.set_defaults(command=_score)

    command = add_command("compare", "test whether the first run differs significantly from the others")
    _add_arguments(command, with_others=True)
    command.add_argument("--json", action="store_true", help="print one object per run and metric as JSON")
    command.set_defaults(command=_compare)

    command = add_command("explain", "explain why trec_eval and BEIR give other numbers for a run")
    _add_arguments(command, with_others=False)
    command.set_defaults(command=_explain)

    command = add_command("report", "write a page that compares the first run with the others")
    _add_arguments(command, with_others=True)
    _add_report_arguments(command)
    command.set_defaults(command=_report)
    return parser


def _add_arguments(command: argparse.ArgumentParser, with_others: bool) -> None:
    """Add the arguments that all commands share."""
    command.add_argument("run", type=Path, metavar="RUN")
    if with_others:
        command.add_argument("others", type=Path, nargs="+", metavar="OTHER")
    command.add_argument("qrels", type=Path, metavar="QRELS")
    command.add_argument(
        "--metrics", nargs="+", default=DEFAULT_METRICS, metavar="METRIC", help=", ".join(known_metrics())
    )
    command.add_argument(
        "--gains", type=_parse_gains, metavar="GRADE:GAIN,…", help="by default, a grade is its own gain"
    )
    command.add_argument(
        "--relevant", type=float, default=1.0, metavar="GRADE", help="lowest relevant grade, by default 1"
    )


def _add_report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="PAGE")
    command.add_argument(
        "--queries", type=Path, metavar="FILE", help="parquet file with query_id and columns to group by"
    )
    command.add_argument(
        "--by",
        nargs="+",
        default=["segment"],
        metavar="COLUMN",
        help="columns of --queries to group by; a column of counts gives head, torso and tail",
    )


def _parse_gains(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(grade): float(gain) for grade, gain in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' does not have the form 0:0,1:0.1,2:1") from None


def _score(arguments: argparse.Namespace) -> None:
    (scores,) = _score_files(arguments, [arguments.run])
    if arguments.scores:
        scores.to_parquet(arguments.scores)
    if arguments.json:
        print(json.dumps(scores.means()))
        return
    rows = [[name, f"{mean:.4f}"] for name, mean in scores.means().items()]
    print(format_table([["metric", "mean"], *rows]))
    print(f"\n{len(scores.query_ids):,} judged queries, {scores.unanswered:,} of them unanswered")


def _compare(arguments: argparse.Namespace) -> None:
    scores, *other_scores = _score_files(arguments, [arguments.run, *arguments.others])
    rows = [
        _compare_metric(metric, path, scores.values[metric], other.values[metric])
        for path, other in zip(arguments.others, other_scores, strict=True)
        for metric in arguments.metrics
    ]
    corrected = holm(np.array([row["p_value"] for row in rows]))
    rows = [row | {"p_holm": float(p)} for row, p in zip(rows, corrected, strict=True)]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(format_table([COMPARISON_HEADS, *map(_comparison_line, rows)]))
    print(
        f"\n{len(scores.query_ids):,} judged queries. p: two-sided randomisation test. Holm: corrected for all rows. "
        "Detectable: the true difference that these queries detect at 80 % power."
    )


def _compare_metric(metric: str, other: Path, ours: np.ndarray, theirs: np.ndarray) -> dict[str, object]:
    test = paired_test(ours, theirs)
    contest = Contest.from_differences(differences(ours, theirs))
    return {
        "metric": metric,
        "against": other.stem,
        "ours": float(ours.mean()),
        "theirs": float(theirs.mean()),
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "p_value": test.p_value,
        "p_t": t_test(ours - theirs),
        "won": contest.won,
        "drawn": contest.drawn,
        "lost": contest.lost,
        "detectable": detectable_difference(ours - theirs),
    }


def _comparison_line(row: dict[str, object]) -> list[object]:
    return [
        row["metric"],
        row["against"],
        f"{row['ours']:.4f}",
        f"{row['theirs']:.4f}",
        f"{row['difference']:+.4f}",
        f"{row['low']:+.4f} to {row['high']:+.4f}",
        *(f"{row[name]:.2g}" for name in ("p_value", "p_holm", "p_t")),
        f"{row['won']}/{row['drawn']}/{row['lost']}",
        f"{row['detectable']:.4f}",
    ]


def _explain(arguments: argparse.Namespace) -> None:
    from vitrine_judge.conventions import default_setup, explain

    metrics = arguments.metrics
    setup = default_setup(
        Run.from_file(arguments.run),
        Qrels.from_file(arguments.qrels),
        metrics,
        arguments.gains,
        arguments.relevant,
    )
    means_by_judge, differences_by_judge = explain(setup)
    rows = [
        [judge, *(f"{means[metric]:.4f}" if metric in means else "–" for metric in metrics)]
        for judge, means in means_by_judge.items()
    ]
    print(format_table([["judge", *metrics], *rows]))
    for judge, causes in differences_by_judge.items():
        print(f"\n{judge}, the effect of each difference alone:")
        for difference in causes:
            changes = ", ".join(
                f"{metric} {change:+.4f}"
                for metric, change in difference.changes.items()
                if abs(change) > 5e-5
            )
            print(f"  {difference.cause}: {difference.why}\n    {changes or 'no change for this run'}")


def _report(arguments: argparse.Namespace) -> None:
    from vitrine_judge.report import Report, render

    paths = [arguments.run, *arguments.others]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise JudgeError(f"the files {', '.join(map(str, paths))} must have different names")
    systems = dict(zip(names, _score_files(arguments, paths), strict=True))
    subject, *others = names
    primary, scores = arguments.metrics[0], systems[subject]
    comparisons = {
        name: paired_test(scores.values[primary], systems[name].values[primary]) for name in others
    }
    report = Report(
        title=f"{subject} compared with {', '.join(others)}",
        subject=subject,
        primary=primary,
        systems=systems,
        comparisons=comparisons,
        segments=_read_segments(arguments.queries, arguments.by, scores),
        grades={},
    )
    arguments.out.write_text(render(report), encoding="utf-8")


def _read_segments(path: Path | None, columns: Sequence[str], scores: Scores) -> dict[str, np.ndarray]:
    """The segments of the scored queries by each column; integers are the frequencies of queries."""
    if path is None:
        return {"segment": np.full(len(scores.query_ids), "all")}
    table = read_table(path)
    if missing := {"query_id", *columns} - set(table.column_names):
        raise JudgeError(f"{path}: column '{min(missing)}' is missing")
    rows = locate(pa.array(scores.query_ids), table["query_id"].combine_chunks().cast(pa.string()))
    if (rows < 0).any():
        raise JudgeError(
            f"{path}: the judged query '{scores.query_ids[rows.argmin()]}' is missing; add its row"
        )
    table = table.take(rows)
    return {
        name: traffic_thirds(table[name].to_numpy())
        if pa.types.is_integer(table.schema.field(name).type)
        else np.array([str(value or "none") for value in table[name].to_pylist()])
        for name in columns
    }


def _score_files(arguments: argparse.Namespace, runs: Iterable[Path]) -> list[Scores]:
    qrels = Qrels.from_file(arguments.qrels)
    return [
        score(Run.batches(run), qrels, arguments.metrics, gains=arguments.gains, relevant=arguments.relevant)
        for run in runs
    ]


if __name__ == "__main__":
    sys.exit(main())
