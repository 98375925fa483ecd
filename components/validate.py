"""The first stage: is the data fit to train and to judge on?"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from catalog import store
from catalog.images import Limits
from catalog.schema import DataError
from components.params import ValidateParams
from eval.pages import Cell, pages
from eval.pages import Table as PageTable

if TYPE_CHECKING:
    from pandas import DataFrame
    from pyarrow import Table

    from validation.champion_comparison import Beside
    from validation.expectations import Finding, Inspection

PAGE = "data.html"


class ValidationFailed(DataError):  # noqa: N818 - reads as what happened
    """Rules of severity "error" are broken. The message lists them all, with counts and the first ids."""


def validate(data: Path, params: ValidateParams, report: Path) -> None:
    """Check a data set against the rules of `validation.expectations`.

    Warnings go to stderr, one line each. When the data fails, the same report is left beside `report`, as
    `NAME-failed`; the next success removes it.

    Args:
        data: A data set; see `catalog.schema`.
        params: Limits, allowances and severities; and whose champion looks at the data, too.
        report: Gets `data.html`, what was checked and what came out; `report.json`, the same for programs;
            `expectations.json`, Great Expectations' own results (all three the same bytes for the same data and
            champion); `data_docs/index.html` if `params.data_docs`; `profile.parquet` (what the next data are compared
            with, should a model of these become champion), and `champion.html` where there is a champion.

    Raises:
        ValidationFailed: where a rule of severity "error" is broken.
        DataError: where a table is missing or cannot be read, `params.severity` names an unknown rule, MLflow cannot
            be reached, or the champion cannot look at the data.
    """
    # Slow to import, and not needed on a machine that only trains.
    from validation import drift
    from validation.champion_comparison import beside_champion
    from validation.expectations import Inspection, rules

    inspection = Inspection(rules(params))
    frames = _check_facts(inspection, data, params)
    profile, beside = None, None
    if not inspection.broken:  # else it may have no ids, and the champion takes a while
        profile = drift.profile(data, params.compared)
        if beside := beside_champion(data, profile, params):
            inspection.check(beside.frames())
    broken = inspection.broken
    for finding in inspection.findings:
        if finding.count and finding not in broken:
            print(f"validate: warning: {line(finding)}", file=sys.stderr)

    failed = report.with_name(f"{report.name}-failed")
    with store.fresh(failed if broken else report) as folder:
        _write(folder, data, params, inspection, frames, profile, beside)
    if broken:
        raise ValidationFailed(message(data, broken, failed))
    if failed.exists():
        shutil.rmtree(failed)


def _check_facts(inspection: "Inspection", data: Path, params: ValidateParams) -> "dict[str, DataFrame]":
    """Gather the facts of a data set and check them: all of them, unless its columns cannot be read."""
    from validation import data_profile

    frames = {
        "columns": data_profile.columns(data),
        "unexpected_columns": data_profile.unexpected_columns(data, params.personal),
    }
    if (
        frames["columns"].problem.isna().all() or params.severity.get("schema") == "warning"
    ):  # or reading says why not
        limits = Limits(params.max_image_bytes, params.max_image_pixels)
        frames |= data_profile.gather(data, limits, params.languages)
    inspection.check(frames)
    return frames


def _write(
    folder: Path,
    data: Path,
    params: ValidateParams,
    inspection: "Inspection",
    frames: "dict[str, DataFrame]",
    profile: "Table | None",
    beside: "Beside | None",
) -> None:
    """All that the stage leaves."""
    from validation.champion_comparison import PAGE as CHAMPION_PAGE
    from validation.champion_comparison import PROFILE
    from validation.expectations import RESULTS

    if profile:
        pq.write_table(profile, folder / PROFILE)
    if beside:
        beside.write(folder / CHAMPION_PAGE, data, params)
    if params.data_docs:
        inspection.write_data_docs(folder / "data_docs")
    inspection.write_results(folder / RESULTS)
    findings = inspection.findings
    counts: dict[str, dict[str, int]] = {
        name: dict(frames[name].itertuples(index=False)) for name in ("tables", "splits") if name in frames
    }
    content = {
        "data": store.fingerprint(data),
        "counts": counts,
        "champion": beside.summary() if beside else None,
        "rules": [asdict(finding) for finding in findings],
        "warnings": sum(not finding.passed for finding in findings if finding.severity == "warning"),
        "passed": not inspection.broken,
    }
    (folder / "report.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (folder / PAGE).write_text(render(inspection, counts, data, beside, params.data_docs))


def render(
    inspection: "Inspection",
    counts: dict[str, dict[str, int]],
    data: Path,
    beside: "Beside | None",
    data_docs: bool,
) -> str:
    """The page data.html: what was checked, the worst first, with pictures of the products at fault.

    Args:
        inspection: With its findings.
        counts: Rows by table, and queries by split.
        data: The data set, which has the pictures.
        beside: What the champion says of the data.
        data_docs: Whether there are Data Docs to link to.
    """
    from validation.champion_comparison import read_thumbnails

    findings = inspection.findings
    problems = [finding for finding in findings if finding.count]
    problems.sort(key=lambda finding: (finding.passed, finding.severity == "warning"))  # stable
    ids = {product for finding in problems for product in finding.products}
    page = pages(Path(__file__).parent).get_template("data.html.jinja")
    return page.render(
        failed=inspection.broken,
        problems=problems,
        passed=[finding for finding in findings if not finding.count],
        counts=counts,
        thumbnails=read_thumbnails(data, ids),
        beside=beside,
        data_docs=data_docs,
        table=_rules_table(findings),
    )


def _rules_table(findings: Sequence["Finding"]) -> PageTable:
    rows = [
        [
            Cell.of_text(finding.rule),
            Cell.of_text("passed" if finding.passed else "failed", "good" if finding.passed else "bad"),
            Cell.of_count(finding.count, "" if finding.passed else "bad"),
            Cell.of_count(finding.total),
            Cell.of_text(finding.says),
            Cell.of_text(finding.expected, "soft"),
            Cell.of_text(finding.table, "soft"),
            Cell.of_text(finding.severity, "soft"),
        ]
        for finding in findings
    ]
    heads = ["Rule", "result", "rows that fail", "rows", "meaning", "expected", "of", "severity"]
    return PageTable("Every rule", heads, rows)


def line(finding: "Finding") -> str:
    """A finding in one line."""
    share = f"{finding.count:,} of {finding.total:,} ({100 * finding.share:.3g} %)"
    within = ", which is allowed" if finding.passed else ""
    examples = ", ".join(finding.examples)
    return f"{finding.rule} ({finding.table}): {finding.says}; {share} fail{within}: {examples}"


def message(data: Path, broken: Sequence["Finding"], failed: Path) -> str:
    """All broken rules at once, and where to read more."""
    rows = [f"{data}: not fit to use, {len(broken)} rule{'s are' if len(broken) > 1 else ' is'} broken:"]
    rows += [f"  {line(finding)}" for finding in broken]
    return "\n".join([*rows, f"The whole report is {failed / PAGE}"])
