"""What people are told, and that telling them fails nothing."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import Cluster
from pipelines.notify import notify
from pipelines.training import pipeline
from registry import tracking

PATH = "/services/T0/hunter2"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What a webhook was sent."""
    sent: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if self.path == PATH else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

    one = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    monkeypatch.setenv("VITRINE_WEBHOOK", f"http://127.0.0.1:{one.server_port}{PATH}")
    yield sent
    one.shutdown()
    one.server_close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An MLflow store, by the client of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tracking.connect()


@pytest.mark.parametrize("verdict", ["passed", "failed"])
def test_a_verdict_is_told_with_its_reasons_and_links(verdict: str, webhook: list[Any], store: Any) -> None:
    store.create_registered_model("product-search")
    tags = {
        "vitrine.pipeline.run": "r1",
        "vitrine.gate": verdict,
        "vitrine.reasons": f"Gate {verdict}: ndcg@10 is 3 % better.",
    }
    store.create_model_version("product-search", "file:///m-1", tags=tags)
    notify("SUCCEEDED", "", "r1", "https://kfp.test")
    sentence = f"Vitrine: product-search version 1. Gate {verdict}: ndcg@10 is 3 % better."
    assert webhook == [{"text": f"{sentence}\nhttps://kfp.test/#/runs/details/r1"}]


def test_a_failure_is_told(webhook: list[Any]) -> None:
    notify("FAILED", "train: no judged query", "r1", "")
    assert webhook == [{"text": "Vitrine: run r1 failed: train: no judged query"}]


def test_a_run_without_a_new_version(webhook: list[Any], store: Any) -> None:
    notify("SUCCEEDED", "", "r2", "")
    assert webhook == [{"text": "Vitrine: run r2 is done, and made no new version"}]


def test_an_mlflow_that_is_away(webhook: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    notify("SUCCEEDED", "", "r1", "")
    assert "run r1 is done; MLflow could not be asked for the verdict" in webhook[0]["text"]


def test_without_an_address_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_WEBHOOK", raising=False)
    notify("FAILED", "x", "r1", "")


@pytest.mark.parametrize(
    ("address", "told"), [("http://127.0.0.1:1/hunter2", "cannot be reached"), ("{}/hunter3", "answered 403")]
)
def test_a_broken_webhook_fails_nothing_and_stays_secret(
    address: str,
    told: str,
    webhook: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import os

    monkeypatch.setenv("VITRINE_WEBHOOK", address.format(os.environ["VITRINE_WEBHOOK"].removesuffix(PATH)))
    notify("FAILED", "x", "r1", "")
    said = capsys.readouterr().err
    assert told in said and "hunter" not in said


def test_it_is_off_unless_configured() -> None:
    """And then the last thing that runs, whatever happened."""
    secret = {"name": "webhook", "keys": {"url": "VITRINE_WEBHOOK"}}
    on = Cluster.model_validate({"steps": {"notify": {"secrets": [secret]}}})
    specs = [pipeline(cluster, "abc").pipeline_spec for cluster in (Cluster(), on)]
    assert ["notify" in spec.root.dag.tasks for spec in specs] == [False, True]
    strategy = specs[1].root.dag.tasks["notify"].trigger_policy.strategy
    assert strategy == strategy.__class__(2)  # ALL_UPSTREAM_TASKS_COMPLETED
