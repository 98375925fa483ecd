"""`python -m eval`: score a run, compare two, see why other judges disagree, or make a page of it.

Files are parquet, TREC, BEIR or JSON, told by their content; see `eval.rankings`. Needs NumPy and pyarrow, and for the
page Jinja2.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from eval.arrays import locate
from eval.metrics import METRICS, Scores, score
from eval.rankings import JudgeError, Qrels, Run, read_table
from eval.segments import traffic
from eval.significance import Contest, detectable, differences, holm, paired_test, t_test
from eval.tables import table

DEFAULT = ("ndcg@10", "recall@100", "mrr@10")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb: 0; 1 after one line on stderr where the input is at fault."""
    asked = _parser().parse_args(argv)
    try:
        asked.work(asked)
    except JudgeError as error:
        print(f"eval: {error}", file=sys.stderr)
    except OSError as error:
        print(f"eval: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        return 0
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(
        name: str, work: Callable[[argparse.Namespace], None], told: str, others: str
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
        verb.add_argument("run", type=Path, metavar="RUN")
        if others:
            verb.add_argument("others", type=Path, nargs=others, metavar="OTHER")
        verb.add_argument("qrels", type=Path, metavar="QRELS")
        verb.add_argument("--metrics", nargs="+", default=DEFAULT, metavar="METRIC", help=", ".join(METRICS))
        verb.add_argument("--gains", type=_gains, metavar="GRADE:GAIN,…", help="else a grade is its own gain")
        verb.add_argument("--relevant", type=float, default=1.0, metavar="GRADE", help="the least; default 1")
        verb.set_defaults(work=work)
        return verb

    verb = add("score", _score, "the mean of every metric over the judged queries", "")
    verb.add_argument("--json", action="store_true", help="metric → mean")
    verb.add_argument("--scores", type=Path, metavar="FILE", help="parquet to write: every query's values")
    verb = add("compare", _compare, "whether the first run is better than others, beyond noise", "+")
    verb.add_argument("--json", action="store_true", help="one object per run and metric")
    add("explain", _explain, "why trec_eval and BEIR give other numbers for this run", "")
    verb = add("report", _report, "one page about the first run beside others", "+")
    verb.add_argument("--out", type=Path, required=True, metavar="PAGE")
    verb.add_argument(
        "--queries", type=Path, metavar="FILE", help="parquet with query_id and what to group by"
    )
    verb.add_argument(
        "--by",
        nargs="+",
        default=["segment"],
        metavar="COLUMN",
        help="of --queries; counts make head, torso and tail",
    )
    return parser


def _gains(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(grade): float(gain) for grade, gain in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 0:0,1:0.1,2:1") from None


def _score(asked: argparse.Namespace) -> None:
    (found,) = _scores(asked, [asked.run])
    if asked.scores:
        found.to_parquet(asked.scores)
    if asked.json:
        print(json.dumps(found.means()))
        return
    print(table([["metric", "mean"], *([name, f"{mean:.4f}"] for name, mean in found.means().items())]))
    print(f"\n{len(found.query_ids):,} judged queries, {found.unanswered:,} of them without an answer")


def _compare(asked: argparse.Namespace) -> None:
    ours, *others = _scores(asked, [asked.run, *asked.others])
    rows = [
        _compared(metric, path, ours.values[metric], other.values[metric])
        for path, other in zip(asked.others, others, strict=True)
        for metric in asked.metrics
    ]
    corrected = holm(np.array([row["p_value"] for row in rows]))
    rows = [row | {"p_holm": float(p)} for row, p in zip(rows, corrected, strict=True)]
    if asked.json:
        print(json.dumps(rows))
        return
    heads = ["metric", "against", "ours", "theirs", "difference", "95 % interval", "p", "p (Holm)", "p (t)"]
    lines = [
        [
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
        for row in rows
    ]
    print(table([[*heads, "won/drawn/lost", "detectable"], *lines]))
    print(
        f"\n{len(ours.query_ids):,} judged queries. p: randomisation test, two-sided; Holm: over all rows. Detectable: "
        "the true difference that so many queries would show with a chance of 80 %."
    )


def _compared(metric: str, other: Path, ours: np.ndarray, theirs: np.ndarray) -> dict[str, object]:
    test = paired_test(ours, theirs)
    contest = Contest.of(differences(ours, theirs))
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
        "detectable": detectable(ours - theirs),
    }


def _explain(asked: argparse.Namespace) -> None:
    from eval.conventions import explain, judging

    ours = judging(
        Run.from_file(asked.run), Qrels.from_file(asked.qrels), asked.metrics, asked.gains, asked.relevant
    )
    means, differences = explain(ours)
    lines = [
        [judge, *(f"{found[m]:.4f}" if m in found else "–" for m in asked.metrics)]
        for judge, found in means.items()
    ]
    print(table([["judge", *asked.metrics], *lines]))
    for judge, causes in differences.items():
        print(f"\n{judge}, each alone:")
        for one in causes:
            changes = ", ".join(
                f"{m} {change:+.4f}" for m, change in one.changes.items() if abs(change) > 5e-5
            )
            print(f"  {one.cause}: {one.why}\n    {changes or 'changes nothing here'}")


def _report(asked: argparse.Namespace) -> None:
    from eval.report import Report, render

    paths = [asked.run, *asked.others]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise JudgeError(f"the runs {', '.join(map(str, paths))} must differ in name")
    systems = dict(zip(names, _scores(asked, paths), strict=True))
    primary, ours = asked.metrics[0], systems[names[0]]
    against = {name: paired_test(ours.values[primary], systems[name].values[primary]) for name in names[1:]}
    page = Report(
        title=f"{names[0]} beside {', '.join(names[1:])}",
        subject=names[0],
        primary=primary,
        systems=systems,
        comparisons=against,
        segments=_segments(asked.queries, asked.by, ours),
        grades={},
    )
    asked.out.write_text(render(page), encoding="utf-8")


def _segments(path: Path | None, columns: Sequence[str], scores: Scores) -> dict[str, np.ndarray]:
    """By each column; one of numbers is how often queries were asked."""
    if path is None:
        return {"segment": np.full(len(scores.query_ids), "all")}
    table = read_table(path)
    if missing := {"query_id", *columns} - set(table.column_names):
        raise JudgeError(f"{path}: column '{min(missing)}' is missing")
    place = locate(pa.array(scores.query_ids), table["query_id"].combine_chunks().cast(pa.string()))
    if (place < 0).any():
        raise JudgeError(f"{path}: query '{scores.query_ids[place.argmin()]}' is missing; it was judged")
    table = table.take(place)
    return {
        name: traffic(table[name].to_numpy())
        if pa.types.is_integer(table.schema.field(name).type)
        else np.array([str(value or "none") for value in table[name].to_pylist()])
        for name in columns
    }


def _scores(asked: argparse.Namespace, runs: Iterable[Path]) -> list[Scores]:
    qrels = Qrels.from_file(asked.qrels)
    return [
        score(Run.batches(run), qrels, asked.metrics, gains=asked.gains, relevant=asked.relevant)
        for run in runs
    ]


if __name__ == "__main__":
    sys.exit(main())
