"""The service's side of a worker: starts the process, sends requests, and notices its end."""

import asyncio
import itertools
import json
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from catalog.schema import DataError
from serving import worker
from serving.worker import FrameBuffer, pack_frame

PROGRAM = Path(worker.__file__)
START_SECONDS = 300  # loading a model from a slow disk
STOP_SECONDS = 5


class WorkerError(DataError):
    """A worker does not start."""


class NoWorkerError(Exception):
    """No worker can answer now: it is starting, or has just ended."""


class RefusalError(Exception):
    """A worker's answer to a request that is wrong, or that made the model fail.

    Args:
        status: HTTP status.
        message: What is wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Launch:
    """How to start a worker.

    Attributes:
        interpreter: Python with the model's requirements.
        package: Folder of the registered model.
        artifacts: Name → path, as the model's `load_context` takes them.
        environment: Variables besides those of this process.
        collection: In Milvus, to search in place of the index; None for the index.
    """

    interpreter: str
    package: Path
    artifacts: Mapping[str, str]
    environment: Mapping[str, str]
    collection: str | None = None


@dataclass(frozen=True)
class Answer:
    """The results of a search.

    Attributes:
        results: JSON, a list of products.
        count: Their number.
        unknown_tokens: Share of the text's tokens that the vocabulary cannot read; None without text.
    """

    results: bytes
    count: int
    unknown_tokens: float | None

    def parse(self) -> list[dict[str, Any]]:
        """The products, best first."""
        return json.loads(self.results)


class Worker(asyncio.Protocol):
    """A running worker process.

    Attributes:
        version: The number of its model's version.
        description: Of its model and index, see `describe` in serving/pyfunc.py.
        closed: Set when its process can answer no more.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.description: dict[str, Any] = {}
        self.closed = asyncio.Event()
        self._frames = FrameBuffer()
        self._numbers = itertools.count()
        self._futures: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._last_answer = 0.0  # seconds of the loop's clock
        self._transport: asyncio.Transport
        self._process: Process

    @classmethod
    async def start(cls, version: str, launch: Launch, limit: float = START_SECONDS) -> Self:
        """Start a process, and wait until it has loaded its model and answered some searches.

        Args:
            version: Of the model.
            launch: How to start it.
            limit: Seconds.

        Raises:
            WorkerError: where it does not become ready; the message says why.
        """
        self = cls(version)
        ours, theirs = socket.socketpair()
        settings = {
            "code": str(launch.package / "pyfunc.py"),
            "artifacts": dict(launch.artifacts),
            "collection": launch.collection,
            "descriptor": theirs.fileno(),
        }
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                launch.interpreter,
                str(PROGRAM),
                json.dumps(settings),
                cwd=launch.package,
                env=os.environ | dict(launch.environment),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                start_new_session=True,  # Ctrl-C is for the service, which drains it
            )
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        try:
            async with asyncio.timeout(limit):
                hello = await self._hello
        except TimeoutError:
            hello = {"error": f"it is not ready after {limit:g} s"}
        except asyncio.CancelledError:
            self._kill()
            raise
        if "error" in hello:
            self._kill()
            raise WorkerError(f"the worker of version {version} does not start: {hello['error']}")
        self.description = hello["description"]
        return self

    @property
    def index(self) -> str:
        """The fingerprint of the data of its index."""
        return str(self.description["data"])

    async def search(
        self, text: str | None, picture: bytes | None, params: Mapping[str, Any], deadline: float
    ) -> Answer:
        """Search.

        Args:
            text, picture: The query.
            params: Of `search` in serving/pyfunc.py.
            deadline: Time of the loop's clock.

        Raises:
            RefusalError: where the request is wrong.
            NoWorkerError: where the process ends before it answers.
            TimeoutError: at the deadline.
        """
        return await self._call(
            {"method": "search", "text": text, "params": params}, picture or b"", deadline
        )

    async def find_similar(self, product_id: str, params: Mapping[str, Any], deadline: float) -> Answer:
        """Products similar to a product; arguments and errors as of `search`."""
        return await self._call(
            {"method": "similar", "product_id": product_id, "params": params}, b"", deadline
        )

    async def _call(self, content: dict[str, Any], payload: bytes, deadline: float) -> Answer:
        loop = asyncio.get_running_loop()
        if self.closed.is_set():
            raise NoWorkerError
        number, start = next(self._numbers), loop.time()
        self._futures[number] = loop.create_future()
        self._transport.write(pack_frame({"id": number, "deadline": deadline, **content}, payload))
        try:
            async with asyncio.timeout_at(deadline):
                answer, results = await self._futures[number]
        except TimeoutError:
            if self._last_answer < start and not self.closed.is_set():  # it hangs, or computes without an end
                self._kill()
            raise
        finally:
            self._futures.pop(number, None)
        if "error" in answer:
            raise RefusalError(answer["status"], answer["error"])
        return Answer(results, answer["count"], answer.get("unknown_tokens"))

    async def drain(self, limit: float) -> None:
        """Wait until all requests are answered, at most some seconds; then stop the process."""
        deadline = asyncio.get_running_loop().time() + limit
        while self._futures and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await self.stop()

    async def stop(self) -> None:
        """Stop the process, and wait for its end."""
        self.closed.set()
        self._transport.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        self._transport.close()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand each answer to the request that waits for it; requests that timed out do not."""
        self._frames.add(data)
        self._last_answer = asyncio.get_running_loop().time()
        for content, payload in self._frames.take():
            if "id" not in content:
                if not self._hello.done():
                    self._hello.set_result(content)
            elif (future := self._futures.get(content["id"])) and not future.done():
                future.set_result((content, payload))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the requests that wait."""
        self.closed.set()
        if not self._hello.done():
            self._hello.set_result({"error": "its process ended; its messages are above"})
        for future in self._futures.values():
            if not future.done():
                future.set_exception(NoWorkerError())
