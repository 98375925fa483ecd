"""The service's endpoints."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException

from serving import messages
from serving.gate import Gate, RequestError, problem_response
from serving.live_model import LiveModel
from serving.metrics import Metrics
from serving.params import ServiceParams
from serving.searching import Searcher

if TYPE_CHECKING:
    from serving.live_experiment import LiveExperiment
    from serving.request_log import RequestLog

DESCRIPTION = (
    "Searches the catalogue with the champion. Every answer has the header X-Request-ID; clicks refer to that of "
    "their search."
)
REASONS = {
    400: "the body is not JSON, or a picture cannot be used",
    404: "no such product",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the content type is not JSON",
    422: "a field or parameter is wrong; the message names it",
    500: "the model failed",
    503: "too many requests wait, or no model is ready; try again",
    504: "the answer took too long",
}


def build_app(
    params: ServiceParams,
    champion: LiveModel,
    metrics: Metrics,
    log: "RequestLog | None" = None,
    experiment: "LiveExperiment | None" = None,
) -> FastAPI:
    """Build the service.

    Args:
        params: Its limits.
        champion: What answers; it is started and stopped with the service.
        metrics: What `/metrics` shows.
        log: Keeps searches and events; None for no log.
        experiment: Of this champion and a challenger; None for none.
    """
    searcher = Searcher(champion, metrics, log, experiment)

    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        champion.start()
        if experiment:
            experiment.start()
        yield
        await searcher.stop()
        if experiment:
            await experiment.stop()
        await champion.stop()

    app = FastAPI(
        title="Vitrine",
        description=DESCRIPTION,
        lifespan=run,
        docs_url=None,  # these pages load scripts from other servers
        redoc_url=None,
    )
    _add_searches(app, params, searcher)
    _add_events(app, searcher)
    _add_states(app, champion, metrics)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Gate, params=params, metrics=metrics)
    return app


def _add_searches(app: FastAPI, params: ServiceParams, searcher: Searcher) -> None:
    count = Field(messages.DEFAULT_K, ge=1, le=params.max_k, description="number of results")

    class SearchRequest(messages.Search):
        k: int = count

    class SimilarRequest(messages.Similar):
        k: int = count

    @app.post(
        "/search",
        response_model=messages.Results,
        responses=_describe(400, 408, 413, 415, 422, 500, 503, 504),
    )
    async def search(query: SearchRequest, request: Request) -> Response:
        """Search by text, picture or both."""
        return await searcher.search(query, query.k, request.state)

    @app.get(
        "/similar/{product_id:path}",
        response_model=messages.Results,
        responses=_describe(404, 422, 500, 503, 504),
    )
    async def find_similar(
        product_id: str, conditions: Annotated[SimilarRequest, Query()], request: Request
    ) -> Response:
        """Recommend products similar to one, without that one."""
        return await searcher.find_similar(product_id, conditions, conditions.k, request.state)


def _add_events(app: FastAPI, searcher: Searcher) -> None:
    @app.post(
        "/events",
        status_code=202,
        response_model=messages.Receipt,
        responses=_describe(400, 408, 413, 415, 422),
    )
    async def add_event(event: messages.Event, request: Request) -> Response:
        """Keep a click on a result, or a result put into the cart."""
        kept = searcher.add_event(event)
        return _json({"request_id": request.state.request_id, "kept": kept}, 202)


def _add_states(app: FastAPI, champion: LiveModel, metrics: Metrics) -> None:
    @app.get("/healthz", response_model=messages.State)
    async def check_health(request: Request) -> Response:
        """The process runs."""
        return _json({"request_id": request.state.request_id, "state": "running"})

    @app.get("/readyz", response_model=messages.State, responses=_describe(503))
    async def check_readiness(request: Request) -> Response:
        """A model is ready to answer."""
        if not champion.is_ready:
            raise RequestError(503, "no model is ready", retry=True)
        return _json({"request_id": request.state.request_id, "state": "ready"})

    @app.get("/metrics", response_class=_PrometheusText)
    async def show_metrics() -> Response:
        """Metrics in Prometheus's text format."""
        return _PrometheusText(metrics.render())


class _PrometheusText(Response):
    media_type = "text/plain; version=1.0.0"


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Name every wrong field, without its value, which may be large."""
    problems = cast(RequestValidationError, error).errors()
    is_json = all(problem["type"] != "json_invalid" for problem in problems)
    listed = "; ".join(map(_describe_problem, problems[:10])) if is_json else "the body is not JSON"
    return problem_response(422 if is_json else 400, listed, request.state.request_id, {})


def _describe_problem(problem: dict[str, Any]) -> str:
    names = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        reason = "unknown field"
    return f"{'.'.join(names)[:200]}: {reason}" if names else reason


async def _answer_http_error(request: Request, error: Exception) -> Response:
    known = cast(HTTPException, error)
    headers = dict(known.headers or {})
    return problem_response(known.status_code, known.detail, request.state.request_id, headers)


def _describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": messages.ProblemMessage, "description": REASONS[status]} for status in statuses}


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content).encode(), status, media_type="application/json")
