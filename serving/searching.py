"""Answers searches: asks a worker, counts, logs."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fastapi import Response
from starlette.datastructures import State

from serving import messages, request_log
from serving.experiment import SHADOW_ARM
from serving.gate import RequestError
from serving.live_experiment import FAILURES, LiveExperiment, Ranking, Request, Shadow
from serving.live_model import LiveModel
from serving.metrics import Metrics
from serving.worker_client import Answer, NoWorkerError, RefusalError


class Searcher:
    """Answers the searches of the service.

    Args:
        champion: What answers.
        metrics: Counts.
        log: Keeps searches and events; None for no log.
        experiment: Of champion and challenger; None for none.
    """

    def __init__(
        self,
        champion: LiveModel,
        metrics: Metrics,
        log: "request_log.RequestLog | None",
        experiment: LiveExperiment | None = None,
    ) -> None:
        self.champion, self.metrics, self.log, self.experiment = champion, metrics, log, experiment
        self._shadows: set[asyncio.Task[None]] = set()

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
        ranking, status = None, 500
        request = Request(query, query.params(k), state.deadline)
        try:
            ranking = await self._rank(request)
            status = 200
        except FAILURES as failure:
            problem = explain(failure)
            status = problem.status
            raise problem from failure
        finally:
            milliseconds = 1000 * (time.perf_counter() - start)
            if self.log:
                self._log(make_entry(state.request_id, came, request, ranking, milliseconds, status), request)
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

    async def stop(self) -> None:
        """Log the searches whose shadow is not complete, without it."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    async def _rank(self, request: Request) -> Ranking:
        """Ask the workers that the search needs."""
        if self.experiment:
            return await self.experiment.rank(request)
        worker = self.champion.worker
        return Ranking(worker, await request.ask(worker))

    def _log(self, entry: request_log.Search, request: Request) -> None:
        """Log a search; in a shadow, after the challenger's answer, for which the customer does not wait."""
        if entry.arm == SHADOW_ARM:
            task = asyncio.create_task(self._log_shadow(entry, request))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)
        elif self.log:
            self.log.add(entry)

    async def _log_shadow(self, entry: request_log.Search, request: Request) -> None:
        shadow = Shadow(None, None)
        try:
            if self.experiment:
                shadow = await self.experiment.ask_shadow(request)
        finally:
            results = None
            if shadow.answer:
                results = [
                    request_log.Result(product["product_id"], product["score"], entry.challenger or "")
                    for product in shadow.answer.parse()
                ]
            if self.log:
                self.log.add(replace(entry, shadow_results=results, shadow_ms=shadow.milliseconds))

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
    request: Request,
    ranking: Ranking | None,
    milliseconds: float,
    status: int,
) -> request_log.Search:
    """The entry of a search in the log; `ranking` is None for one that failed."""
    query, params = request.query, request.params
    return request_log.Search(
        request_id=request_id,
        time=came,
        session=query.session,
        text=query.text,
        has_picture=query.image is not None,
        filters=json.dumps({name: value for name, value in params.items() if name != "k" and value}),
        k=params["k"],
        version=ranking.worker.version if ranking else "",
        index=ranking.worker.index if ranking else "",
        results=_list_results(ranking) if ranking else [],
        latency_ms=milliseconds,
        status=status,
        unknown_tokens=ranking.answer.unknown_tokens if ranking else None,
        **_describe_trial(ranking),
    )


def _list_results(ranking: Ranking) -> list[request_log.Result]:
    products = ranking.answer.parse()
    placed_by = ranking.trial.placed_by if ranking.trial else None
    versions = placed_by or [ranking.worker.version] * len(products)
    return [
        request_log.Result(product["product_id"], product["score"], version)
        for product, version in zip(products, versions, strict=True)
    ]


def _describe_trial(ranking: Ranking | None) -> dict[str, Any]:
    """The fields of a log's entry about the experiment."""
    if ranking is None or ranking.trial is None:
        return {}
    experiment = ranking.trial.experiment
    return {
        "experiment": experiment.kind,
        "arm": ranking.trial.arm,
        "champion": experiment.champion,
        "challenger": experiment.challenger,
    }


def write_results(request_id: str, ranking: Ranking) -> Response:
    """The answer to a search; the worker has written its results as JSON."""
    worker, answer = ranking.worker, ranking.answer
    head = json.dumps({"request_id": request_id, "version": worker.version, "index": worker.index})
    content = b"".join((head[:-1].encode(), b', "results": ', answer.results, b"}"))
    return Response(content, media_type="application/json")
