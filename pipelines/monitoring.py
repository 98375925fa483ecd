"""The monitor as a step of a pipeline: a rule that fails ends it with a message."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from catalog.schema import DataError
from serving.monitor.command import choose_periods, compose_message, log_report, measure
from serving.monitor.page import describe_verdict, render
from serving.params import ServingParams

LATEST = Namespace(since=None, until=None, reference_since=None, reference_until=None)


def require_rules(data: Path, params: ServingParams, model_name: str) -> None:
    """Compare yesterday's requests with those of the week before, and log figures and page to MLflow.

    The webhook is not told here: the step `notify` tells why a step failed.

    Args:
        data: The data set that is searched.
        params: Sections `log` and `monitor`.
        model_name: Of the registered model.

    Raises:
        DataError: if a rule fails: says which, and where the page is. If the log cannot be read.
    """
    report = measure(data, choose_periods(LATEST, datetime.now(UTC)), params, model_name)
    for verdict in report.verdicts:
        print(f"{verdict.outcome:9}  {describe_verdict(verdict)}")
    ids = log_report(report, render(report, params.monitor), params.monitor)
    if report.failures:
        raise DataError(compose_message(report, ids))
