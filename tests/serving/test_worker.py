"""The worker: its frames, which searches it encodes together, and how it answers errors."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import DataError
from serving.worker import BATCH, FrameBuffer, Worker, pack_frame

ERRORS: Mapping[str, Exception] = {
    "KeyError": KeyError("a bug"),
    "ValueError": ValueError("a bug"),
    "DataError": DataError("Milvus cannot be reached"),
}
FAILED = "the model failed; see the service's log"
contents = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9), max_size=3)
frames = st.lists(st.tuples(contents, st.binary(max_size=20)), max_size=5)


@given(frames, st.lists(st.integers(1, 30), min_size=1), st.integers(1, 3))
def test_frames_arrive_whole_however_the_stream_is_cut(
    sent: list[tuple[dict[str, Any], bytes]], sizes: list[int], limit: int
) -> None:
    stream = b"".join(pack_frame(*frame) for frame in sent)
    buffer, received, position = FrameBuffer(), [], 0
    while position < len(stream):
        size = sizes[position % len(sizes)]
        buffer.add(stream[position : position + size])
        position += size
        taken = list(buffer.take(limit))
        assert len(taken) <= limit
        received += taken
    while taken := list(buffer.take(limit)):
        received += taken
    assert received == sent and not buffer.buffer


class Model:
    """A model that notes which searches come together; the text of a query names the error to raise or to return."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def answer(self, requests: list[tuple[str, bytes | None, Mapping[str, Any]]]) -> list[Any]:
        texts = [text for text, _, _ in requests]
        self.batches.append(texts)
        for text in texts:
            if text in ERRORS:
                raise ERRORS[text]
        return [
            ValueError("k is wrong")
            if text == "bad"
            else {"results": [float(text == "nan") and float("nan")]}
            for text in texts
        ]

    def similar(self, product_id: str, params: Mapping[str, Any]) -> list[Any]:
        if product_id in ERRORS:
            raise ERRORS[product_id]
        raise LookupError("no such product")


@pytest.fixture
def exchange() -> Iterator[Callable[..., dict[int, dict[str, Any]]]]:
    """Send requests at once; the answers by their number."""
    ours, theirs = socket.socketpair()
    model = Model()
    thread = threading.Thread(target=Worker(theirs, model).run)
    thread.start()

    def send(*requests: dict[str, Any], seconds: float = 60, answers: int | None = None) -> dict[int, Any]:
        deadline = time.monotonic() + seconds
        ours.sendall(
            b"".join(
                pack_frame(
                    {"method": "search", "params": {}, **request, "id": number, "deadline": deadline},
                    request.get("text", "").encode() if request.get("text") == "picture" else b"",
                )
                for number, request in enumerate(requests)
            )
        )
        buffer, received = FrameBuffer(), {}
        while len(received) < (len(requests) if answers is None else answers):
            buffer.add(ours.recv(100_000))
            received |= {content["id"]: content for content, _ in buffer.take()}
        return received

    send.model = model  # type: ignore[attr-defined]
    yield send
    ours.close()
    thread.join(10)
    assert not thread.is_alive()


def test_searches_that_wait_are_encoded_together_and_pictures_in_few_sizes(exchange: Any) -> None:
    texts = ["red", "picture", "blue", "picture", "picture"]
    answers = exchange(*({"text": text} for text in texts))
    assert sorted(answers) == [0, 1, 2, 3, 4] and all(answer["count"] == 1 for answer in answers.values())
    assert exchange.model.batches == [["red", "blue"], ["picture"] * 2, ["picture"]]
    exchange(*({"text": str(number)} for number in range(BATCH + 3)))
    assert list(map(len, exchange.model.batches[3:])) == [BATCH, 3]


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("bad", 400, "k is wrong"),
        ("KeyError", 500, FAILED),
        ("ValueError", 500, FAILED),
        ("DataError", 503, FAILED),
        ("nan", 500, FAILED),
    ],
)
def test_an_error_is_of_one_search_alone(exchange: Any, text: str, status: int, message: str) -> None:
    answers = exchange({"text": "red"}, {"text": text}, {"text": "blue"})
    assert (answers[1]["status"], answers[1]["error"]) == (status, message)
    assert "error" not in answers[0] and "error" not in answers[2]


@pytest.mark.parametrize(
    ("product", "status"), [("p7", 404), ("KeyError", 500), ("ValueError", 400), ("DataError", 503)]
)
def test_errors_of_similar_products(exchange: Any, product: str, status: int) -> None:
    (answer,) = exchange({"method": "similar", "product_id": product}).values()
    assert answer["status"] == status


def test_a_search_whose_time_is_over_is_not_computed(exchange: Any) -> None:
    assert exchange({"text": "red"}, seconds=-1, answers=0) == {}
    exchange({"text": "blue"})
    assert exchange.model.batches == [["blue"]]
