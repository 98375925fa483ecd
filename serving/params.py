"""The sections of serving.yaml: what runs beside the chain."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from catalog.config import Params, Share, read_yaml, validate_values


class RefreshParams(Params):
    """`python -m serving refresh`: today's catalogue with the champion."""

    max_removed: Share = Field(
        0.2, description="largest share of the live catalogue that a refresh may drop; more is not published"
    )
    max_recall_loss: Share = Field(
        0.01,
        description="largest loss of self-search recall against the live index: the share of products that a search "
        "by their own vectors finds first",
    )
    keep: int = Field(2, ge=1, description="indexes to keep of a version; older ones are deleted")
    challenger: bool = Field(
        False, description="whether the challenger gets the catalogue too, which an experiment needs"
    )


class ServiceParams(Params):
    """`python -m serving`: the search service."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all, as in a container")
    port: int = Field(8080, ge=0, le=65535)
    body_mb: float = Field(
        8.0, gt=0, le=100, description="largest body of a request; base64 adds a third to a picture"
    )
    max_k: int = Field(100, ge=1, le=1000, description="most results of a search")
    waiting: int = Field(64, ge=1, description="searches without an answer; any more get status 503 at once")
    timeout_seconds: float = Field(5.0, gt=0, description="until a request is given up with status 504")
    drain_seconds: float = Field(
        20.0, gt=0, description="after SIGTERM, for the requests that are being answered"
    )
    poll_seconds: float = Field(10.0, gt=0, description="between two looks for a promotion or a new index")


class LogParams(Params):
    """The log of requests and events."""

    folder: str | None = Field(
        None,
        description="local folder or address that fsspec reads, such as s3://BUCKET/PREFIX; null for no log",
    )
    queries: Literal["text", "hash"] = Field("text", description="what is kept of a query's text")
    flush_seconds: float = Field(
        10, gt=0, le=3600, description="a killed process loses at most so much of the log"
    )
    retention_days: int = Field(90, ge=1, le=36_500, description="files of older hours are deleted")


class ExperimentParams(Params):
    """Champion and challenger on live traffic."""

    kind: Literal["none", "interleaving", "ab", "shadow"] = "none"
    share: Share = Field(0.1, description="share of the sessions that take part")
    seed: int = Field(0, description="of all draws; another one draws all sessions anew")
    wait_ms: float = Field(
        200.0, ge=0, description="time that a search waits for the challenger once the champion has answered"
    )
    max_searches: int = Field(
        100, ge=1, description="sessions with more searches are no customers, and are left out of results"
    )


class MonitorParams(Params):
    """`python -m serving monitor`: a period of the log against a reference period. A rule without a limit is off."""

    min_searches: int = Field(500, ge=1, description="a rule with fewer searches decides nothing")
    compared: int = Field(5_000, ge=100, description="searches in each sample, for drift and languages")
    max_drift: float | None = Field(
        0.25, gt=0, description="largest population stability index of queries, from the reference period"
    )
    max_empty: Share | None = Field(0.1, description="share of searches that may have no result")
    max_low_scores: Share | None = Field(
        0.1, description="share of searches whose best score may be below that of 5 % in the reference period"
    )
    max_errors: Share | None = Field(0.01, description="share of searches that may fail (status 500 or more)")
    max_latency_ms_p95: float | None = Field(500, gt=0, description="milliseconds")
    min_ctr_ratio: float | None = Field(
        0.8, gt=0, description="least share of searches with a click, relative to the reference period"
    )
    min_volume_ratio: float | None = Field(
        0.5, gt=0, description="least searches per day, relative to the reference period"
    )


class ServingParams(Params):
    """All sections of serving.yaml."""

    refresh: RefreshParams = RefreshParams()
    service: ServiceParams = ServiceParams()
    log: LogParams = LogParams()
    experiment: ExperimentParams = ExperimentParams()
    monitor: MonitorParams = MonitorParams()


def load_serving_params(path: Path) -> ServingParams:
    """Load serving.yaml; a missing section or key has its default.

    Raises:
        DataError: where the file cannot be read, a section or a key is unknown, or a value is out of range.
    """
    return validate_values(ServingParams, read_yaml(path), path)
