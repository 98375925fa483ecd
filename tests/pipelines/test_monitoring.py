"""The step `monitor`: a rule that fails ends it, and its message says which and where the page is."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from request_logs import START, search, write_log

from catalog.request_log import SEARCHES
from catalog.schema import DataError
from pipelines.monitoring import require_rules
from serving.monitor.command import EXPERIMENT
from serving.params import LogParams, MonitorParams, ServingParams

if TYPE_CHECKING:
    from mlflow import MlflowClient

SEARCHES_PER_DAY = 60
ROW = {"status": 200, "latency_ms": 20.0, "version": "1", "has_picture": False, "withheld": "log.queries"}


def write_week(log: Path, empty: int) -> None:
    """Write eight days of searches; yesterday, some of them have no results."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = (today - timedelta(days=8) - START) / timedelta(hours=1)
    rows: list[Any] = []
    for day in range(8):
        for number in range(SEARCHES_PER_DAY):
            products = [] if day == 7 and number < empty else ["p0", "p1"]
            hours = first + 24 * day + number / SEARCHES_PER_DAY
            rows.append(search(f"{day}-{number}", None, products, hours, **ROW))
    write_log(str(log), SEARCHES, rows)


@pytest.mark.parametrize(("empty", "problem"), [(0, None), (30, "searches without a result: 50.00 %")])
def test_yesterday_is_compared_with_the_week_before(
    empty: int,
    problem: str | None,
    tiny_data: Path,
    client: "MlflowClient",
    webhook: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`notify` tells the webhook, so the step does not."""
    write_week(tmp_path / "log", empty)
    params = ServingParams(
        log=LogParams(folder=str(tmp_path / "log")), monitor=MonitorParams(min_searches=50)
    )
    message = None
    try:
        require_rules(tiny_data, params, "product-search")
    except DataError as error:
        message = str(error)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None and webhook == []
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["searches"] == SEARCHES_PER_DAY
    assert run.data.metrics["reference/searches"] == 7 * SEARCHES_PER_DAY
    assert "searches without a result" in capsys.readouterr().out
    assert (message is None) == (problem is None)
    assert problem is None or (problem in str(message) and run.info.run_id in str(message))
