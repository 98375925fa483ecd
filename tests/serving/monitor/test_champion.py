"""The champion embeds the queries of a log, with the code it was registered with."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from request_logs import START, search, write_log

from catalog.request_log import SEARCHES
from registry import mlflow_store
from serving.monitor.command import EXPERIMENT, main

ROOT = Path(__file__).parents[3]
SHIRTS = ["red shirt", "blue shirt", "green shirt", "black shirt", "navy shirt"]
OTHERS = ["wooden table", "garden chair", "oak shelf", "steel lamp", "glass vase"]


@pytest.mark.slow
def test_queries_of_another_kind_are_drift(
    data: Path,
    local_store: Callable[[Path], AbstractContextManager[None]],
    two_versions: Callable[[Path], None],
    warm_start: None,
    tmp_path: Path,
) -> None:
    rows = []
    for number in range(400):
        text = (SHIRTS if number < 200 else OTHERS)[number % 5]
        row = {"status": 200, "latency_ms": 10.0, "version": "1", "characters": len(text), "words": 2}
        rows.append(search(f"r{number}", text, ["p1"], 24 * (number // 200) + number % 24, **row))
    write_log(str(tmp_path / "log"), SEARCHES, rows)
    settings = f"log: {{folder: {tmp_path / 'log'}, retention_days: 36500}}\nmonitor: {{min_searches: 100}}\n"
    (tmp_path / "serving.yaml").write_text(settings)
    with local_store(tmp_path):
        two_versions(tmp_path)
        words = ["--data", str(data), "--params", str(ROOT / "params.yaml"), "--until", "2026-11-29"]
        with pytest.raises(SystemExit) as end:
            main([*words, "--since", f"{START.replace(day=28):%Y-%m-%d}"])
        client = mlflow_store.connect()
        (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert end.value.code == 1
    assert run.data.metrics["drift/embeddings"] > 1
    assert "drift of embeddings" in run.data.tags["vitrine.reasons"]
    assert "Queries are embedded by version 1." in (tmp_path / "artifacts/monitor.html").read_text()
