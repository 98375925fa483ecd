"""The service, over a real worker process whose model is a stub: every status, overload, crashes, changes, the end."""

import base64
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from stub_service import JSON, StubService, run_service, wait_until

from catalog.schema import DataError
from fusion.search.filters import FILTERS
from registry.local_stack import find_free_port
from serving.messages import Filters
from serving.params import ServiceParams
from serving.request_log import Event, Search
from serving.service import listen

PARAMS = ServiceParams(
    body_mb=0.01, max_k=20, waiting=20, timeout_seconds=15, drain_seconds=5, poll_seconds=0.05
)
REQUEST_ID = "0123456789abcdef" * 2


class ListLog:
    """A log that keeps its entries in memory."""

    def __init__(self) -> None:
        self.entries: list[Search | Event] = []

    def add(self, entry: Search | Event) -> None:
        self.entries.append(entry)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubService]:
    with run_service(tmp_path_factory.mktemp("service"), PARAMS, ListLog()) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StubService]]:
    """Start a service of this test alone, with other parameters."""
    contexts = []

    def run(**params: Any) -> StubService:
        context = run_service(tmp_path, PARAMS.model_copy(update=params))
        contexts.append(context)
        return context.__enter__()

    yield run
    for context in contexts:
        context.__exit__(None, None, None)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_an_answer_has_results_and_what_made_them(service: StubService) -> None:
    answer = service.search("red mug", k=2, filters={"color": ["red"]}, max_price=30)
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "application/json"
    content = answer.json()
    assert re.fullmatch("[0-9a-f]{32}", content["request_id"])
    assert answer.headers["X-Request-ID"] == content["request_id"]
    assert (content["version"], content["index"]) == ("1", "data1")
    assert [product["product_id"] for product in content["results"]] == ["p0", "p1"]
    expected = {"k": 2, "filters": {"color": ["red"]}, "min_price": None, "max_price": 30.0}
    assert content["results"][0]["title"] == str(expected | {"available": False, "collapse": False})


def test_a_picture_arrives_as_it_was_sent(service: StubService) -> None:
    assert service.post("/search", {"image": b64(bytes(range(256)))}).status_code == 200
    answer = service.post("/search", {"text": "red", "image": b64(b"broken")})
    assert (answer.status_code, answer.json()["error"]) == (400, "picture not a JPEG, PNG picture")


def test_the_filters_are_those_of_the_model() -> None:
    assert tuple(Filters.model_fields) == FILTERS


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b'{"text": "red"', 400, "the body is not JSON"),
        (b"\xff", 400, "There was an error parsing the body"),
        (b"[" * 5000, 400, "There was an error parsing the body"),
        (b"", 422, "Field required"),
        (b"[1]", 422, "Input should be a valid dictionary or object to extract fields from"),
        ({}, 422, "give `text`, `image` (base64) or both"),
        ({"text": " \n"}, 422, "give `text`, `image` (base64) or both"),
        ({"text": 5}, 422, "text: Input should be a valid string"),
        ({"text": "x" * 2001}, 422, "text: String should have at most 2000 characters"),
        (b'{"text": "\\ud800"}', 422, "text: Input should be a valid string"),
        ({"text": "red", "K": 5}, 422, "K: unknown field"),
        ({"text": "red", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"text": "red", "k": 21}, 422, "k: Input should be less than or equal to 20"),
        ({"text": "red", "k": 2.5}, 422, "k: Input should be a valid integer"),
        ({"text": "red", "filters": {"size": ["XL"]}}, 422, "filters.size: unknown field"),
        ({"text": "red", "filters": {"color": "red"}}, 422, "filters.color: Input should be a valid list"),
        ({"text": "red", "min_price": -1}, 422, "min_price: Input should be greater than or equal to 0"),
        (b'{"text": "red", "min_price": NaN}', 422, "min_price: Input should be a finite number"),
        ({"text": "red", "min_price": 5, "max_price": 4}, 422, "give min_price ≤ max_price"),
        ({"image": "abc"}, 422, "image: not base64 (Incorrect padding)"),
        ({"image": "é"}, 422, "image: not base64 ("),
        ({"image": 5}, 422, "image: give a picture as a text in base64"),
    ],
)
def test_a_bad_search_says_what_is_wrong(service: StubService, body: Any, status: int, problem: str) -> None:
    answer = service.post("/search", body)
    content = answer.json()
    assert (answer.status_code, content["error"][: len(problem)]) == (status, problem)
    assert content["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_another_content_type_is_415(service: StubService, kind: str) -> None:
    url = f"{service.address}/search"
    answer = requests.post(url, data=b'{"text": "red"}', headers={"Content-Type": kind}, timeout=5)
    assert answer.status_code == 415 and "Content-Type: application/json" in answer.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_413_also_without_its_length(service: StubService, chunked: bool) -> None:
    body = json.dumps({"text": "red", "image": "A" * 20_000}).encode()
    parts = (body[start : start + 4000] for start in range(0, len(body), 4000))
    url = f"{service.address}/search"
    answer = requests.post(url, data=parts if chunked else body, headers=JSON, timeout=5)
    assert (answer.status_code, answer.json()["error"]) == (413, "the body is larger than 0.01 MB")


def test_a_body_that_does_not_arrive_is_408(start: Callable[..., StubService]) -> None:
    service = start(timeout_seconds=0.5)
    address = service.address.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=5) as connection:
        head = (
            "POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        connection.sendall(head.encode())
        answer = ""
        while "}" not in answer:
            answer += connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 408 ") and "the body did not arrive within 0.5 s" in answer


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/similar/p0", 200, ""),
        ("/similar/p0?k=3&color=red&color=blue&available=true&min_price=2", 200, ""),
        ("/similar/none", 404, "no product 'none' in the index"),
        ("/similar/a/b%2Fc", 404, "no product 'a/b/c' in the index"),
        ("/similar/p0?k=0", 422, "k: Input should be greater than or equal to 1"),
        ("/similar/p0?size=XL", 422, "size: unknown field"),
        ("/similar/p0?min_price=2&max_price=1", 422, "give min_price ≤ max_price"),
        ("/none", 404, "Not Found"),
        ("/search", 405, "Method Not Allowed"),
        ("/docs", 404, "Not Found"),
    ],
)
def test_requests_without_a_body(service: StubService, path: str, status: int, problem: str) -> None:
    answer = service.get(path)
    assert (answer.status_code, answer.json().get("error", "")) == (status, problem)


def test_a_model_that_fails_spoils_no_other_search(service: StubService) -> None:
    """The worker encodes these together, as they wait while it sleeps."""
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(service.search, "sleep 0.2")
        time.sleep(0.1)
        failing, other = pool.submit(service.search, "fail now"), pool.submit(service.search, "red")
    assert (first.result().status_code, other.result().status_code) == (200, 200)
    assert failing.result().status_code == 500
    assert failing.result().json()["error"] == "the model failed; see the service's log"


def test_more_requests_than_may_wait_get_503_at_once(start: Callable[..., StubService]) -> None:
    service = start(waiting=2)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(service.search, "sleep 1") for _ in range(2)]
        wait_until(lambda: service.read_metric("vitrine_waiting_requests") == 2)
        start_time = time.monotonic()
        answer = service.search("red")
        assert time.monotonic() - start_time < 0.9
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"] == "2 requests wait already; try again soon"
    assert [future.result().status_code for future in waiting] == [200, 200]
    assert service.search("red").status_code == 200


def test_a_search_that_takes_too_long_leaves_no_work_behind(start: Callable[..., StubService]) -> None:
    """Its worker, which answers nothing for so long, is replaced."""
    service = start(timeout_seconds=0.5)
    answer = service.search("sleep 60")
    assert (answer.status_code, answer.json()["error"]) == (504, "no answer in time; try again later")
    wait_until(service.is_ready)
    wait_until(lambda: service.search("red").ok)


def test_a_worker_that_ends_is_replaced(service: StubService) -> None:
    wait_until(service.is_ready)
    ended = service.read_metric("vitrine_worker_events_total", alias="champion", event="ended")
    answer = service.search("exit 1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    wait_until(service.is_ready)
    assert service.search("red").status_code == 200
    assert service.read_metric("vitrine_worker_events_total", alias="champion", event="ended") == ended + 1


def test_searches_and_events_are_logged(service: StubService) -> None:
    wait_until(service.is_ready)
    service.log.entries.clear()
    answer = service.search("red", k=2, session="s1", filters={"brand": ["Acme"]}).json()
    service.post("/search", {"text": "red", "image": b64(b"broken")})
    event = {"request_id": answer["request_id"], "product_id": "p1", "kind": "cart", "session": "s1"}
    receipt = service.post("/events", event)
    assert (receipt.status_code, receipt.json()["kept"]) == (202, True)
    good, bad, kept = service.log.entries
    assert (good.request_id, good.session, good.text, good.k) == (answer["request_id"], "s1", "red", 2)
    assert json.loads(good.filters) == {"filters": {"brand": ["Acme"]}}
    assert (good.version, good.index, good.status, good.unknown_tokens) == ("1", "data1", 200, 0.25)
    assert [tuple(result) for result in good.results] == [("p0", 1.0, "1"), ("p1", 0.5, "1")]
    assert good.latency_ms > 0 and not good.has_picture
    assert (bad.status, bad.has_picture, list(bad.results)) == (400, True, [])
    assert (kept.request_id, kept.product_id, kept.kind) == (good.request_id, "p1", "cart")


def test_the_parts_of_an_answer_do_not_wait_for_each_other() -> None:
    """Without TCP_NODELAY, each answer would take 40 ms more: its second part waits for an acknowledgement."""
    port = find_free_port()
    with (
        listen(ServiceParams(host="127.0.0.1", port=port)) as listener,
        socket.create_connection(("127.0.0.1", port)),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_event_is_small(service: StubService) -> None:
    event = {"request_id": REQUEST_ID, "product_id": "x" * 60_000, "kind": "click"}
    assert service.post("/events", event).status_code == 413


@pytest.mark.parametrize(
    "event", [{"kind": "view"}, {"request_id": "x"}, {"product_id": ""}, {"position": 1}]
)
def test_a_bad_event_is_422(service: StubService, event: dict[str, Any]) -> None:
    good = {"request_id": REQUEST_ID, "product_id": "p1", "kind": "click"}
    assert service.post("/events", good | event).status_code == 422


def test_metrics_count_by_route_and_status(service: StubService) -> None:
    wait_until(service.is_ready)
    labels = {"route": "/search", "status": "200"}
    before = service.read_metric("vitrine_requests_total", **labels)
    assert service.search("nothing").json()["results"] == []
    # a request is counted when its answer has been sent, so the sender may be faster
    wait_until(lambda: service.read_metric("vitrine_requests_total", **labels) > before)
    service.get("/similar/p7"), service.get("/x"), service.get("/y")
    similar = {"route": "/similar/{product_id}", "status": "404"}
    wait_until(lambda: service.read_metric("vitrine_requests_total", **similar) > 0)
    wait_until(lambda: service.read_metric("vitrine_requests_total", route="other", status="404") > 0)
    text = service.get("/metrics").text
    assert 'vitrine_requests_total{route="/similar/{product_id}",status="404"}' in text
    assert 'route="other",status="404"' in text and 'route="/x"' not in text
    info = 'vitrine_model_info{alias="champion",index="data1",version="1",weights="weights1"} 1.0'
    assert info in text
    assert re.search("vitrine_empty_results_total [1-9]", text)
    assert 'vitrine_unknown_token_share_bucket{le="0.2"} 0.0' in text


def test_another_version_answers_without_a_failed_request(start: Callable[..., StubService]) -> None:
    service = start()
    versions: Counter[str] = Counter()
    failures: list[str] = []
    stopped = threading.Event()

    def send() -> None:
        while not stopped.is_set():
            answer = service.search("sleep 0.002")
            if answer.ok:
                versions[answer.json()["version"]] += 1
            else:
                failures.append(answer.text)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in ("2", "3"):
        time.sleep(0.1)
        service.live = version
        wait_until(lambda: versions[service.live] > 20)
    stopped.set()
    for thread in threads:
        thread.join()
    assert not failures and versions.keys() == {"1", "2", "3"}
    assert 'version="3"' in service.get("/metrics").text and 'version="2"' not in service.get("/metrics").text


def test_the_files_of_a_version_stay_until_it_has_answered(start: Callable[..., StubService]) -> None:
    service = start()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(service.search, "sleep 3")
        wait_until(lambda: service.read_metric("vitrine_waiting_requests") == 1)
        service.live = "2"
        wait_until(lambda: service.search("red").json()["version"] == "2")
        wait_until(lambda: service.kept == ["1", "2"])
        assert running.result(1).json()["version"] == "1"


def test_a_version_that_does_not_start_leaves_the_one_before(start: Callable[..., StubService]) -> None:
    service = start()
    service.live = "refused"
    wait_until(
        lambda: service.read_metric("vitrine_worker_events_total", alias="champion", event="failed") >= 2
    )
    assert service.search("red").json()["version"] == "1"
    service.search("exit 1")
    wait_until(service.is_ready)
    assert service.search("red").json()["version"] == "1"
    service.live = "2"
    wait_until(lambda: service.search("red").json().get("version") == "2")


@pytest.mark.parametrize("live", [DataError("MLflow cannot be reached"), None])
def test_the_model_stays_while_nothing_can_be_read(
    start: Callable[..., StubService], live: DataError | None, caplog: pytest.LogCaptureFixture
) -> None:
    service = start()
    service.live = live
    wait_until(lambda: len(caplog.messages) > 0)
    time.sleep(0.2)
    assert service.search("red").status_code == 200
    assert len(caplog.messages) == 1 and "the model stays" in caplog.text  # not one message each time
    service.live = "2"
    wait_until(lambda: service.search("red").json()["version"] == "2")


def test_the_end_waits_for_the_requests_that_run(start: Callable[..., StubService]) -> None:
    service = start()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(service.search, "sleep 0.5")
        wait_until(lambda: service.read_metric("vitrine_waiting_requests") == 1)
        service.stop()
        assert running.result().status_code == 200
    with pytest.raises(requests.ConnectionError):
        service.search("red")
