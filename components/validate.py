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

if TYPE_CHECKING:
    from components.expectations import Finding


class ValidationFailed(DataError):  # noqa: N818 - reads as what happened
    """Rules of severity "error" are broken. The message lists them all, with counts and the first ids."""


def validate(data: Path, params: ValidateParams, report: Path) -> None:
    """Check a data set against the rules of `components.expectations`.

    Warnings go to stderr, one line each. When the data fails, the same report is left beside `report`, as
    `NAME-failed`; the next success removes it.

    Args:
        data: A data set; see `catalog.schema`.
        params: Limits, allowances and severities; and whose champion looks at the data, too.
        report: Gets `report.json` (the same bytes for the same data and champion), `data_docs/index.html`,
            `profile.parquet` (what the next data are compared with, should a model of these become champion), and
            `champion.html` where there is a champion.

    Raises:
        ValidationFailed: where a rule of severity "error" is broken.
        DataError: where a table is missing or cannot be read, `params.severity` names an unknown rule, MLflow cannot
            be reached, or the champion cannot look at the data.
    """
    # Slow to import, and not needed on a machine that only trains.
    from components import drift, facts
    from components.beside import PAGE, PROFILE, beside_champion
    from components.expectations import Inspection, rules

    inspection = Inspection(rules(params))
    frames = {"columns": facts.columns(data), "strangers": facts.strangers(data, params.personal)}
    if (
        frames["columns"].problem.isna().all() or params.severity.get("schema") == "warning"
    ):  # or reading says why not
        limits = Limits(params.max_image_bytes, params.max_image_pixels)
        frames |= facts.gather(data, limits, params.languages)
    inspection.check(frames)
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
        inspection.write(folder / "data_docs")
        if profile:
            pq.write_table(profile, folder / PROFILE)
        if beside:
            beside.write(folder / PAGE, data, params)
        content = {
            "data": store.fingerprint(data),
            "counts": {
                name: dict(frames[name].itertuples(index=False))
                for name in ("tables", "splits")
                if name in frames
            },
            "champion": beside.summary() if beside else None,
            "rules": [asdict(finding) for finding in inspection.findings],
            "warnings": sum(not f.passed for f in inspection.findings if f.severity == "warning"),
            "passed": not broken,
        }
        (folder / "report.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if broken:
        raise ValidationFailed(message(data, broken, failed))
    if failed.exists():
        shutil.rmtree(failed)


def line(finding: "Finding") -> str:
    """A finding in one line."""
    share = f"{finding.count:,} of {finding.total:,} ({100 * finding.share:.3g} %)"
    within = ", which is allowed" if finding.passed else ""
    examples = ", ".join(finding.examples)
    return f"{finding.rule} ({finding.table}): {finding.says}; {share} break this{within}: {examples}"


def message(data: Path, broken: Sequence["Finding"], failed: Path) -> str:
    """All broken rules at once, and where to read more."""
    rows = [f"{data}: not fit to use, {len(broken)} rule{'s are' if len(broken) > 1 else ' is'} broken:"]
    rows += [f"  {line(finding)}" for finding in broken]
    return "\n".join([*rows, f"The whole report is {failed / 'data_docs' / 'index.html'}"])
