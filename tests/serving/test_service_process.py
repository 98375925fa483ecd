"""`python -m serving` as a process, over a registered model: it answers, changes models under load, and ends."""

import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from service_process import SETTINGS, Process
from stub_service import wait_until

from catalog.command import run_command
from fusion.search.hybrid import HYBRID_FILE
from fusion.search.marker import IndexMarker
from registry import mlflow_runs, mlflow_store
from registry.champion_process import CHAMPION
from registry.live_index import INDEX
from registry.model_logging import create_signature, ensure_registered
from registry.model_registry import CHALLENGER
from serving.__main__ import main as serving
from serving.request_log import read_searches
from validation.champion_comparison import PROFILE
from validation.query_splits import QUERY_SPLITS

pytestmark = pytest.mark.slow

NAME = "product-search"
REQUESTS, TOGETHER = 1000, 8


@pytest.fixture(scope="module")
def folder(
    model: Path,
    index: Path,
    evaluation: Path,
    report: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A working directory with a store: two versions of a model over 60 products, no champion."""
    import mlflow

    root = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.chdir(root)
        (root / "mlflow.db").write_bytes(empty_store.read_bytes())
        mlflow.set_tracking_uri(None)
        client = mlflow_store.connect()
        artifacts = {"model": model, "index": index, "hybrid": evaluation / HYBRID_FILE}
        artifacts |= {"profile": report / PROFILE, "query_splits": report / QUERY_SPLITS}
        for number in range(2):
            with mlflow_runs.open_chain_run(f"chain {number}", "training", {}) as run:
                ensure_registered(client, run, artifacts, create_signature(model), NAME, {})
        yield root
        mlflow.set_tracking_uri(None)


def set_champion(version: str) -> None:
    mlflow_store.connect().set_registered_model_alias(NAME, CHAMPION, version)


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Process]:
    """A service of version 1."""
    set_champion("1")
    running = Process(folder)
    running.wait_until_ready()
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_without_a_champion_nothing_is_served(folder: Path) -> None:
    """The first test of the file: later ones make a champion."""
    process = Process(folder)
    assert process.process.wait(60) == 1
    (line, hint) = process.output.read_text().splitlines()
    assert line == f"vitrine: {NAME} has no champion; promote a version: python -m registry promote N"
    assert "--alias challenger" in hint


def test_searches_by_text_picture_and_both(service: Process, png: Callable[..., bytes]) -> None:
    photo = base64.b64encode(png(3)).decode()
    queries = [{"text": "red"}, {"image": photo}, {"text": "red", "image": photo}]
    answers = [service.search(**query, k=60).json()["results"] for query in queries]
    assert [len(results) for results in answers] == [60] * 3
    assert len({tuple(product["score"] for product in results) for results in answers}) == 3
    first = answers[0][0]
    assert {"product_id", "title", "score", "price", "share_text", "share_image"} <= first.keys()
    cheap = service.search(text="red", max_price=20.0, k=60).json()["results"]
    assert cheap and all(product["price"] <= 20 for product in cheap)


def test_similar_products_leave_the_product_itself_out(service: Process) -> None:
    (product,) = service.search(text="red", k=1).json()["results"]
    url = f"{service.address}/similar"
    similar = requests.get(f"{url}/{product['product_id']}", params={"k": 60}, timeout=60).json()["results"]
    assert len(similar) == 59 and product["product_id"] not in {row["product_id"] for row in similar}
    assert requests.get(f"{url}/none", timeout=60).status_code == 404


def test_a_broken_picture_is_named(service: Process) -> None:
    answer = service.search(text="red", image=base64.b64encode(b"no picture").decode())
    assert answer.status_code == 400 and answer.json()["error"].startswith("picture not a JPEG, PNG")


def test_the_model_changes_under_load_without_a_failed_request(service: Process) -> None:
    """A third of the requests are answered when the champion moves; they end when both versions have answered many."""
    versions: Counter[str] = Counter()
    statuses: Counter[int] = Counter()

    def send_queries(worker: int) -> None:
        while statuses.total() < REQUESTS or versions["2"] < 100:
            answer = service.search(text=f"red {worker}", k=3)
            statuses[answer.status_code] += 1
            versions[answer.json().get("version")] += 1
            if statuses.total() > REQUESTS // 3 and not versions["2"]:
                time.sleep(0.1)  # the new worker needs some seconds

    with ThreadPoolExecutor(TOGETHER) as pool:
        senders = [pool.submit(send_queries, worker) for worker in range(TOGETHER)]
        wait_until(lambda: statuses.total() > REQUESTS // 3, 120)
        set_champion("2")
    assert not any(sender.exception() for sender in senders)
    assert statuses.keys() == {200} and statuses.total() >= REQUESTS
    assert versions.keys() == {"1", "2"}


def test_an_index_of_another_model_is_refused_and_the_one_before_stays(
    service: Process, index: Path, folder: Path
) -> None:
    import mlflow

    foreign = folder / "index"
    foreign.mkdir()
    for file in index.iterdir():
        if file.is_file():
            (foreign / file.name).write_bytes(file.read_bytes())
    content = json.loads((foreign / "marker.json").read_text())
    (foreign / "marker.json").write_text(json.dumps(content | {"weights": "0" * 32}))
    assert IndexMarker.load(foreign).model.weights == "0" * 32
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(foreign), "index")
    client = mlflow_store.connect()
    client.set_model_version_tag(NAME, "2", INDEX, f"runs:/{run.info.run_id}/index")
    wait_until(lambda: "does not start" in service.output.read_text(), 60)
    client.delete_model_version_tag(NAME, "2", INDEX)
    assert (
        "MarkerError: another model made this index: the queries are of weights" in service.output.read_text()
    )
    assert "Traceback" not in service.output.read_text()
    assert service.search(text="red").status_code == 200


def test_sigterm_finishes_what_runs_and_writes_the_log(service: Process, folder: Path) -> None:
    logged = Counter(read_searches(str(folder / "log"))["status"].to_pylist())
    assert not logged  # `flush_seconds` is long
    with ThreadPoolExecutor(TOGETHER) as pool:
        running = [pool.submit(service.search, text=f"blue {number}") for number in range(TOGETHER)]
        time.sleep(0.02)
        assert service.stop() == 0
    answers = [future.result() for future in running if not future.exception()]
    assert answers and all(answer.ok for answer in answers)
    rows = read_searches(str(folder / "log"))
    request_ids = set(rows["request_id"].to_pylist())
    assert {answer.json()["request_id"] for answer in answers} <= request_ids
    assert len(rows) > REQUESTS and "Traceback" not in service.output.read_text()


def test_an_ab_test_is_shown_logged_and_recorded_on_the_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_champion("1")
    client = mlflow_store.connect()
    client.set_registered_model_alias(NAME, CHALLENGER, "2")
    settings = f"{SETTINGS.replace('folder: log', 'folder: trial')}experiment: {{kind: ab, share: 1.0}}\n"
    refused = Process(folder, settings=settings)
    assert refused.process.wait(60) == 1
    assert "set the environment variable VITRINE_LOG_KEY to a secret" in refused.output.read_text()

    monkeypatch.setenv("VITRINE_LOG_KEY", "a secret of this test")
    service = Process(folder, settings=settings)
    try:
        service.wait_until_ready()
        metrics = f"{service.address}/metrics"
        wait_until(
            lambda: 'vitrine_model_info{alias="challenger"' in requests.get(metrics, timeout=5).text, 120
        )
        versions: Counter[str] = Counter()
        for number in range(40):
            answer = service.search(text="red", session=f"person {number}", k=3).json()
            versions[answer["version"]] += 1
            event = {"request_id": answer["request_id"], "product_id": answer["results"][0]["product_id"]}
            if answer["version"] == "2":
                sent = requests.post(f"{service.address}/events", json=event | {"kind": "click"}, timeout=60)
                assert sent.status_code == 202
    finally:
        assert service.stop() == 0
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert run_verb("experiment", "--log", str(folder / "trial"), "--until", until) == 0
    assert capsys.readouterr().out.startswith("ab: version 2 against the champion, version 1, ")
    tags = client.get_model_version(NAME, "2").tags
    assert int(tags["vitrine.online.sessions"]) == min(versions.values()) > 10
    assert float(tags["vitrine.online.preference"]) == 1.0 and float(tags["vitrine.online.low"]) > 0


def run_verb(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["serving", *words])
        return run_command(serving)
