"""The report and the decision page: one self-contained HTML file each, without requests and scripts.

A report with a review is the decision page of a version; one without compares systems.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import Scores
from vitrine_judge.online_plot import plot_online, table_online
from vitrine_judge.pages import Cell, Table, format_p_value, template_environment
from vitrine_judge.people import Agreement, Rating
from vitrine_judge.plots import Estimate, difference_tone, forest
from vitrine_judge.review import Review
from vitrine_judge.segments import Segment, segment_means
from vitrine_judge.significance import Contest, PairedResult, differences, largest_change

NOTABLE = 0.02  # smaller losses of a score are not mentioned
PLOTTED = 12  # groups in a plot; the table shows all
RIVALS = 3  # systems in the plots by segment


@dataclass(frozen=True)
class Result:
    """One product in a ranking; `grade` is None for an unjudged product, `clip` is an animated picture."""

    title: str
    score: float
    grade: float | None
    picture: bytes | None = None
    clip: bytes | None = None


@dataclass(frozen=True)
class ResultExplanation:
    """Why a result is first: the loss of its score without each part of it, or each word.

    Attributes:
        parts: Part of the result, such as "image" → loss without it.
        query: The words of the query, each with its loss.
        product: The words of the result, likewise.
        entities: Attribute → its values in the query and in the result.
        overlay: The picture of the result, coloured by the effect of each region.
        score: That the losses are of; None if it is the score of the result.
    """

    parts: Mapping[str, float]
    query: Sequence[tuple[str, float]]
    product: Sequence[tuple[str, float]]
    entities: Mapping[str, tuple[str, str]]
    overlay: bytes | None = None
    score: float | None = None

    @property
    def sentences(self) -> list[str]:
        """In sentences: the parts by loss, the most important words of the query, the attributes."""
        parts = [
            name for name, loss in sorted(self.parts.items(), key=lambda part: -part[1]) if loss > NOTABLE
        ]
        words = [word for word, loss in sorted(self.query, key=lambda pair: -pair[1]) if loss > NOTABLE][:3]
        lines = [f"It matches mainly through its {parts[0]}{_list_further(parts[1:])}."] if parts else []
        lines += [f"The words that matter most: {', '.join(f'“{word}”' for word in words)}."] if words else []
        for name, (query, product) in self.entities.items():
            if query == product:
                lines.append(f"Both name the {name} “{query}”.")
            else:
                names = f"names “{product}”" if product else f"names no {name}"
                lines.append(f"The query names the {name} “{query}”; the text of the product {names}.")
        return lines

    @property
    def largest_effect(self) -> float:
        """The largest effect of a word."""
        return max((abs(loss) for _, loss in (*self.query, *self.product)), default=0.0) or 1.0


@dataclass(frozen=True)
class Example:
    """One query and its results.

    Attributes:
        query_id: Of the query.
        lists: System → first results.
        scores: System → primary metric.
        text, picture, segment: Of the query.
        explanation: Of the first result of the subject.
    """

    query_id: str
    lists: Mapping[str, Sequence[Result]]
    scores: Mapping[str, float]
    text: str | None = None
    picture: bytes | None = None
    segment: str | None = None
    explanation: ResultExplanation | None = None


@dataclass(frozen=True)
class Measure:
    """The result of a task other than search.

    Attributes:
        task: Name of the task.
        view: Its input, such as "image".
        metric: Name of the metric.
        value: Of the metric.
        basis: The items that the value is computed on.
    """

    task: str
    view: str
    metric: str
    value: float
    basis: str


@dataclass(frozen=True)
class FrequentQuery:
    """A frequent query, and the primary metric of the subject and of its first rival on it."""

    text: str
    frequency: int
    subject: float
    rival: float


@dataclass(frozen=True, eq=False)
class Report:
    """The content of a page.

    Attributes:
        title: Heading of a page without a review.
        subject: The system under review, a name of `systems`.
        primary: The deciding metric.
        systems: Name → scores, all of the same Q queries, in the order of the page.
        comparisons: Every other system → subject minus that system, on the primary metric.
        segments: Name of a grouping → (Q,) str, the group of each query.
        grades: Grade → name, such as 3 → "exact".
        rivals: The most important other systems; examples compare with the first. By default the best others.
        won, lost: The queries with the largest gain and loss against the first rival; see `most_changed_queries`.
        frequent: The changes on the most frequent queries, where frequencies are known.
        tasks: The results of other tasks.
        ratings, agreements: Survey ratings, and their agreement with `primary`.
        note: A remark at the top of the page.
        judged_by: The source of the judgements of `systems`, such as "human".
        scores_by_judge: Other source of judgements → system → scores on the queries judged by it.
        review: The version to decide on.
        clusters: (Q,) str, equal for queries that hang together; None if all are independent.
        configuration: How grades count, of `MetricConfiguration.describe`.
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
    scores_by_judge: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    review: Review | None = None
    clusters: np.ndarray | None = None
    configuration: str = ""


@dataclass(frozen=True)
class Tile:
    """A short fact on the first screen, and the anchor of the section with the details."""

    name: str
    value: str
    text: str
    anchor: str
    tone: str = ""


def best_other(systems: Mapping[str, Scores], subject: str, metric: str) -> str:
    """The system, other than `subject`, with the highest mean."""
    return _rank_others(systems, subject, metric)[0]


def _rank_others(systems: Mapping[str, Scores], subject: str, metric: str) -> list[str]:
    others = {name: scores.means()[metric] for name, scores in systems.items() if name != subject}
    return sorted(others, key=lambda name: -others[name])


def most_changed_queries(
    subject: Scores, other: Scores, metric: str, groups: np.ndarray, count: int
) -> tuple[list[str], list[str]]:
    """Ids of the queries with the largest gain, and with the largest loss; groups take turns, so that examples vary.

    Equal differences are sorted by the difference over all metrics, then by id. Draws are left out.

    Args:
        subject, other: Scores of the same Q queries.
        metric: The compared metric.
        groups: (Q,) str, the group of each query.
        count: At most this many ids per list.
    """
    gains = {name: differences(subject.values[name], other.values[name]) for name in subject.values}
    overall = sum(gain for name, gain in gains.items() if not name.startswith("judged"))

    def largest_changes(sign: int) -> list[str]:
        gain = sign * gains[metric]
        order = np.lexsort((-sign * np.asarray(overall), -gain))
        order = order[gain[order] > 0]
        counts: Counter[str] = Counter()
        turns = []  # for each query, the number of earlier queries of its group
        for group in groups[order].tolist():
            turns.append(counts[group])
            counts[group] += 1
        return subject.query_ids[order[np.argsort(turns, kind="stable")][:count]].tolist()

    return largest_changes(1), largest_changes(-1)


def render(report: Report) -> str:
    """The page as HTML.

    Raises:
        JudgeError: systems scored on different queries, a missing comparison, an unknown rival, or segments that do not
            match the queries.
    """
    _check(report)
    rivals = list(report.rivals) or _rank_others(report.systems, report.subject, report.primary)[:RIVALS]
    groups = {name: list(_compare_groups(report, rivals, labels)) for name, labels in report.segments.items()}
    totals = {
        name: _total_segment(scores.values[report.primary], clusters=report.clusters)
        for name, scores in report.systems.items()
    }
    return (
        template_environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            review=report.review,
            queries=len(report.systems[report.subject].query_ids),
            rivals=rivals,
            tiles=list(_tiles(report, rivals, totals[report.subject], groups)),
            primary_plot=_primary_plot(report, rivals) if rivals else "",
            online_plot=_online_plot(report.review) if report.review else "",
            systems_plot=_systems_plot(report, totals),
            segment_plots=list(_segment_plots(report, rivals, groups)),
            tables=list(_tables(report, totals, groups)),
            tasks=_tasks_table(report),
            ratings=_ratings_table(report),
            examples=[("with the largest gain", report.won), ("with the largest loss", report.lost)],
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
            f"the rival '{min(unknown)}' has no comparison; known are {', '.join(report.comparisons)}"
        )
    ids = report.systems[report.subject].query_ids
    for name, scores in report.systems.items():
        if not np.array_equal(scores.query_ids, ids):
            raise JudgeError(
                f"'{name}' and '{report.subject}' were scored on different queries; use the same ones"
            )


@dataclass(frozen=True)
class Group:
    """A group of queries: the mean of the subject and of every system, and the differences to the rivals."""

    name: str
    subject: Segment
    means: Mapping[str, float]
    gains: Mapping[str, Segment]


def _compare_groups(report: Report, rivals: Sequence[str], labels: np.ndarray) -> Iterator[Group]:
    """The groups of queries, the largest first. Their names end in "queries": nobody mistakes them for systems."""
    subject_values = report.systems[report.subject].values[report.primary]
    gains = {
        rival: {part.name: part for part in _difference_means(report, rival, labels)} for rival in rivals
    }
    support = (0.0, largest_change(subject_values))
    for part in segment_means(subject_values, labels, support, report.clusters):
        members = labels == part.name
        means = {
            name: float(scores.values[report.primary][members].mean())
            for name, scores in report.systems.items()
        }
        yield Group(f"{part.name} queries", part, means, {rival: gains[rival][part.name] for rival in rivals})


def _difference_means(report: Report, rival: str, labels: np.ndarray) -> Iterator[Segment]:
    """The mean difference to a rival in each group."""
    reach = largest_change(*(report.systems[name].values[report.primary] for name in (report.subject, rival)))
    yield from segment_means(_differences(report, rival), labels, (-reach, reach), report.clusters)


def _total_segment(values: np.ndarray, name: str = "all", clusters: np.ndarray | None = None) -> Segment:
    """All queries as one group."""
    (total,) = segment_means(values, np.full(len(values), name), (0.0, largest_change(values)), clusters)
    return total


def _tiles(
    report: Report, rivals: Sequence[str], total: Segment, groups: Mapping[str, Sequence[Group]]
) -> Iterator[Tile]:
    interval = "" if np.isnan(total.low) else f"95 % interval {total.low:.3f} to {total.high:.3f}"
    yield Tile(f"{report.primary} of {report.subject}", f"{total.mean:.3f}", interval, "systems")
    if rivals:
        contest = Contest.from_differences(_differences(report, rivals[0]))
        changed = f"{contest.won:,} better, {contest.lost:,} worse"
        yield Tile(f"Queries that differ from {rivals[0]}", changed, f"{contest.drawn:,} equal", "examples")
    if worst := _worst_group_tile(rivals, groups):
        yield worst
    if report.frequent:
        changes = [query.subject - query.rival for query in report.frequent]
        better, worse = (sum(sign * change > 0 for change in changes) for sign in (1, -1))
        name = f"The {len(changes)} most frequent queries"
        yield Tile(name, f"{better} better, {worse} worse", f"than {rivals[0]}", "frequent")
    if report.review:
        yield from _cost_tiles(report.review)


def _cost_tiles(review: Review) -> Iterator[Tile]:
    for cost in review.costs:
        if cost.candidate is not None:
            value = f"{cost.candidate:.3g} {cost.unit}"
            comparison = ""
            if cost.champion is not None:
                comparison = f"champion {cost.champion:.3g} {cost.unit}, {cost.change}"
            yield Tile(cost.name, value, comparison, "cost")


def _worst_group_tile(rivals: Sequence[str], groups: Mapping[str, Sequence[Group]]) -> Tile | None:
    """The group with the largest loss against the first rival; without rivals, with the lowest mean."""
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


def _online_plot(review: Review) -> Markup | str:
    if review.online is None:
        return ""
    result, rule = review.online
    return plot_online(result, rule.confidence, rule.min_preference)


def _systems_plot(report: Report, totals: Mapping[str, Segment]) -> Markup:
    estimates = [
        Estimate(name, total.mean, total.low, total.high, "accent" if name == report.subject else "soft")
        for name, total in totals.items()
    ]
    summary = f"Mean {report.primary} of each system; the table shows the numbers"
    return forest(estimates, "systems", summary, signed=False)


def _segment_plots(
    report: Report, rivals: Sequence[str], groups: Mapping[str, Sequence[Group]]
) -> Iterator[tuple[str, Markup]]:
    """A caption and a plot for each grouping of queries and each rival."""
    for grouping, parts in groups.items():
        for number, rival in enumerate(rivals):
            estimates = [
                Estimate(group.name, gain.mean, gain.low, gain.high, difference_tone(gain.low, gain.high))
                for group in parts[:PLOTTED]
                for gain in [group.gains[rival]]
            ]
            name = f"{re.sub('[^a-zA-Z0-9]+', '-', grouping)}-{number}"
            caption = f"{report.subject} minus {rival}, by {grouping}"
            yield caption, forest(estimates, name, f"{caption}; the table shows the numbers")


def _tables(
    report: Report, totals: Mapping[str, Segment], groups: Mapping[str, Sequence[Group]]
) -> Iterator[Table]:
    yield _systems_table(report, totals)
    if report.comparisons:
        yield _comparisons_table(report)
    for grouping, parts in groups.items():
        yield _groups_table(report, grouping, parts)
    if report.scores_by_judge:
        yield _judges_table(report)
    if report.review and report.review.online:
        result, rule = report.review.online
        yield table_online(result, rule.confidence)


def _systems_table(report: Report, totals: Mapping[str, Segment]) -> Table:
    means = {name: scores.means() for name, scores in report.systems.items()}
    names = list(means[report.subject])
    metrics = [name for name in names if not name.startswith("judged")]
    coverage = [name for name in names if name.startswith("judged")]
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
    note = "Means over all judged queries; an unanswered query scores 0. ★ marks the best of a column."
    if coverage:
        note += (
            f" {', '.join(coverage)}: share of judged results. Unjudged results count as irrelevant, so a system with "
            "a low share may be better than its numbers."
        )
    return Table("Every system and metric", heads, rows, note, report.subject)


def _comparisons_table(report: Report) -> Table:
    rows = []
    for name, test in report.comparisons.items():
        contest = Contest.from_differences(_differences(report, name))
        rows.append(
            [
                Cell.of_text(name),
                Cell.of_difference(test.difference, difference_tone(test.low, test.high)),
                Cell.of_difference(test.low, "soft"),
                Cell.of_difference(test.high, "soft"),
                Cell(test.p_value, format_p_value(test.p_value)),
                *(Cell.of_count(count, "") for count in (contest.won, contest.drawn, contest.lost)),
            ]
        )
    confidence = next(iter(report.comparisons.values())).confidence
    heads = ["Against", "difference", f"{100 * confidence:g} % from", "to", "p", "won", "drawn", "lost"]
    note = (
        f"Difference in {report.primary}, {report.subject} minus the other system, over the same queries. If the "
        "interval contains zero, the systems are not significantly different. p: paired test of Gaffke."
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
    note = f"Mean {report.primary}, the largest group first. Small groups have no interval."
    return Table(f"{report.primary} by {grouping}", heads, rows, note)


def _judges_table(report: Report) -> Table:
    rows = []
    for judge, systems in report.scores_by_judge.items():
        subject_scores = systems[report.subject]
        total = _total_segment(subject_scores.values[report.primary], judge)
        means = [systems[name].means()[report.primary] for name in report.systems]
        rows.append(
            [
                Cell.of_text(judge),
                Cell.of_count(total.queries),
                Cell.of_number(total.low, "soft"),
                Cell.of_number(total.high, "soft"),
                *(Cell.of_number(mean, "best" if mean == max(means) else "") for mean in means),
            ]
        )
    heads = ["judged by", "queries", f"{report.subject}: 95 % from", "to", *report.systems]
    note = f"Mean {report.primary} on queries with judgements of another source. The rest of the page leaves them out."
    return Table(f"{report.primary} by source of judgements", heads, rows, note)


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
    note = "The same model on held-out products."
    return Table("Other tasks", ["Task", "by", "metric", "value", "over"], rows, note)


def _ratings_table(report: Report) -> Table:
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
    note = "Survey ratings, 1 to 5. Each query counts once, with the mean of its ratings."
    return Table("Survey ratings", heads, rows, note)


def _differences(report: Report, other: str) -> np.ndarray:
    return differences(*(report.systems[name].values[report.primary] for name in (report.subject, other)))


def _list_further(parts: Sequence[str]) -> str:
    return f", then its {' and '.join(parts)}" if parts else ""
