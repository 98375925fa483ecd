"""The page a reviewer reads: one self-contained HTML file, nothing fetched, nothing executed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.metrics import Scores
from eval.pages import pages
from eval.people import Agreement, Rating
from eval.rankings import JudgeError
from eval.segments import Segment, segments
from eval.significance import Contest, PairedResult, differences

BARS = 20  # of a distribution of differences, half of them losses


@dataclass(frozen=True)
class Result:
    """One product in a ranking; `grade` is None where nobody judged it."""

    title: str
    score: float
    grade: float | None
    picture: bytes | None = None


@dataclass(frozen=True)
class Why:
    """What the score of a query's first result loses without each part of it, or of the query.

    Attributes:
        parts: Name of a part of the result → loss.
        query: The query's words, each with its loss.
        product: The result's words, likewise.
        entities: Type of entity → how the query names it, and how the result does.
        overlay: The result's picture, coloured by what its places matter.
    """

    parts: Mapping[str, float]
    query: Sequence[tuple[str, float]]
    product: Sequence[tuple[str, float]]
    entities: Mapping[str, tuple[str, str]]
    overlay: bytes | None = None

    @property
    def reach(self) -> float:
        """The largest effect of a word."""
        return max((abs(loss) for _, loss in (*self.query, *self.product)), default=0.0) or 1.0


@dataclass(frozen=True)
class Example:
    """One query and what the systems made of it: system → first results, and system → primary metric.

    `why` is about the first result of the system under review.
    """

    query_id: str
    lists: Mapping[str, Sequence[Result]]
    scores: Mapping[str, float]
    text: str | None = None
    picture: bytes | None = None
    segment: str | None = None
    why: Why | None = None


@dataclass(frozen=True)
class Measure:
    """How well a task besides search is done.

    Attributes:
        task: What is done.
        view: From what, where that varies.
        metric: How it is measured.
        value: The result.
        basis: Over what.
    """

    task: str
    view: str
    metric: str
    value: float
    basis: str


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows.

    Attributes:
        title: Heading of the page.
        subject: The system judged, a name of `systems`.
        primary: The metric that decides.
        systems: Name → scores, all of the same Q queries, in the order shown.
        comparisons: Every other system → subject minus that system, on the primary metric.
        segments: Ways to group the queries: name → (Q,) str, the group of each query.
        grades: Grade → what it is called, such as 3 → "exact".
        won, lost: The queries most won and most lost by the subject; see `extremes`.
        tasks: What else was measured.
        ratings, agreements: What people said, and whether `primary` agrees with them.
        note: What a reader must know before all else.
        judged_by: Where the judgements of `systems` come from, in a word.
        apart: The same systems on queries that were judged otherwise: where from → system → scores.
    """

    title: str
    subject: str
    primary: str
    systems: Mapping[str, Scores]
    comparisons: Mapping[str, PairedResult]
    segments: Mapping[str, np.ndarray]
    grades: Mapping[int, str]
    won: Sequence[Example] = ()
    lost: Sequence[Example] = ()
    tasks: Sequence[Measure] = ()
    ratings: Sequence[Rating] = ()
    agreements: Sequence[Agreement] = ()
    note: str = ""
    judged_by: str = ""
    apart: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of a table: cells, which of them are the best of their kind, and the interval of one of them."""

    name: str
    cells: list[float]
    best: list[bool]
    interval: tuple[float, float]
    queries: int = 0


@dataclass(frozen=True)
class Bar:
    """Queries whose differences lie between two edges.

    Attributes:
        low, high: The edges.
        queries: How many.
        height: Their number as a share of that of the highest bar.
    """

    low: float
    high: float
    queries: int
    height: float


def best_other(systems: Mapping[str, Scores], subject: str, metric: str) -> str:
    """The system, other than `subject`, with the highest mean."""
    others = {name: scores.means()[metric] for name, scores in systems.items() if name != subject}
    return max(others, key=others.__getitem__)


def extremes(subject: Scores, other: Scores, metric: str, count: int) -> tuple[list[str], list[str]]:
    """Ids of up to `count` queries most won and most lost, the most extreme first.

    Equal differences come by id, ascending; draws are left out.
    """
    difference = subject.values[metric] - other.values[metric]

    def most(gain: np.ndarray) -> list[str]:
        order = np.argsort(-gain, kind="stable")[:count]
        return subject.query_ids[order[gain[order] > 0]].tolist()

    return most(difference), most(-difference)


def render(report: Report) -> str:
    """The page as HTML.

    Raises:
        JudgeError: systems judged on different queries, no comparison for one of them, or segments that do
            not match the queries.
    """
    _check(report)
    subject = report.systems[report.subject]
    kinds = list(subject.values)
    metrics = [name for name in kinds if not name.startswith("judged")]
    return (
        pages()
        .get_template("report.html.jinja")
        .render(
            report=report,
            queries=len(subject.query_ids),
            metrics=metrics,
            coverage=[name for name in kinds if name.startswith("judged")],
            headline=_headline(report, metrics),
            means={name: scores.means() for name, scores in report.systems.items()},
            contests={name: Contest.of(_differences(report, name)) for name in report.comparisons},
            reach=max((abs(x) for c in report.comparisons.values() for x in (c.low, c.high)), default=0) or 1,
            segments={name: list(_rows(report, labels)) for name, labels in report.segments.items()},
            apart=[row for by, systems in report.apart.items() for row in _apart(report, by, systems)],
            bars={name: list(_bars(report, name)) for name in report.comparisons},
            examples=[("Most won", report.won), ("Most lost", report.lost)],
            levels={grade: place for place, grade in enumerate(sorted(report.grades))},
        )
    )


def _check(report: Report) -> None:
    if report.subject not in report.systems:
        raise JudgeError(f"'{report.subject}' is not among the systems {', '.join(report.systems)}")
    if missing := set(report.systems) - {report.subject} - set(report.comparisons):
        raise JudgeError(f"'{report.subject}' is not compared with '{min(missing)}'; add the comparison")
    ids = report.systems[report.subject].query_ids
    for name, scores in report.systems.items():
        if not np.array_equal(scores.query_ids, ids):
            raise JudgeError(
                f"'{name}' was judged on other queries than '{report.subject}'; use the same ones"
            )


def _headline(report: Report, metrics: Sequence[str]) -> list[Row]:
    means = np.array([[scores.means()[m] for m in metrics] for scores in report.systems.values()])
    best = means == means.max(axis=0)
    every = np.full(len(report.systems[report.subject].query_ids), "all")
    return [
        Row(name, means[i].tolist(), best[i].tolist(), (whole.low, whole.high))
        for i, (name, scores) in enumerate(report.systems.items())
        for whole in segments(scores.values[report.primary], every)
    ]


def _rows(report: Report, labels: np.ndarray) -> Iterator[Row]:
    """The primary metric per group and system, and the subject's interval; largest groups first."""
    for part in segments(report.systems[report.subject].values[report.primary], labels):
        inside = labels == part.name
        means = [float(scores.values[report.primary][inside].mean()) for scores in report.systems.values()]
        yield _row(part, means)


def _apart(report: Report, by: str, systems: Mapping[str, Scores]) -> Iterator[Row]:
    """As `_rows`, of queries that were judged otherwise."""
    ours = systems[report.subject].values[report.primary]
    for part in segments(ours, np.full(len(ours), by)):
        yield _row(part, [systems[name].means()[report.primary] for name in report.systems])


def _row(part: Segment, means: list[float]) -> Row:
    return Row(part.name, means, [mean == max(means) for mean in means], (part.low, part.high), part.queries)


def _bars(report: Report, other: str) -> Iterator[Bar]:
    """How the differences to another system are distributed, from lost to won; draws are none of them."""
    difference = _differences(report, other)
    reach = max(1.0, float(np.abs(difference).max()))
    edges = np.round(np.linspace(-reach, reach, BARS + 1), 12)
    counts, _ = np.histogram(difference[difference != 0], edges)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        yield Bar(float(low), float(high), int(count), count / max(1, counts.max()))


def _differences(report: Report, other: str) -> np.ndarray:
    return differences(*(report.systems[name].values[report.primary] for name in (report.subject, other)))
