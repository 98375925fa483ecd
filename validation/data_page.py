"""The page data.html: the checked rules, failures first, with thumbnails of the failing products."""

from collections.abc import Sequence
from pathlib import Path

from vitrine_judge.pages import Cell, Table, template_environment

from validation.champion_comparison import ChampionComparison, read_thumbnails
from validation.expectations import Finding

PAGE = "data.html"


def render_data_page(
    findings: Sequence[Finding],
    counts: dict[str, dict[str, int]],
    data: Path,
    comparison: ChampionComparison | None,
    data_docs: bool,
) -> str:
    """Render the page.

    Args:
        findings: In the order of the rules.
        counts: Rows by table, queries by split, and products by language.
        data: The data set, for thumbnails.
        comparison: With the champion, if there is one.
        data_docs: Whether there are Data Docs to link to.
    """
    problems = [finding for finding in findings if finding.count]
    problems.sort(key=lambda finding: (finding.passed, finding.severity == "warning"))  # stable
    product_ids = {product for finding in problems for product in finding.products}
    template = template_environment(Path(__file__).parent).get_template("data.html.jinja")
    return template.render(
        errors=[finding for finding in findings if not finding.passed and finding.severity == "error"],
        problems=problems,
        passed=[finding for finding in findings if not finding.count],
        counts=counts,
        thumbnails=read_thumbnails(data, product_ids),
        comparison=comparison,
        data_docs=data_docs,
        table=_tabulate(findings),
    )


def _tabulate(findings: Sequence[Finding]) -> Table:
    rows = [
        [
            Cell.of_text(finding.rule),
            Cell.of_text("passed" if finding.passed else "failed", "good" if finding.passed else "bad"),
            Cell.of_count(finding.count, "" if finding.passed else "bad"),
            Cell.of_count(finding.total),
            Cell.of_text(finding.requirement),
            Cell.of_text(finding.accepted_values, "soft"),
            Cell.of_text(finding.table, "soft"),
            Cell.of_text(finding.severity, "soft"),
        ]
        for finding in findings
    ]
    heads = [
        "Rule",
        "result",
        "rows that fail",
        "rows",
        "requirement",
        "accepted values",
        "table",
        "severity",
    ]
    return Table("Every rule", heads, rows)
