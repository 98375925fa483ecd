"""The process that answers searches with one registered model, with the code it was registered with.

`serving.worker_client` starts this file by its path, with the Python and the code of the model's package. So it imports
only the standard library, and loads the package's `pyfunc.py`. The two processes share a socket. Each message is a
frame: the lengths of its two parts (uint32, big-endian), a JSON object, and bytes, such as a picture. A request has an
`id`, which its answer repeats, a `method` and a `deadline` (seconds of the monotonic clock, which is the machine's).
"""

import base64
import importlib.util
import json
import os
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

Outcome = Mapping[str, Any] | Exception
Query = tuple[str | None, bytes | None, Mapping[str, Any]]  # text, picture, parameters
LENGTHS = struct.Struct(">II")
CHUNK = 1 << 20  # bytes, of one read
BATCH = 16  # searches that are encoded together
PICTURE_BATCHES = (
    8,
    4,
    2,
    1,
)  # searches with a picture; each size is slow once, so there are few, see `warm_up`
PIXEL = (  # a picture in PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
FAILED, UNAVAILABLE = 500, 503  # HTTP status
STATUSES = {ValueError: 400, LookupError: 404}  # of what the model says about a request


def pack_frame(content: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Pack a frame.

    Args:
        content: Of JSON, without NaN.
        payload: Its second part.
    """
    head = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((LENGTHS.pack(len(head), len(payload)), head, payload))


class FrameBuffer:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def add(self, data: bytes) -> None:
        """Add bytes of the stream."""
        self.buffer += data

    def take(self, limit: int = sys.maxsize) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Remove the frames that are complete, at most `limit` of them."""
        start = 0
        try:
            while limit and len(self.buffer) - start >= LENGTHS.size:
                head_size, payload_size = LENGTHS.unpack_from(self.buffer, start)
                middle = start + LENGTHS.size + head_size
                if len(self.buffer) < middle + payload_size:
                    return
                head = bytes(self.buffer[start + LENGTHS.size : middle])
                payload = bytes(self.buffer[middle : middle + payload_size])
                start, limit = middle + payload_size, limit - 1
                yield json.loads(head), payload
        finally:
            del self.buffer[:start]


class Worker:
    """Answers requests in the order of their arrival; searches that wait are encoded together.

    Args:
        connection: To the service.
        model: The package's `ProductSearch`, loaded.
    """

    def __init__(self, connection: socket.socket, model: Any) -> None:
        self.connection, self.model = connection, model
        self.frames = FrameBuffer()

    def run(self) -> None:
        """Answer until the service closes the connection."""
        while requests := self._receive():
            now = time.monotonic()
            current = [request for request in requests if request[0]["deadline"] > now]
            searches = [request for request in current if request[0]["method"] == "search"]
            self._answer_searches([search for search in searches if not search[1]])
            pictures = [search for search in searches if search[1]]
            for size in PICTURE_BATCHES:
                while len(pictures) >= size:
                    self._answer_searches(pictures[:size])
                    pictures = pictures[size:]
            for content, _ in current:
                if content["method"] == "similar":
                    self.connection.sendall(pack_answer(content["id"], self._find_similar(content)))

    def _receive(self) -> list[tuple[dict[str, Any], bytes]]:
        """Wait for a request; all that have arrived, at most `BATCH`. None at the end of the connection."""
        while not (requests := list(self.frames.take(BATCH))):
            if not self._read(0):
                return []
        if len(requests) < BATCH:
            self._read(socket.MSG_DONTWAIT)
            requests += self.frames.take(BATCH - len(requests))
        return requests

    def _read(self, flags: int) -> bool:
        """Read what has arrived; whether the connection is still open."""
        try:
            while data := self.connection.recv(CHUNK, flags):
                self.frames.add(data)
                flags = socket.MSG_DONTWAIT
        except BlockingIOError:
            return True
        return False

    def _answer_searches(self, requests: Sequence[tuple[dict[str, Any], bytes]]) -> None:
        """Answer searches together; each alone where that fails, so that one does not spoil the others."""
        queries = [(content["text"], picture or None, content["params"]) for content, picture in requests]
        try:
            answers = self.model.answer(queries) if queries else []
        except Exception:
            answers = [self._answer_alone(query) for query in queries]
        # sent at once, so that the service wakes up once, and sends the next searches together
        self.connection.sendall(
            b"".join(
                pack_answer(content["id"], answer)
                for (content, _), answer in zip(requests, answers, strict=True)
            )
        )

    def _answer_alone(self, query: Query) -> Outcome:
        try:
            return self.model.answer([query])[0]
        except Exception as error:
            return ModelError(error)

    def _find_similar(self, content: Mapping[str, Any]) -> Outcome:
        try:
            return {"results": self.model.similar(content["product_id"], content["params"])}
        except Exception as error:
            return error if type(error) in STATUSES else ModelError(error)


class ModelError(Exception):
    """A model fails for another reason than a wrong request. The service's log has the reason.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__("the model failed; see the service's log")
        self.status = UNAVAILABLE if print_error(error) else FAILED


def pack_answer(number: int, outcome: Outcome) -> bytes:
    """The frame that answers a request.

    Args:
        number: Of the request.
        outcome: `results` and other values, or why there are none.
    """
    if not isinstance(outcome, Exception):
        try:
            results = json.dumps(outcome["results"], allow_nan=False, separators=(",", ":")).encode()
            content = {name: value for name, value in outcome.items() if name != "results"}
            return pack_frame({"id": number, "count": len(outcome["results"]), **content}, results)
        except Exception as error:  # a value that JSON does not have
            outcome = ModelError(error)
    status = outcome.status if isinstance(outcome, ModelError) else STATUSES.get(type(outcome), FAILED)
    return pack_frame({"id": number, "status": status, "error": str(outcome)})


def print_error(error: Exception) -> bool:
    """Print an error for the service's log; whether it comes from outside, such as a Milvus that does not answer."""
    if is_outside := any(
        base.__name__ == "DataError" for base in type(error).__mro__
    ):  # of the package's code
        print(error, file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    return is_outside


def load_model(settings: Mapping[str, Any]) -> Any:
    """Load the `ProductSearch` of a package.

    Args:
        settings: `code`, the path of its pyfunc.py; `artifacts`, name → path; `collection`, of Milvus or None.
    """
    spec = importlib.util.spec_from_file_location("served_model", settings["code"])
    if spec is None or spec.loader is None:
        raise ValueError(f"{settings['code']}: not Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.ProductSearch()
    context = SimpleNamespace(artifacts=settings["artifacts"], collection=settings["collection"])
    model.load_context(context)
    return model


def warm_up(model: Any) -> None:
    """Answer some searches: the first ones prepare libraries and read files."""
    for size in (1, 2, BATCH):
        model.answer([("warm up", None, {})] * size)
    for size in PICTURE_BATCHES:
        model.answer([(None, base64.b64decode(PIXEL), {})] * size)


def main() -> None:
    """Load the model, say how it is, and answer."""
    settings = json.loads(sys.argv[1])
    connection = socket.socket(fileno=settings["descriptor"])
    try:
        model = load_model(settings)
        warm_up(model)
        description = model.describe()
    except Exception as error:
        print_error(error)
        connection.sendall(pack_frame({"error": f"{type(error).__name__}: {error}"}))
        sys.exit(1)
    connection.sendall(pack_frame({"description": description}))
    with suppress(BrokenPipeError, ConnectionResetError):  # the service has gone
        Worker(connection, model).run()
    sys.stderr.flush()
    os._exit(0)  # libraries take seconds to unload


if __name__ == "__main__":
    main()
