"""`python -m serving monitor`: writes the page, logs to MLflow, tells the webhook; exit code 1 where a rule fails."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from catalog import store
from catalog.request_log import LogFolder
from catalog.schema import DataError
from catalog.threads import limit_threads
from components.params import RegisterParams, load_section
from registry import champion_process, mlflow_urls
from registry.mlflow_runs import log_period
from registry.webhook import post_message
from serving.log_files import clean_log
from serving.monitor.aggregation import LANGUAGE, Period, aggregate
from serving.monitor.figures import list_metrics
from serving.monitor.histograms import Totals, latency_bins
from serving.monitor.page import PAGE, Report, describe_verdict, render
from serving.monitor.query_drift import QueryDrift, add_languages, embed_samples, measure_query_drift
from serving.monitor.rules import judge_period, measure_low_scores
from serving.params import MonitorParams, ServingParams, load_serving_params

EXPERIMENT = "vitrine-monitor"
DAY = timedelta(days=1)
REFERENCE_DAYS = 7  # before the period, so that each weekday is in it


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        DataError: as `measure`.
        SystemExit: with code 1, where a rule fails.
    """
    limit_threads()
    report = _monitor(_build_parser().parse_args(argv))
    if report.failures:
        sys.exit(1)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving monitor",
        description="Compare a period of the request log with an earlier one.",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the data set that is searched"
    )
    parser.add_argument("--since", metavar="TIME", help="start, such as 2026-11-28 or 2026-11-28T12:00, UTC")
    parser.add_argument("--until", metavar="TIME", help="end; default: the start of today")
    parser.add_argument("--reference-since", metavar="TIME", help="default: seven days before the period")
    parser.add_argument("--reference-until", metavar="TIME", help="default: the start of the period")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    parser.add_argument("--settings", type=Path, default=Path("serving.yaml"), metavar="FILE")
    parser.add_argument(
        "--page", type=Path, default=Path("artifacts") / PAGE, metavar="FILE", help="default %(default)s"
    )
    return parser


def _monitor(arguments: argparse.Namespace) -> Report:
    params = load_serving_params(arguments.settings)
    model = cast(RegisterParams, load_section(arguments.params, "register")).model_name
    periods = choose_periods(arguments, datetime.now(UTC))
    report = measure(arguments.data, periods, params, model)
    page = render(report, params.monitor)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(page)
    for verdict in report.verdicts:
        print(f"{verdict.outcome:9}  {describe_verdict(verdict)}")
    print(f"page: {arguments.page}")
    ids = log_report(report, page, params.monitor)
    if report.failures:
        post_message(compose_message(report, ids), "monitor")
    return report


def choose_periods(arguments: argparse.Namespace, now: datetime) -> tuple[Period, Period]:
    """The reference period and the period, from the options.

    Raises:
        DataError: for what is no time, or an end before its start.
    """
    until = _read_time(arguments, "until") or now.replace(hour=0, minute=0, second=0, microsecond=0)
    since = _read_time(arguments, "since") or until - DAY
    reference_until = _read_time(arguments, "reference_until") or since
    reference_since = _read_time(arguments, "reference_since") or reference_until - REFERENCE_DAYS * DAY
    periods = Period(reference_since, reference_until), Period(since, until)
    for period in periods:
        if period.since >= period.until:
            raise DataError(f"{period}: the period ends before it starts; give --since and --until")
    return periods


def _read_time(arguments: argparse.Namespace, name: str) -> datetime | None:
    text = getattr(arguments, name)
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"--{name.replace('_', '-')} {text}: not a time; write it like 2026-11-28 or 2026-11-28T12:00"
        ) from error
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def measure(data: Path, periods: tuple[Period, Period], params: ServingParams, model: str) -> Report:
    """Read both periods and judge the second; also deletes files older than `log.retention_days`.

    Args:
        data: The data set that is searched.
        periods: Reference period and period.
        params: All sections of serving.yaml.
        model: Name of the registered model, whose champion embeds queries.

    Raises:
        DataError: if there is no log, or it cannot be read.
    """
    if params.log.folder is None:
        raise DataError("log.folder of serving.yaml is null, so the service keeps no log; set it first")
    log = LogFolder.open(params.log.folder)
    clean_log(log, params.log.retention_days, datetime.now(UTC))
    products = store.read_table(data, "products", ["product_id"])["product_id"].combine_chunks()
    reference, current = (aggregate(log, period, products, params.monitor.compared) for period in periods)
    if not reference.totals.searches + current.totals.searches:
        raise DataError(
            f"{log.address}: no searches in {periods[0]} or {periods[1]} UTC; check log.folder and --since"
        )
    samples = add_languages(reference.sample, current.sample)
    drifts, notes = _measure_drifts(samples, model)
    verdicts = judge_period(reference, current, drifts, params.monitor)
    first, second = (_count_languages(sample) for sample in samples)
    return Report(model, reference, current, verdicts, drifts, (first, second), notes)


def _measure_drifts(samples: tuple[pa.Table, pa.Table], model: str) -> tuple[list[QueryDrift], list[str]]:
    """The drift of queries, and why some of it could not be measured."""
    if not all(sample["text"].null_count < len(sample) for sample in samples):
        note = (
            "A period has no texts (log.queries: hash, or no searches): no drift of languages and embeddings."
        )
        return measure_query_drift(*samples, None), [note]
    version = champion_process.find_version(model)
    if version is None:
        note = f"{model} has no champion: no drift of embeddings."
        return measure_query_drift(*samples, None), [note]
    with tempfile.TemporaryDirectory() as folder:
        package = champion_process.download_model(version, Path(folder))
        vectors = embed_samples(package, *samples)
    note = f"Queries are embedded by version {version.version}."
    return measure_query_drift(*samples, vectors), [note]


def _count_languages(sample: pa.Table) -> dict[str, Totals]:
    """Language → its searches of a sample."""
    languages = np.array(sample[LANGUAGE].fill_null("").to_pylist(), str)
    results, is_clicked = sample["results"].to_numpy(), sample["clicked"].to_numpy()
    bins = latency_bins(np.nan_to_num(sample["latency_ms"].to_numpy().astype(float)))
    totals: dict[str, Totals] = {}
    for language in sorted(set(languages.tolist()) - {""}):
        part = languages == language
        totals[language] = Totals()
        totals[language].add(np.full(part.sum(), 200), results[part], is_clicked[part], bins[part])
    return totals


def log_report(report: Report, page: str, params: MonitorParams) -> tuple[str, str]:
    """Log figures, drift and page to the period's run in MLflow; the ids of experiment and run."""
    metrics = list_metrics(report.current)
    metrics |= {f"reference/{name}": value for name, value in list_metrics(report.reference).items()}
    metrics |= {f"drift/{item.drift.name.replace(' ', '_')}": item.index.value for item in report.drifts}
    low, scored = measure_low_scores(report.reference, report.current, params.min_searches)
    if scored:
        metrics["low_score_share"] = low.value
    metrics["failed_rules"] = len(report.failures)
    tags = {
        "vitrine.reference": str(report.reference.period),
        "vitrine.verdict": report.outcome,
        "vitrine.reasons": "\n".join(map(describe_verdict, report.failures)),
        "vitrine.versions": ", ".join(sorted(report.current.top_scores)),
    }
    return log_period(EXPERIMENT, report.current.period, metrics, tags, {PAGE: page})


def compose_message(report: Report, ids: tuple[str, str]) -> str:
    """The message for the webhook: which rules fail, and where the page is."""
    failures = report.failures
    first = f"Vitrine: {len(failures)} of {len(report.verdicts)} rules fail for searches of {report.current.period} UTC"
    lines = [describe_verdict(verdict) for verdict in failures]
    return "\n".join([first, *lines, mlflow_urls.artifact_url(*ids, PAGE)])
