"""The page on an experiment: its content and its tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from vitrine_judge.decision import Decision
from vitrine_judge.online import OnlineResult, OnlineRule, confirm_online
from vitrine_judge.online_plot import plot_online, table_online
from vitrine_judge.pages import Cell, Table, template_environment

from serving.experiment_log import ExperimentLog, Pair
from serving.experiment_outcomes import Outcomes
from serving.shadow_comparison import Comparison

NEXT = {
    "passed": "The result decides: end the experiment (experiment.kind: none), then run python -m registry judge {}.",
    "failed": "The result decides: end the experiment (experiment.kind: none). python -m registry judge {} records it.",
    "undecided": "Go on, and look whenever you like: the interval is valid at any time.",
    "shadow": "A shadow is no evidence of what customers prefer. Ask them: experiment.kind: interleaving.",
}


@dataclass(frozen=True)
class Content:
    """What the page and the terminal show.

    Attributes:
        title: The result in words.
        verdict: Its badge: a verdict, or "shadow".
        text: Sentences on it.
        period: The first and last day.
        tables: All numbers.
        plot: The preference by day; None in a shadow.
    """

    title: str
    verdict: str
    text: str
    period: str
    tables: Sequence[Table]
    plot: Markup | None = None


def describe_preference(pair: Pair, outcomes: Outcomes, result: OnlineResult, rule: OnlineRule) -> Content:
    """What customers prefer, in words, tables and a plot.

    Args:
        pair: The versions.
        outcomes: Of `measure_outcomes`.
        result: Their result.
        rule: Of the gate, or its defaults.
    """
    finding = confirm_online(Decision(()), result, rule).findings[-1]
    decided = result.find_verdict_date(rule.confidence)
    moment = f" The interval left zero on {decided} for the first time." if decided else ""
    tables = [table_online(result, rule.confidence), _table_counts(outcomes.counts)]
    if outcomes.click_through:
        tables.insert(0, _table_click_through(outcomes))
    return Content(
        finding.headline.replace("this version", f"version {pair.challenger}"),
        finding.verdict,
        f"{finding.text}{moment} {NEXT[finding.verdict].format(pair.challenger)}",
        f"{result.days[0].date} to {result.days[-1].date}",
        tables,
        plot_online(result, rule.confidence, rule.min_preference),
    )


def describe_shadow(log: ExperimentLog, comparison: Comparison) -> Content:
    """What the challenger would have shown, in words and a table.

    Args:
        log: Of the shadow.
        comparison: Of its searches.
    """
    times = log.searches["time"].to_pylist()
    return Content(
        f"Version {log.pair.challenger} shows {100 * comparison.overlap:.0f} % of the champion's products",
        "shadow",
        f"Nobody saw the challenger's results. {NEXT['shadow']}",
        f"{times[0]:%Y-%m-%d} to {times[-1]:%Y-%m-%d}",
        [_table_shadow(comparison)],
    )


def render_page(model: str, log: ExperimentLog, content: Content) -> str:
    """The page, as HTML without scripts and requests.

    Args:
        model: Name of the registered model.
        log: Of the experiment.
        content: Of the page.
    """
    environment = template_environment(Path(__file__).parent)
    template = environment.get_template("experiment.html.jinja")
    return template.render(model=model, kind=log.kind, pair=log.pair, content=content)


def _table_counts(counts: dict[str, int]) -> Table:
    rows = [[Cell.of_text(name), Cell.of_count(number)] for name, number in counts.items()]
    note = (
        "A session counts with its first visit, until a pause of 30 minutes, once it is over. Later visits, sessions "
        "of implausibly many searches, and those that saw no difference do not count."
    )
    return Table("What was counted", ["What", "number"], rows, note)


def _table_click_through(outcomes: Outcomes) -> Table:
    rows = [
        [Cell.of_text(arm), Cell.of_count(sessions), Cell.of_share(share)]
        for arm, (sessions, share) in outcomes.click_through.items()
    ]
    return Table("Sessions with a click", ["Arm", "sessions", "with a click"], rows)


def _table_shadow(comparison: Comparison) -> Table:
    both = (
        ("searches without results", comparison.empty_champion, comparison.empty_challenger, Cell.of_share),
        ("latency, median in ms", comparison.ms_champion, comparison.ms_challenger, _cell_of_ms),
        ("latency, 95th percentile in ms", comparison.p95_champion, comparison.p95_challenger, _cell_of_ms),
    )
    answered, blank = round(comparison.searches * (1 - comparison.failed)), Cell.of_text("")
    rows = [
        [Cell.of_text("searches answered"), Cell.of_count(comparison.searches), Cell.of_count(answered)],
        [Cell.of_text("overlap of the lists"), blank, Cell.of_share(comparison.overlap)],
        [Cell.of_text("searches with equal lists"), blank, Cell.of_share(comparison.equal)],
        [
            Cell.of_text("rank correlation of common products"),
            blank,
            Cell.of_number(comparison.rank_correlation),
        ],
        *([Cell.of_text(name), cell(first), cell(second)] for name, first, second, cell in both),
    ]
    note = (
        "Overlap: products that both show, as a share of the longer list. Rank correlation: Spearman's. The champion's "
        "latency is that of the whole request."
    )
    return Table("Champion and challenger", ["What", "champion", "challenger"], rows, note)


def _cell_of_ms(value: float) -> Cell:
    return Cell.of_text("–") if math.isnan(value) else Cell(value, f"{value:,.1f}")
