"""A whole day: a model is promoted and served, people search and click, and the next candidate learns from them."""

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from chain_fixtures import index_and_evaluate
from service_process import Process

from catalog import store
from catalog.__main__ import main as catalog
from catalog.schema import IMPLICIT
from components.featurize import featurize
from components.params import EvaluateParams, FeaturizeParams, RegisterParams, TrainParams, ValidateParams
from components.register import register
from components.train import train
from components.validate import validate
from registry.__main__ import main as registry
from serving.__main__ import main as serving
from serving.request_log import read_events, read_searches

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
USERS, TOGETHER = 2_000, 8
OPEN = RegisterParams(floors={"ndcg@10": 0.0}, baselines={}, min_queries=2, budgets={})
SAME, SIMILAR, OTHER = (
    0.9,
    0.3,
    0.02,
)  # how attractive a result is: the product in mind, its category, the rest
Product = dict[str, Any]


@pytest.fixture(scope="module")
def products(data: Path) -> list[Product]:
    rows = store.read_table(data, "products", ["product_id", "title", "category"]).to_pylist()
    return [row for row in rows if row["category"]]


def search_and_click(service: Process, user: int, products: list[Product]) -> int:
    """One person has a product in mind, searches by two words of its title, and looks at the results from the top.

    Returns:
        The number of clicks: of the position-based model, with examination 1 / √rank.
    """
    rng = np.random.default_rng(user)
    product = products[rng.integers(len(products))]
    words = {"text": " ".join(product["title"].split()[:2]), "k": 10, "session": f"person {user}"}
    answer = service.search(**words)
    assert answer.status_code == 200, answer.text
    content, categories = answer.json(), {row["product_id"]: row["category"] for row in products}
    clicks = 0
    for rank, result in enumerate(content["results"], 1):
        key = result["product_id"]
        is_similar = categories.get(key) == product["category"]
        attraction = SAME if key == product["product_id"] else SIMILAR if is_similar else OTHER
        if rng.random() < attraction / rank**0.5:
            event = {"request_id": content["request_id"], "product_id": key, "kind": "click"}
            event["session"] = words["session"]
            assert requests.post(f"{service.address}/events", json=event, timeout=60).ok
            clicks += 1
    return clicks


def test_a_day(
    data: Path,
    report: Path,
    features: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    products: list[Product],
    local_store: Callable[[Path], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with local_store(tmp_path):
        register(data, report, model, index, evaluation, OPEN, tmp_path / "first")
        shutil.copy(ROOT / "params.yaml", tmp_path)
        assert registry(["promote", "1"]) == 0

        service = Process(tmp_path)
        service.wait_until_ready()
        try:
            with ThreadPoolExecutor(TOGETHER) as pool:
                clicks = sum(pool.map(lambda user: search_and_click(service, user, products), range(USERS)))
        finally:
            assert service.stop() == 0
        log = tmp_path / "log"
        assert len(read_searches(str(log))) == USERS and len(read_events(str(log))) == clicks > USERS / 2

        words = ["--data", str(data), "--since", "2026-01-01", "--until", "2126-01-01"]
        monkeypatch.setattr(
            sys, "argv", ["serving", "monitor", *words, "--page", str(tmp_path / "monitor.html")]
        )
        serving()
        assert f"{USERS:,}" in (tmp_path / "monitor.html").read_text()

        judged = tmp_path / "data"
        assert catalog(["queries", str(data), "--clicks", str(log), "--out", str(judged)]) == 0
        queries = store.read_table(judged, "queries").to_pylist()
        from_clicks = {row["query_id"] for row in queries if row["judged_by"] == IMPLICIT}
        assert len(from_clicks) > len(products) / 2

        candidate = tmp_path / "candidate"
        candidate.mkdir()
        validate(judged, ValidateParams(), candidate / "report")
        featurize(judged, candidate / "report", FeaturizeParams(), candidate / "features")
        training = pq.read_table(candidate / "features" / "judgements.parquet")
        assert from_clicks & set(training["query_id"].to_pylist())
        settings = TrainParams(epochs=2, dim=16, hidden=16, batch_size=64)
        train(candidate / "features", settings, candidate / "model")
        index_and_evaluate(judged, candidate / "features", candidate / "model", EvaluateParams(), candidate)
        outputs = (candidate / name for name in ("report", "model", "index", "evaluation"))
        register(judged, *outputs, OPEN, candidate / "registration")
        registration = json.loads((candidate / "registration" / "registration.json").read_text())
        assert registration["version"] == "2" and registration["verdict"] in {"passed", "undecided", "failed"}
        page = (candidate / "registration" / "decision.html").read_text()
        assert "champion (version 1)" in page and "ranked and scored again on this data" in page
