"""The pages a reviewer reads: one self-contained HTML file each, nothing fetched, nothing executed.

Without a review a page reports on systems; with one it is the page to decide on a version by.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from eval.metrics import Scores
from eval.pages import Cell, Table, pages
from eval.people import Agreement, Rating
from eval.plots import Estimate, difference_tone, forest
from eval.rankings import JudgeError
from eval.review import Review
from eval.segments import Segment, segments
from eval.significance import Contest, PairedResult, differences

NOTABLE = 0.02  # of a score: a loss that is worth a word
PLOTTED = 12  # groups in a plot; the table has all
RIVALS = 3  # systems that segments are plotted against


@dataclass(frozen=True)
class Result:
    """One product in a ranking; `grade` is None where nobody judged it, `clip` an animated picture."""

    title: str
    score: float
    grade: float | None
    picture: bytes | None = None
    clip: bytes | None = None


@dataclass(frozen=True)
class Why:
    """What the score of a query's first result loses without each part of it, or of the query.

    Attributes:
        parts: Name of a part of the result → loss.
        query: The query's words, each with its loss.
        product: The result's words, likewise.
        entities: Attribute → its value in the query, and in the result.
        overlay: The result's picture, coloured by how much each place matters.
    """

    parts: Mapping[str, float]
    query: Sequence[tuple[str, float]]
    product: Sequence[tuple[str, float]]
    entities: Mapping[str, tuple[str, str]]
    overlay: bytes | None = None

    @property
    def sentences(self) -> list[str]:
        """The same in sentences: the parts by weight, the words of the query that matter, attributes."""
        parts = [
            name for name, loss in sorted(self.parts.items(), key=lambda part: -part[1]) if loss > NOTABLE
        ]
        words = [word for word, loss in sorted(self.query, key=lambda pair: -pair[1]) if loss > NOTABLE][:3]
        lines = [f"It matches mainly through its {parts[0]}{_then(parts[1:])}."] if parts else []
        lines += [f"The words that matter most: {', '.join(f'“{word}”' for word in words)}."] if words else []
        for name, (query, product) in self.entities.items():
            if query == product:
                lines.append(f"Both name the {name} “{query}”.")
            else:
                names = f"names “{product}”" if product else f"names no {name}"
                lines.append(f"The query names the {name} “{query}”; the text of the product {names}.")
        return lines

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


@dataclass(frozen=True)
class FrequentQuery:
    """A query that is asked often, and the primary metric of the subject and of its first rival on it."""

    text: str
    frequency: int
    subject: float
    rival: float


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows.

    Attributes:
        title: Heading of a page without a review.
        subject: The system judged, a name of `systems`.
        primary: The metric that decides.
        systems: Name → scores, all of the same Q queries, in the order shown.
        comparisons: Every other system → subject minus that system, on the primary metric.
        segments: Ways to group the queries: name → (Q,) str, the group of each query.
        grades: Grade → what it is called, such as 3 → "exact".
        rivals: The systems that matter most, the first of which examples are shown against; by default the best others.
        won, lost: The queries most won and most lost by the subject against the first rival; see `extremes`.
        frequent: What changed for the most frequent queries, where frequencies are known.
        tasks: What else was measured.
        ratings, agreements: What people said, and whether `primary` agrees with them.
        note: What a reader must know before all else.
        judged_by: Where the judgements of `systems` come from, in a word.
        apart: The same systems on queries that were judged otherwise: where from → system → scores.
        review: The version to decide on.
    """

    title: str
    subject: str
    primary: str
    systems: Mapping[str, Scores]
    comparisons: Mapping[str, PairedResult]
    segments: Mapping[str, np.ndarray]
    grades: Mapping[int, str]
    rivals: Sequence[str] = ()
    won: Sequence[Example] = ()
    lost: Sequence[Example] = ()
    frequent: Sequence[FrequentQuery] = ()
    tasks: Sequence[Measure] = ()
    ratings: Sequence[Rating] = ()
    agreements: Sequence[Agreement] = ()
    note: str = ""
    judged_by: str = ""
    apart: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    review: Review | None = None


@dataclass(frozen=True)
class Tile:
    """A figure of the first screen, in words, and the part of the page that has more."""

    name: str
    value: str
    text: str
    anchor: str
    tone: str = ""


def best_other(systems: Mapping[str, Scores], subject: str, metric: str) -> str:
    """The system, other than `subject`, with the highest mean."""
    return _best_others(systems, subject, metric)[0]


def _best_others(systems: Mapping[str, Scores], subject: str, metric: str) -> list[str]:
    others = {name: scores.means()[metric] for name, scores in systems.items() if name != subject}
    return sorted(others, key=lambda name: -others[name])


def extremes(
    subject: Scores, other: Scores, metric: str, groups: np.ndarray, count: int
) -> tuple[list[str], list[str]]:
    """Ids of up to `count` queries most won and most lost: the largest of each group in turn, so that kinds vary.

    Among equal differences comes first what differs most over all metrics, then the lower id. Draws are left out.

    Args:
        subject, other: Scores of the same Q queries.
        metric: By which queries are won and lost.
        groups: (Q,) str, the kind of each query.
        count: At most this many of each.
    """
    gains = {name: differences(subject.values[name], other.values[name]) for name in subject.values}
    overall = sum(gain for name, gain in gains.items() if not name.startswith("judged"))

    def most(sign: int) -> list[str]:
        gain = sign * gains[metric]
        order = np.lexsort((-sign * np.asarray(overall), -gain))
        order = order[gain[order] > 0]
        counts: Counter[str] = Counter()
        turns = []  # of each query, how many of its group come before it
        for group in groups[order].tolist():
            turns.append(counts[group])
            counts[group] += 1
        return subject.query_ids[order[np.argsort(turns, kind="stable")][:count]].tolist()

    return most(1), most(-1)


def render(report: Report) -> str:
    """The page as HTML.

    Raises:
        JudgeError: systems judged on different queries, no comparison for a system, an unknown rival, or segments that
            do not match the queries.
    """
    _check(report)
    rivals = list(report.rivals) or _best_others(report.systems, report.subject, report.primary)[:RIVALS]
    groups = {name: list(_groups(report, rivals, labels)) for name, labels in report.segments.items()}
    totals = {name: _total(scores.values[report.primary]) for name, scores in report.systems.items()}
    return (
        pages()
        .get_template("report.html.jinja")
        .render(
            report=report,
            review=report.review,
            queries=len(report.systems[report.subject].query_ids),
            rivals=rivals,
            tiles=list(_tiles(report, rivals, totals[report.subject], groups)),
            primary_plot=_primary_plot(report, rivals) if rivals else "",
            systems_plot=_systems_plot(report, totals),
            segment_plots=list(_segment_plots(report, rivals, groups)),
            tables=list(_tables(report, totals, groups)),
            tasks=_tasks_table(report),
            people=_people_table(report),
            examples=[("most won", report.won), ("most lost", report.lost)],
            levels={grade: place for place, grade in enumerate(sorted(report.grades))},
        )
    )


def _check(report: Report) -> None:
    if report.subject not in report.systems:
        raise JudgeError(f"'{report.subject}' is not among the systems {', '.join(report.systems)}")
    if missing := set(report.systems) - {report.subject} - set(report.comparisons):
        raise JudgeError(f"'{report.subject}' is not compared with '{min(missing)}'; add the comparison")
    if unknown := set(report.rivals) - set(report.comparisons):
        raise JudgeError(
            f"the rival '{min(unknown)}' is not compared; known are {', '.join(report.comparisons)}"
        )
    ids = report.systems[report.subject].query_ids
    for name, scores in report.systems.items():
        if not np.array_equal(scores.query_ids, ids):
            raise JudgeError(
                f"'{name}' was judged on other queries than '{report.subject}'; use the same ones"
            )


@dataclass(frozen=True)
class Group:
    """Queries of one kind: the subject's mean, every system's, and the differences to the rivals."""

    name: str
    subject: Segment
    means: Mapping[str, float]
    gains: Mapping[str, Segment]


def _groups(report: Report, rivals: Sequence[str], labels: np.ndarray) -> Iterator[Group]:
    """The largest first. Their names say that they are queries, so that none is taken for a system."""
    ours = report.systems[report.subject].values[report.primary]
    gains = {
        rival: {part.name: part for part in segments(_differences(report, rival), labels)} for rival in rivals
    }
    for part in segments(ours, labels):
        members = labels == part.name
        means = {
            name: float(scores.values[report.primary][members].mean())
            for name, scores in report.systems.items()
        }
        yield Group(f"{part.name} queries", part, means, {rival: gains[rival][part.name] for rival in rivals})


def _total(values: np.ndarray, name: str = "all") -> Segment:
    """All queries as one group."""
    (total,) = segments(values, np.full(len(values), name))
    return total


def _tiles(
    report: Report, rivals: Sequence[str], total: Segment, groups: Mapping[str, Sequence[Group]]
) -> Iterator[Tile]:
    interval = "" if np.isnan(total.low) else f"95 % interval {total.low:.3f} to {total.high:.3f}"
    yield Tile(f"{report.primary} of {report.subject}", f"{total.mean:.3f}", interval, "systems")
    if rivals:
        contest = Contest.of(_differences(report, rivals[0]))
        changed = f"{contest.won:,} better, {contest.lost:,} worse"
        yield Tile(f"Queries that differ from {rivals[0]}", changed, f"{contest.drawn:,} equal", "examples")
    if worst := _worst(rivals, groups):
        yield worst
    if report.frequent:
        changes = [query.subject - query.rival for query in report.frequent]
        better, worse = (sum(sign * change > 0 for change in changes) for sign in (1, -1))
        name = f"The {len(changes)} most frequent queries"
        yield Tile(name, f"{better} better, {worse} worse", f"than {rivals[0]}", "frequent")
    if report.review:
        for cost in report.review.costs:
            if cost.candidate is not None:
                value = f"{cost.candidate:.3g} {cost.unit}"
                before = (
                    ""
                    if cost.champion is None
                    else f"champion {cost.champion:.3g} {cost.unit}, {cost.change}"
                )
                yield Tile(cost.name, value, before, "cost")


def _worst(rivals: Sequence[str], groups: Mapping[str, Sequence[Group]]) -> Tile | None:
    """The group that loses most against the first rival or, without one, has the lowest mean."""
    large = [group for part in groups.values() for group in part if not np.isnan(group.subject.low)]
    if not large or sum(map(len, groups.values())) < 2:
        return None
    if not rivals:
        group = min(large, key=lambda group: group.subject.mean)
        return Tile("Worst segment", group.name, f"{group.subject.mean:.3f}", "segments")
    group = min(large, key=lambda group: group.gains[rivals[0]].mean)
    gain = group.gains[rivals[0]]
    if gain.mean >= 0:
        return Tile("Worst segment", "none is worse", f"against {rivals[0]}", "segments")
    value = f"{gain.mean:+.3f}".replace("-", "−")
    text = f"{value} against {rivals[0]}, {gain.queries:,} queries"
    return Tile("Worst segment", group.name, text, "segments", "bad" if gain.high < 0 else "")


def _primary_plot(report: Report, rivals: Sequence[str]) -> Markup:
    tests = {rival: report.comparisons[rival] for rival in rivals}
    estimates = [
        Estimate(rival, test.difference, test.low, test.high, difference_tone(test.low, test.high))
        for rival, test in tests.items()
    ]
    summary = "; ".join(
        f"{line.label}: {line.value:+.3f} ({line.low:+.3f} to {line.high:+.3f})" for line in estimates
    )
    return forest(estimates, "primary", f"Difference in {report.primary}. {summary}")


def _systems_plot(report: Report, totals: Mapping[str, Segment]) -> Markup:
    estimates = [
        Estimate(name, total.mean, total.low, total.high, "accent" if name == report.subject else "soft")
        for name, total in totals.items()
    ]
    summary = f"Mean {report.primary} of each system; the table has the numbers"
    return forest(estimates, "systems", summary, signed=False)


def _segment_plots(
    report: Report, rivals: Sequence[str], groups: Mapping[str, Sequence[Group]]
) -> Iterator[tuple[str, Markup]]:
    """A caption and a plot for each way to group queries and each rival."""
    for grouping, parts in groups.items():
        for place, rival in enumerate(rivals):
            estimates = [
                Estimate(group.name, gain.mean, gain.low, gain.high, difference_tone(gain.low, gain.high))
                for group in parts[:PLOTTED]
                for gain in [group.gains[rival]]
            ]
            name = f"{re.sub('[^a-zA-Z0-9]+', '-', grouping)}-{place}"
            caption = f"{report.subject} minus {rival}, by {grouping}"
            yield caption, forest(estimates, name, f"{caption}; the table has the numbers")


def _tables(
    report: Report, totals: Mapping[str, Segment], groups: Mapping[str, Sequence[Group]]
) -> Iterator[Table]:
    yield _systems_table(report, totals)
    if report.comparisons:
        yield _comparisons_table(report)
    for grouping, parts in groups.items():
        yield _groups_table(report, grouping, parts)
    if report.apart:
        yield _apart_table(report)


def _systems_table(report: Report, totals: Mapping[str, Segment]) -> Table:
    means = {name: scores.means() for name, scores in report.systems.items()}
    kinds = list(means[report.subject])
    metrics = [name for name in kinds if not name.startswith("judged")]
    coverage = [name for name in kinds if name.startswith("judged")]
    best = {metric: max(values[metric] for values in means.values()) for metric in metrics}
    rows = []
    for name, scores in report.systems.items():
        rows.append(
            [
                Cell.of_text(name),
                *(
                    Cell.of_number(means[name][metric], "best" if means[name][metric] == best[metric] else "")
                    for metric in metrics
                ),
                Cell.of_number(totals[name].low, "soft"),
                Cell.of_number(totals[name].high, "soft"),
                *(Cell.of_share(means[name][metric]) for metric in coverage),
                Cell.of_count(scores.unanswered),
            ]
        )
    heads = ["System", *metrics, f"{report.primary}: 95 % from", "to", *coverage, "unanswered"]
    note = "Means over all judged queries; a query without an answer scores 0. ★ marks the best of a column."
    if coverage:
        note += (
            f" {', '.join(coverage)}: share of the results that somebody judged. The others count as irrelevant, so "
            "a low share makes a system look worse than it may be."
        )
    return Table("Every system and metric", heads, rows, note, report.subject)


def _comparisons_table(report: Report) -> Table:
    rows = []
    for name, test in report.comparisons.items():
        contest = Contest.of(_differences(report, name))
        p_value = "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
        rows.append(
            [
                Cell.of_text(name),
                Cell.of_difference(test.difference, difference_tone(test.low, test.high)),
                Cell.of_difference(test.low, "soft"),
                Cell.of_difference(test.high, "soft"),
                Cell(test.p_value, p_value),
                *(Cell.of_count(count, "") for count in (contest.won, contest.drawn, contest.lost)),
            ]
        )
    confidence = next(iter(report.comparisons.values())).confidence
    heads = ["Against", "difference", f"{100 * confidence:g} % from", "to", "p", "won", "drawn", "lost"]
    note = (
        f"Difference in {report.primary}, {report.subject} minus the other system, over the same queries. An interval "
        "that holds zero: not significantly different. p: paired randomisation test."
    )
    return Table("Differences and their significance", heads, rows, note)


def _groups_table(report: Report, grouping: str, parts: Sequence[Group]) -> Table:
    rows = [
        [
            Cell.of_text(group.name),
            Cell.of_count(group.subject.queries),
            Cell.of_number(group.subject.low, "soft"),
            Cell.of_number(group.subject.high, "soft"),
            *(
                Cell.of_number(mean, "best" if mean == max(group.means.values()) else "")
                for mean in group.means.values()
            ),
        ]
        for group in parts
    ]
    heads = [grouping, "queries", f"{report.subject}: 95 % from", "to", *report.systems]
    note = f"Mean {report.primary}, the largest group first. A group of few queries has no interval."
    return Table(f"{report.primary} by {grouping}", heads, rows, note)


def _apart_table(report: Report) -> Table:
    rows = []
    for by, systems in report.apart.items():
        ours = systems[report.subject]
        total = _total(ours.values[report.primary], by)
        means = [systems[name].means()[report.primary] for name in report.systems]
        rows.append(
            [
                Cell.of_text(by),
                Cell.of_count(total.queries),
                Cell.of_number(total.low, "soft"),
                Cell.of_number(total.high, "soft"),
                *(Cell.of_number(mean, "best" if mean == max(means) else "") for mean in means),
            ]
        )
    heads = ["judged by", "queries", f"{report.subject}: 95 % from", "to", *report.systems]
    note = f"Mean {report.primary} on queries that were judged in another way. They count nowhere else on this page."
    return Table(f"{report.primary} by who judged", heads, rows, note)


def _tasks_table(report: Report) -> Table:
    rows = [
        [
            Cell.of_text(measure.task),
            Cell.of_text(measure.view, "soft"),
            Cell.of_text(measure.metric),
            Cell.of_number(measure.value),
            Cell.of_text(measure.basis, "soft"),
        ]
        for measure in report.tasks
    ]
    note = "The same model on products that training did not see as answers."
    return Table("Other tasks", ["Task", "by", "metric", "value", "over"], rows, note)


def _people_table(report: Report) -> Table:
    rows = [
        [
            Cell.of_text(rating.model),
            Cell.of_text(f"{rating.segment.name} queries", "soft"),
            Cell.of_count(rating.answers),
            Cell.of_count(rating.segment.queries),
            Cell(rating.segment.mean, f"{rating.segment.mean:.2f}"),
            Cell.of_number(rating.segment.low, "soft"),
            Cell.of_number(rating.segment.high, "soft"),
        ]
        for rating in report.ratings
    ]
    heads = ["Model", "segment", "answers", "queries", "rating", "95 % from", "to"]
    note = "Ratings of the survey, 1 to 5. Each query counts once, with the mean of its ratings."
    return Table("What people say", heads, rows, note)


def _differences(report: Report, other: str) -> np.ndarray:
    return differences(*(report.systems[name].values[report.primary] for name in (report.subject, other)))


def _then(parts: Sequence[str]) -> str:
    return f", then its {' and '.join(parts)}" if parts else ""
