"""`vitrine-judge`: score a run, compare runs, explain the numbers of other judges, or write a report.

Files are parquet, TREC, BEIR or JSON; their content tells which. See `vitrine_judge.rankings`. How runs are scored is
read from judging.json in the folder of QRELS; flags replace single fields. The report needs Jinja2 and matplotlib: the
extra `report`.
"""

import os
import sys

if "numpy" not in sys.modules:
    # Nothing here multiplies matrices, and to start NumPy's threads for it takes time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from vitrine_judge.configuration import CONFIGURATION_FILE, MetricConfiguration, stored_configuration
from vitrine_judge.coverage import Coverage
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import TIES, Scores, known_metrics
from vitrine_judge.query_tables import read_query_table
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.tables import format_table

if TYPE_CHECKING:
    from vitrine_judge.comparison import MetricComparison

BAD_INPUT = 3  # exit code; `gate` needs 1 and 2
COMPARISON_HEADS = ("metric", "against", "ours", "theirs", "difference")
NONE = "–"  # where a table has no number


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the exit code of bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")

    def format_help(self) -> str:
        # not in `--metrics`: to look for the metrics of plugins takes time
        return (
            f"{super().format_help()}\nmetrics: {', '.join(known_metrics())}, and the names of ir_measures\n"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code: 0; or 3 after one line on stderr about bad input."""
    arguments = _build_parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except JudgeError as error:
        print(f"vitrine-judge: {error}", file=sys.stderr)
    except OSError as error:
        print(f"vitrine-judge: {error.filename}: {error.strerror}", file=sys.stderr)
    return BAD_INPUT


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vitrine-judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, help_text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}."
        )

    command = add_command("score", "the mean of every metric over the judged queries")
    _add_arguments(command, with_others=False)
    command.add_argument("--json", action="store_true", help="print means, counts and configuration as JSON")
    command.add_argument(
        "--scores", type=Path, metavar="FILE", help="write the scores of each query as parquet"
    )
    command.set_defaults(command=_score)

    command = add_command("compare", "test whether the first run differs significantly from the others")
    _add_arguments(command, with_others=True)
    command.add_argument(
        "--confidence", type=_parse_share, default=0.95, metavar="SHARE", help="of intervals, by default 0.95"
    )
    command.add_argument("--json", action="store_true", help="print comparisons and counts as JSON")
    command.set_defaults(command=_compare)

    command = add_command("explain", "explain why trec_eval and BEIR give other numbers for a run")
    _add_arguments(command, with_others=False)
    command.set_defaults(command=_explain)

    command = add_command(
        "gate",
        "decide whether the first run may replace the second: exit code 0 passed, 1 failed, 2 undecided",
    )
    _add_gate_arguments(command)
    command.set_defaults(command=_gate)

    command = add_command("report", "write a page that compares the first run with the others")
    _add_arguments(command, with_others=True)
    _add_report_arguments(command)
    command.set_defaults(command=_report)
    return parser


def _add_arguments(command: argparse.ArgumentParser, with_others: bool) -> None:
    """Add the arguments that all commands but `gate` share."""
    command.add_argument("run", type=Path, metavar="RUN")
    if with_others:
        command.add_argument("others", type=Path, nargs="+", metavar="OTHER")
    _add_configuration_arguments(command)


def _add_configuration_arguments(command: argparse.ArgumentParser) -> None:
    """Add the judgements and the flags of `MetricConfiguration`, which are None where not given."""
    command.add_argument("qrels", type=Path, metavar="QRELS")
    command.add_argument(
        "--metrics",
        type=_parse_names,
        action="extend",
        metavar="METRIC,…",
        help=f"by default {', '.join(MetricConfiguration().metrics)}; all names are below",
    )
    command.add_argument(
        "--gains", type=_parse_gains, metavar="GRADE:GAIN,…", help="by default, a grade is its own gain"
    )
    command.add_argument(
        "--relevant", type=float, metavar="GRADE", help="lowest relevant grade, by default 1"
    )
    command.add_argument(
        "--ties",
        choices=TIES,
        help="order of equal scores: ascending ids (default), or the mean over all orders",
    )


def _add_gate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("candidate", type=Path, metavar="CANDIDATE")
    command.add_argument("champion", type=Path, metavar="CHAMPION")
    _add_configuration_arguments(command)
    command.add_argument(
        "--rules", type=Path, metavar="FILE", help="YAML or JSON with fields of vitrine_judge.gate.Rules"
    )
    command.add_argument(
        "--queries", type=Path, metavar="FILE", help="table with query_id, and segment or cluster or both"
    )
    command.add_argument(
        "--baseline",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="run of a baseline; repeatable",
    )
    command.add_argument(
        "--look",
        type=float,
        default=1.0,
        metavar="N",
        help="the number of this look at these queries, by default 1",
    )
    command.add_argument("--json", action="store_true", help="print the decision as JSON")
    command.add_argument("--page", type=Path, metavar="FILE", help="write the decision as an HTML page")


def _add_report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="PAGE")
    command.add_argument(
        "--queries", type=Path, metavar="FILE", help="parquet file with query_id and columns to group by"
    )
    command.add_argument(
        "--by",
        type=_parse_names,
        action="extend",
        metavar="COLUMN,…",
        help="columns of --queries to group by, by default segment; a column of counts gives head, torso and tail",
    )


def _parse_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _parse_gains(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        gains = {int(grade): float(gain) for grade, gain in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' does not have the form 0:0,1:0.1,2:1") from None
    if len(gains) < len(pairs):
        raise argparse.ArgumentTypeError(f"'{text}' gives a grade two gains; give each grade one")
    return gains


def _parse_share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 0 and 1, such as 0.95")
    return share


@dataclass(frozen=True)
class _Setting:
    """The configuration of a command.

    Attributes:
        configuration: What counts.
        stored: The one beside the judgements, if there is one.
        stored_path: Its file.
        flags: The flags that replace fields.
    """

    configuration: MetricConfiguration
    stored: MetricConfiguration | None
    stored_path: Path | None
    flags: tuple[str, ...]

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> "_Setting":
        values = {name: getattr(arguments, name) for name in ("metrics", "gains", "relevant", "ties")}
        changes = {name: value for name, value in values.items() if value is not None}
        path = stored_configuration(arguments.qrels)
        stored = MetricConfiguration.from_file(path) if path else None
        configuration = replace(stored or MetricConfiguration(), **changes)
        return cls(configuration, stored, path, tuple(f"--{name}" for name in changes))

    @property
    def source(self) -> str:
        """Where the configuration comes from."""
        return ", ".join([str(self.stored_path or "defaults"), *self.flags])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self.configuration), "source": self.source}

    def __str__(self) -> str:
        return f"Configuration: {self.configuration.describe()} ({self.source})."


def _score(arguments: argparse.Namespace) -> None:
    setting = _Setting.from_arguments(arguments)
    ((scores, coverage),) = _score_files(setting, arguments.qrels, [arguments.run])
    if arguments.scores:
        scores.to_parquet(arguments.scores)
    if arguments.json:
        print(
            json.dumps(
                {
                    "means": scores.means(),
                    "coverage": coverage.to_dict(),
                    "configuration": setting.to_dict(),
                }
            )
        )
        return
    rows = [[name, f"{mean:.4f}"] for name, mean in scores.means().items()]
    print(format_table([["metric", "mean"], *rows]))
    print(f"\n{coverage.judged:,} judged queries, {coverage.unanswered:,} of them unanswered. {setting}")


def _compare(arguments: argparse.Namespace) -> None:
    from vitrine_judge.comparison import compare_systems, deciding_queries

    setting, confidence = _Setting.from_arguments(arguments), arguments.confidence
    paths = [arguments.run, *arguments.others]
    names = _system_names(paths)
    results = _score_files(setting, arguments.qrels, paths)
    scores = [run_scores for run_scores, _ in results]
    others = dict(zip(names[1:], scores[1:], strict=True))
    rows = compare_systems(scores[0], others, setting.configuration.metrics, confidence)
    if arguments.json:
        coverage = {name: counts.to_dict() for name, (_, counts) in zip(names, results, strict=True)}
        content = {"comparisons": [asdict(row) for row in rows], "confidence": confidence}
        print(json.dumps({**content, "coverage": coverage, "configuration": setting.to_dict()}))
        return
    heads = [f"{100 * confidence:g} % interval", "p", "p (Holm)", "won/drawn/lost", "detectable"]
    print(format_table([[*COMPARISON_HEADS, *heads], *map(_comparison_line, rows)]))
    queries, needed = len(scores[0].query_ids), deciding_queries(confidence)
    text = (
        "p: two-sided test of Gaffke. Holm: corrected for all rows. "
        "Detectable: the true difference that these queries detect at 80 % power."
    )
    if queries < needed:
        text = f"They decide nothing: at {100 * confidence:g} % confidence a test needs {needed} queries or more."
    print(f"\n{queries:,} judged queries. {text} {setting}")


def _comparison_line(row: "MetricComparison") -> list[object]:
    return [
        row.metric,
        row.against,
        f"{row.ours:.4f}",
        f"{row.theirs:.4f}",
        f"{row.difference:+.4f}",
        NONE if row.low is None else f"{row.low:+.4f} to {row.high:+.4f}",
        *(NONE if p is None else f"{p:.2g}" for p in (row.p_value, row.p_holm)),
        f"{row.won}/{row.drawn}/{row.lost}",
        NONE if row.detectable is None else f"{row.detectable:.4f}",
    ]


def _system_names(paths: Sequence[Path]) -> list[str]:
    """The names of files without folder and ending where they differ, else the paths."""
    names = [path.stem for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _explain(arguments: argparse.Namespace) -> None:
    from vitrine_judge.conventions import default_setup, explain

    setting = _Setting.from_arguments(arguments)
    run, qrels = Run.from_file(arguments.run), Qrels.from_file(arguments.qrels)
    means_by_judge, differences_by_judge = explain(default_setup(run, qrels, setting.configuration))
    _print_means("judge", setting.configuration.metrics, means_by_judge)
    print(f"\n{setting}")
    if setting.stored and setting.stored.describe() != setting.configuration.describe():
        stored = replace(setting.stored, metrics=setting.configuration.metrics)
        print(f"\nThe flags differ from {setting.stored_path}:")
        configurations = {", ".join(setting.flags): setting.configuration, CONFIGURATION_FILE: stored}
        _print_means(
            "configuration",
            stored.metrics,
            {
                f"{name}: {configuration.describe()}": configuration.score(run, qrels).means()
                for name, configuration in configurations.items()
            },
        )
    for judge, causes in differences_by_judge.items():
        print(f"\n{judge}, the effect of each difference alone:")
        for difference in causes:
            changes = ", ".join(
                f"{metric} {change:+.4f}"
                for metric, change in difference.changes.items()
                if abs(change) > 5e-5
            )
            print(f"  {difference.cause}: {difference.why}\n    {changes or 'no change for this run'}")


def _print_means(head: str, metrics: Sequence[str], means: Mapping[str, Mapping[str, float]]) -> None:
    """One row for each name of `means`; a dash where it has no such metric."""
    rows = [
        [name, *(f"{values[metric]:.4f}" if metric in values else NONE for metric in metrics)]
        for name, values in means.items()
    ]
    print(format_table([[head, *metrics], *rows]))


def _gate(arguments: argparse.Namespace) -> int:
    from vitrine_judge import gate_command
    from vitrine_judge.gate import Evidence, decide

    setting = _Setting.from_arguments(arguments)
    rules = gate_command.read_rules(arguments.rules, setting.configuration.metrics[0])
    metrics = gate_command.list_metrics(rules, setting.configuration)
    setting = replace(setting, configuration=replace(setting.configuration, metrics=metrics))
    paths = [arguments.candidate, arguments.champion, *arguments.baseline]
    results = _score_files(setting, arguments.qrels, paths)
    systems = {name: scores for name, (scores, _) in zip(_system_names(paths), results, strict=True)}
    candidate, champion, *baselines = systems
    query_ids = systems[candidate].query_ids
    segments, clusters = gate_command.read_labels(arguments.queries, query_ids)
    ours, theirs = (
        Evidence(systems[name], segments, {}, clusters=clusters) for name in (candidate, champion)
    )
    decision = decide(ours, theirs, rules, {name: systems[name] for name in baselines}, arguments.look)
    if arguments.page:
        page = gate_command.render_gate_page(
            decision, systems, segments, clusters, rules.primary, str(setting)
        )
        arguments.page.write_text(page, encoding="utf-8")
    if arguments.json:
        print(json.dumps(decision.to_dict() | {"configuration": setting.to_dict()}))
    else:
        print("\n  ".join([decision.verdict, *decision.reasons]))
        print(f"\n{len(query_ids):,} judged queries. {setting}")
    return gate_command.EXIT_CODES[decision.verdict]


def _report(arguments: argparse.Namespace) -> None:
    from vitrine_judge.comparison import compare_with_others
    from vitrine_judge.report import Report, render

    setting = _Setting.from_arguments(arguments)
    paths = [arguments.run, *arguments.others]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise JudgeError(f"the files {', '.join(map(str, paths))} must have different names")
    results = _score_files(setting, arguments.qrels, paths)
    systems = {name: scores for name, (scores, _) in zip(names, results, strict=True)}
    subject, *others = names
    primary, scores = setting.configuration.metrics[0], systems[subject]
    report = Report(
        title=f"{subject} compared with {', '.join(others)}",
        subject=subject,
        primary=primary,
        systems=systems,
        comparisons=compare_with_others(systems, subject, primary),
        segments=_read_segments(arguments.queries, arguments.by or ["segment"], scores),
        grades={},
        configuration=f"{setting.configuration.describe()}; from {setting.source}",
    )
    arguments.out.write_text(render(report), encoding="utf-8")


def _read_segments(path: Path | None, columns: Sequence[str], scores: Scores) -> dict[str, np.ndarray]:
    """The segments of the scored queries by each column; integers are the frequencies of queries."""
    from vitrine_judge.segments import traffic_thirds

    if path is None:
        return {"segment": np.full(len(scores.query_ids), "all")}
    table = read_query_table(path, scores.query_ids)
    if missing := set(columns) - set(table.column_names):
        raise JudgeError(f"{path}: column '{min(missing)}' is missing")
    return {
        name: traffic_thirds(table[name].to_numpy())
        if pa.types.is_integer(table.schema.field(name).type)
        else np.array([str(value or "none") for value in table[name].to_pylist()])
        for name in columns
    }


def _score_files(setting: _Setting, qrels: Path, runs: Iterable[Path]) -> list[tuple[Scores, Coverage]]:
    """The scores of each run; a run whose ids do not meet those of the judgements gives a warning on stderr."""
    judgements, results = Qrels.from_file(qrels), []
    for run in runs:
        coverage = Coverage()
        scores = setting.configuration.score(coverage.count(Run.batches(run), judgements), judgements)
        if warning := coverage.warning():
            print(f"vitrine-judge: warning: {run}: {warning}", file=sys.stderr)
        results.append((scores, coverage))
    return results


if __name__ == "__main__":
    sys.exit(main())
