"""Answers searches: asks a worker, counts, logs."""

import json
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fastapi import Response
from starlette.datastructures import State

from serving import messages, request_log
from serving.gate import RequestError
from serving.live_model import LiveModel
from serving.metrics import Metrics
from serving.worker_client import Answer, NoWorkerError, RefusalError, Worker

FAILURES = (NoWorkerError, RefusalError, TimeoutError)


class Ranking(NamedTuple):
    """What a worker answers to a search."""

    worker: Worker
    answer: Answer


class Searcher:
    """Answers the searches of the service.

    Args:
        champion: What answers.
        metrics: Counts.
        log: Keeps searches and events; None for no log.
    """

    def __init__(self, champion: LiveModel, metrics: Metrics, log: "request_log.RequestLog | None") -> None:
        self.champion, self.metrics, self.log = champion, metrics, log

    async def search(self, query: messages.Search, k: int, state: State) -> Response:
        """Answer a search.

        Args:
            query: The search.
            k: Number of results.
            state: Of the request, see `serving.gate.Gate`.

        Raises:
            RequestError: where it cannot be answered.
        """
        came, start = datetime.now(UTC), time.perf_counter()
        ranking, status, params = None, 500, query.params(k)
        try:
            ranking = await self._rank(query, params, state.deadline)
            status = 200
        except FAILURES as failure:
            problem = explain(failure)
            status = problem.status
            raise problem from failure
        finally:
            milliseconds = 1000 * (time.perf_counter() - start)
            if self.log:
                self.log.add(make_entry(state.request_id, came, query, params, ranking, milliseconds, status))
        self._count(ranking.answer)
        return write_results(state.request_id, ranking)

    async def find_similar(
        self, product_id: str, conditions: messages.Similar, k: int, state: State
    ) -> Response:
        """Products similar to one; arguments and errors as of `search`. It is no query, so it is not logged."""
        try:
            worker = self.champion.worker
            answer = await worker.find_similar(product_id, conditions.params(k), state.deadline)
        except FAILURES as failure:
            raise explain(failure) from failure
        return write_results(state.request_id, Ranking(worker, answer))

    def add_event(self, event: messages.Event) -> bool:
        """Log an event; whether there is a log."""
        if self.log:
            now = datetime.now(UTC)
            self.log.add(
                request_log.Event(event.request_id, now, event.product_id, event.kind, event.session)
            )
        return self.log is not None

    async def _rank(self, query: messages.Search, params: dict[str, Any], deadline: float) -> Ranking:
        """Ask the worker that the search needs."""
        worker = self.champion.worker
        return Ranking(worker, await worker.search(query.text, query.image, params, deadline))

    def _count(self, answer: Answer) -> None:
        if not answer.count:
            self.metrics.empty_results.inc()
        if answer.unknown_tokens is not None:
            self.metrics.unknown_tokens.observe(answer.unknown_tokens)


def explain(failure: Exception) -> RequestError:
    """What the sender of a request is told about its failure."""
    if isinstance(failure, RefusalError):
        return RequestError(failure.status, str(failure))
    if isinstance(failure, NoWorkerError):
        return RequestError(503, "no model is ready; try again soon", retry=True)
    return RequestError(504, "no answer in time; try again later")


def make_entry(
    request_id: str,
    came: datetime,
    query: messages.Search,
    params: dict[str, Any],
    ranking: Ranking | None,
    milliseconds: float,
    status: int,
) -> request_log.Search:
    """The entry of a search in the log; `ranking` is None for one that failed."""
    version, index, results, unknown_tokens = "", "", [], None
    if ranking:
        worker, answer = ranking
        version, index, unknown_tokens = worker.version, worker.index, answer.unknown_tokens
        results = [
            request_log.Result(product["product_id"], product["score"], version) for product in answer.parse()
        ]
    conditions = {name: value for name, value in params.items() if name != "k" and value}
    return request_log.Search(
        request_id=request_id,
        time=came,
        session=query.session,
        text=query.text,
        has_picture=query.image is not None,
        filters=json.dumps(conditions),
        k=params["k"],
        version=version,
        index=index,
        results=results,
        latency_ms=milliseconds,
        status=status,
        unknown_tokens=unknown_tokens,
    )


def write_results(request_id: str, ranking: Ranking) -> Response:
    """The answer to a search; the worker has written its results as JSON."""
    worker, answer = ranking
    head = json.dumps({"request_id": request_id, "version": worker.version, "index": worker.index})
    content = b"".join((head[:-1].encode(), b', "results": ', answer.results, b"}"))
    return Response(content, media_type="application/json")
