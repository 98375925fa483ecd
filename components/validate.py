"""validate: whether the data are fit for training and evaluation."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from catalog import store
from catalog.images import Limits
from catalog.schema import DataError
from components.params import ValidateParams

if TYPE_CHECKING:
    from pandas import DataFrame
    from pyarrow import Table

    from validation.champion_comparison import ChampionComparison
    from validation.expectations import Finding, Inspection


class ValidationFailed(DataError):  # noqa: N818 - reads as what happened
    """Rules of severity "error" failed. The message lists them all, with counts and the first ids.

    Attributes:
        faults: The rules that failed, a line each.
        report: Folder with the report.
    """

    def __init__(self, faults: str, report: Path) -> None:
        from validation.data_page import PAGE

        super().__init__(f"{faults}\nThe full report is {report / PAGE}")
        self.faults, self.report = faults, report


@dataclass(frozen=True)
class Validation:
    """What was checked.

    Attributes:
        inspection: The rules and their findings.
        counts: Rows by table, queries by split, and products by language.
        profile: A sample of the products; None where the data failed before it was drawn.
        query_splits: Of `validation.query_splits.hash_splits`; None in the same case.
        comparison: With the champion; None where there is none, or no profile.
    """

    inspection: "Inspection"
    counts: dict[str, dict[str, int]]
    profile: "Table | None" = None
    query_splits: "Table | None" = None
    comparison: "ChampionComparison | None" = None


def validate(data: Path, params: ValidateParams, report: Path) -> None:
    """Check a data set against the rules of `validation.expectations`.

    Warnings go to stderr, one line each. If the data fail, the same report is left at `NAME-failed`, next to `report`;
    the next success removes it.

    Args:
        data: A data set; see `catalog.schema`.
        params: Limits, allowances and severities; and the name of the model whose champion the data are compared with.
        report: Gets `data.html`, the rules and their results; `report.json`, the same as JSON; `expectations.json`,
            Great Expectations' own results (all three have the same bytes for the same data and champion);
            `data_docs/index.html` if `params.data_docs`; `profile.parquet` and `query_splits.parquet` (the next data
            are compared with them if a model of these data becomes champion), and `champion.html` if there is a
            champion.

    Raises:
        ValidationFailed: where a rule of severity "error" fails.
        DataError: where a table is missing or cannot be read, `params.severity` names an unknown rule, MLflow cannot
            be reached, or the champion's code fails.
    """
    validation = check_data(data, params)
    findings, errors = validation.inspection.findings, validation.inspection.errors
    for finding in findings:
        if finding.count and finding not in errors:
            print(f"validate: warning: {describe_finding(finding)}", file=sys.stderr)
    failed_report = report.with_name(f"{report.name}-failed")
    with store.new_atomic_dir(failed_report if errors else report) as folder:
        write_report(folder, data, params, validation)
    if errors:
        raise ValidationFailed(describe_errors(data, errors), failed_report)
    if failed_report.exists():
        shutil.rmtree(failed_report)


def check_data(data: Path, params: ValidateParams) -> Validation:
    """Check the rules. Those about the champion are checked only if the other rules of severity "error" pass.

    Arguments and errors as for `validate`.
    """
    # Slow to import, and not needed on a machine that only trains.
    from validation import drift
    from validation.champion_comparison import compare_with_champion
    from validation.expectations import Inspection, rules
    from validation.query_splits import hash_splits

    inspection = Inspection(rules(params))
    frames = profile_frames(data, params)
    inspection.check(frames)
    counts: dict[str, dict[str, int]] = {
        name: dict(frames[name].iloc[:, :2].itertuples(index=False))
        for name in ("tables", "splits", "languages")
        if name in frames
    }
    if inspection.errors:  # products may have no ids, and the comparison is slow
        return Validation(inspection, counts)
    profile = drift.profile_products(data, params.compared)
    comparison = compare_with_champion(data, profile, params)
    if comparison:
        inspection.check(comparison.frames())
        _check_moved_queries(inspection, frames["queries"], comparison)
    return Validation(inspection, counts, profile, hash_splits(frames["queries"]), comparison)


def _check_moved_queries(
    inspection: "Inspection", queries: "DataFrame", comparison: "ChampionComparison"
) -> None:
    from validation.query_splits import find_moved

    if comparison.query_splits is None:
        print(
            f"validate: the champion, version {comparison.version}, has no record of its queries' splits; whether a "
            "query moved is not checked",
            file=sys.stderr,
        )
        return
    inspection.check({"champion_queries": find_moved(queries, comparison.query_splits)})


def profile_frames(data: Path, params: ValidateParams) -> "dict[str, DataFrame]":
    """Profile the columns, and if they can be read, the rows and pictures; arguments and errors as for `validate`."""
    from validation import data_profile

    frames = {
        "columns": data_profile.profile_columns(data),
        "unexpected_columns": data_profile.profile_unexpected_columns(data, params.personal),
    }
    readable = frames["columns"].problem.isna().all()
    # With "schema" as a warning, reading raises an error that names the column.
    if readable or params.severity.get("schema") == "warning":
        limits = Limits(params.max_image_bytes, params.max_image_pixels)
        frames |= data_profile.profile_data(data, limits, params.languages)
    return frames


def write_report(folder: Path, data: Path, params: ValidateParams, validation: Validation) -> None:
    """Write all files of the report."""
    from validation.champion_comparison import PAGE as CHAMPION_PAGE
    from validation.champion_comparison import PROFILE
    from validation.data_page import PAGE, render_data_page
    from validation.expectations import RESULTS
    from validation.query_splits import QUERY_SPLITS

    inspection, comparison = validation.inspection, validation.comparison
    if validation.profile:
        pq.write_table(validation.profile, folder / PROFILE)
    if validation.query_splits:
        pq.write_table(validation.query_splits, folder / QUERY_SPLITS)
    if comparison:
        comparison.write(folder / CHAMPION_PAGE, data, params)
    if params.data_docs:
        inspection.write_data_docs(folder / "data_docs")
    inspection.write_results(folder / RESULTS)
    findings = inspection.findings
    content = {
        "data": store.fingerprint(data),
        "counts": validation.counts,
        "champion": comparison.summary() if comparison else None,
        "rules": [finding.to_json() for finding in findings],
        "warnings": sum(not finding.passed for finding in findings if finding.severity == "warning"),
        "passed": not inspection.errors,
    }
    (folder / "report.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    page = render_data_page(findings, validation.counts, data, comparison, params.data_docs)
    (folder / PAGE).write_text(page)


def describe_finding(finding: "Finding") -> str:
    """Describe a finding in one line."""
    share = f"{finding.count:,} of {finding.total:,} ({100 * finding.share:.3g} %)"
    allowed = ", which is allowed" if finding.passed else ""
    examples = ", ".join(finding.examples)
    return f"{finding.rule} ({finding.table}): {finding.requirement}; {share} fail{allowed}: {examples}"


def describe_errors(data: Path, errors: Sequence["Finding"]) -> str:
    """List all rules that failed."""
    lines = [f"{data}: not fit to use, {len(errors)} rule{'s fail' if len(errors) > 1 else ' fails'}:"]
    return "\n".join([*lines, *(f"  {describe_finding(finding)}" for finding in errors)])
