"""What every request passes: its id, limits on body, time and number, one format of errors, and metrics."""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import Response

from serving.metrics import Metrics
from serving.params import ServiceParams

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SIMILAR = "/similar/"  # and a product's id
EVENTS, EVENT_MB = "/events", 0.05  # an event is small, and its number is not limited
CLOSED = 499  # in metrics: the client has gone; the name is nginx's
LIMITED = ("/search", SIMILAR)  # the requests that a worker answers
ROUTES = {"/search", "/events", "/healthz", "/readyz", "/metrics", "/openapi.json"}
logger = logging.getLogger("vitrine")


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: What is wrong, for its sender.
        retry: Whether the same request may succeed soon.
    """

    def __init__(self, status: int, message: str, retry: bool = False) -> None:
        super().__init__(message)
        self.status, self.headers = status, {"Retry-After": "1"} if retry else {}


FAILURE = RequestError(500, "the service failed; its log has this request's id")


class DisconnectError(Exception):
    """The client has gone before it sent the whole request."""


class Gate:
    """An ASGI middleware.

    Each request gets `request_id` and `deadline`, a time of the loop's clock, in its state. Bodies are read here.

    Args:
        app: What answers.
        params: The limits.
        metrics: Counts and times the requests.
    """

    def __init__(self, app: Any, params: ServiceParams, metrics: Metrics) -> None:
        self.app, self.params, self.metrics = app, params, metrics
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with its problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = asyncio.get_running_loop().time()
        answer = Answer(send, request_id := secrets.token_hex(16))
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "deadline": start + self.params.timeout_seconds}
        try:
            await self._answer(scope, receive, answer)
        except DisconnectError:
            return
        finally:
            seconds = asyncio.get_running_loop().time() - start
            route = name_route(scope["path"])
            self.metrics.requests.labels(route, answer.status or CLOSED).inc()
            self.metrics.seconds.labels(route).observe(seconds)

    async def _answer(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        is_limited = scope["path"].startswith(LIMITED)
        try:
            if is_limited and self.waiting >= self.params.waiting:
                raise RequestError(503, f"{self.waiting} requests wait already; try again soon", retry=True)
            self.waiting += is_limited
            self.metrics.waiting.set(self.waiting)
            try:
                if scope["method"] == "POST":
                    receive = await self._read_body(scope, receive)
                await self.app(scope, receive, answer.send)
            finally:
                self.waiting -= is_limited
                self.metrics.waiting.set(self.waiting)
        except RequestError as problem:
            await self._send_problem(problem, scope, receive, answer)
        except DisconnectError:
            raise
        except Exception:
            logger.exception("request %s failed", answer.request_id)
            if not answer.status:
                await self._send_problem(FAILURE, scope, receive, answer)

    async def _send_problem(
        self, problem: RequestError, scope: Scope, receive: Receive, answer: "Answer"
    ) -> None:
        response = problem_response(problem.status, str(problem), answer.request_id, problem.headers)
        await response(scope, receive, answer.send)

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read a body of JSON within the limits of size and time; a `receive` that returns it."""
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RequestError(415, "send JSON, with the header Content-Type: application/json")
        megabytes = min(EVENT_MB, self.params.body_mb) if scope["path"] == EVENTS else self.params.body_mb
        limit = int(megabytes * 1_000_000)
        too_large = RequestError(413, f"the body is larger than {megabytes:g} MB")
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout_at(scope["state"]["deadline"]):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise DisconnectError
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > limit:
                        raise too_large
        except TimeoutError as error:
            raise RequestError(
                408, f"the body did not arrive within {self.params.timeout_seconds:g} s"
            ) from error
        messages: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay


class Answer:
    """Sends an answer with the request's id, and remembers its status.

    Attributes:
        status: 0 until it is sent.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id, self.status = send, request_id, 0

    async def send(self, message: Message) -> None:
        """Send a message of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)


def problem_response(status: int, message: str, request_id: str, headers: dict[str, str]) -> Response:
    """An answer that says what is wrong."""
    content = json.dumps({"request_id": request_id, "error": message}).encode()
    return Response(content, status, headers, "application/json")


def name_route(path: str) -> str:
    """The label of a path for metrics; paths that do not exist share one."""
    if path.startswith(SIMILAR):
        return f"{SIMILAR}{{product_id}}"
    return path if path in ROUTES else "other"
