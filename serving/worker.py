"""The process that answers searches with one registered model, with the code it was registered with.

`serving.worker_client` starts this file by its path, with the Python and the code of the model's package. So it imports
only the standard library, and loads the package's `pyfunc.py`. The two processes share a socket. Each message is a
frame: the lengths of its two parts (uint32, big-endian), a JSON object, and bytes, such as a picture. A request has an
`id`, which its answer repeats, a `method` and a `deadline` (seconds of the monotonic clock, which is the machine's).
"""

import importlib.util
import json
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

Query = tuple[str | None, bytes | None, Mapping[str, Any]]  # text, picture, parameters
LENGTHS = struct.Struct(">II")
CHUNK = 1 << 20  # bytes, of one read
BATCH = 16  # searches that are encoded together
BAD_REQUEST, NOT_FOUND, FAILED = 400, 404, 500  # HTTP status of an error


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
            for search in searches:
                if search[1]:  # a batch of pictures is not faster, and each new size of it is slow once
                    self._answer_searches([search])
            for content, _ in current:
                if content["method"] == "similar":
                    self._answer(content["id"], partial(self._find_similar, content))

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
            for (content, _), query in zip(requests, queries, strict=True):
                self._answer(content["id"], partial(self._answer_alone, query))
            return
        for (content, _), answer in zip(requests, answers, strict=True):
            self._answer(content["id"], partial(_raise_or_return, answer))

    def _find_similar(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"results": self.model.similar(content["product_id"], content["params"])}

    def _answer_alone(self, query: Query) -> Mapping[str, Any]:
        return _raise_or_return(self.model.answer([query])[0])

    def _answer(self, number: int, compute: Callable[[], Mapping[str, Any]]) -> None:
        try:
            answer = compute()
            results = json.dumps(answer["results"], allow_nan=False, separators=(",", ":")).encode()
            content = {name: value for name, value in answer.items() if name != "results"}
            frame = pack_frame({"id": number, "count": len(answer["results"]), **content}, results)
        except (LookupError, ValueError) as error:
            is_unknown = isinstance(error, LookupError)
            message = str(error.args[0]) if error.args else str(error)
            status = NOT_FOUND if is_unknown else BAD_REQUEST
            frame = pack_frame({"id": number, "status": status, "error": message})
        except Exception:
            traceback.print_exc()
            frame = pack_frame(
                {"id": number, "status": FAILED, "error": "the model failed; see the service's log"}
            )
        self.connection.sendall(frame)


def _raise_or_return(answer: Mapping[str, Any] | Exception) -> Mapping[str, Any]:
    if isinstance(answer, Exception):
        raise answer
    return answer


def load_model(settings: Mapping[str, Any]) -> Any:
    """Load the `ProductSearch` of a package.

    Args:
        settings: `code`, the path of its pyfunc.py, and `artifacts`, name → path.
    """
    spec = importlib.util.spec_from_file_location("served_model", settings["code"])
    if spec is None or spec.loader is None:
        raise ValueError(f"{settings['code']}: not Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.ProductSearch()
    model.load_context(SimpleNamespace(artifacts=settings["artifacts"]))
    return model


def warm_up(model: Any) -> None:
    """Answer some searches: the first ones prepare libraries and read files."""
    for size in (1, 2, BATCH):
        model.answer([("warm up", None, {})] * size)


def main() -> None:
    """Load the model, say how it is, and answer."""
    settings = json.loads(sys.argv[1])
    connection = socket.socket(fileno=settings["descriptor"])
    try:
        model = load_model(settings)
        warm_up(model)
        description = model.describe()
    except Exception as error:
        if not any(base.__name__ == "DataError" for base in type(error).__mro__):  # of the package's own code
            traceback.print_exc()
        connection.sendall(pack_frame({"error": f"{type(error).__name__}: {error}"}))
        sys.exit(1)
    connection.sendall(pack_frame({"description": description}))
    try:
        Worker(connection, model).run()
    except (BrokenPipeError, ConnectionResetError):
        return  # the service has gone


if __name__ == "__main__":
    main()
