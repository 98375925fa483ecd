"""What the service counts, for Prometheus."""

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # bounds of the latency's buckets
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """The metrics of one service.

    Attributes:
        waiting: Searches that are not answered yet.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # the time of the first request to each route is of no use
        self.registry = CollectorRegistry()
        self.requests = Counter("vitrine_requests", "Requests.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "vitrine_request_seconds",
            "Seconds until a request was answered.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.empty_results = Counter(
            "vitrine_empty_results", "Searches without any result.", registry=self.registry
        )
        self.unknown_tokens = Histogram(
            "vitrine_unknown_token_share",
            "Share of a query's tokens that the vocabulary cannot read.",
            buckets=SHARES,
            registry=self.registry,
        )
        self.model = Gauge(
            "vitrine_model_info",
            "The model and the index that answer.",
            ["alias", "version", "index", "weights"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "vitrine_waiting_requests", "Searches without an answer.", registry=self.registry
        )
        self.workers = Counter(
            "vitrine_worker_events",
            "Workers that became ready, did not start, or ended by themselves.",
            ["alias", "event"],
            registry=self.registry,
        )
        self.experiment_searches = Counter(
            "vitrine_experiment_searches",
            "Searches of sessions that take part in the experiment, by what was shown.",
            ["arm"],
            registry=self.registry,
        )
        self.challenger_failures = Counter(
            "vitrine_challenger_failures",
            "Searches that the challenger did not answer; the customer saw the champion's results.",
            ["reason"],
            registry=self.registry,
        )
        self.registry_errors = Counter(
            "vitrine_registry_errors", "Reads of MLflow that failed.", registry=self.registry
        )

    def set_model(self, alias: str, version: str, description: Mapping[str, Any]) -> None:
        """Name the model and the index that answer for an alias, in place of those before."""
        self.forget_model(alias)
        self.model.labels(alias, version, description["data"], description["weights"]).set(1)

    def forget_model(self, alias: str) -> None:
        """Nothing answers for an alias any more."""
        for labels in [labels for labels in self._model_labels() if labels[0] == alias]:
            self.model.remove(*labels)

    def watch_log(self, count_drops: Callable[[], int]) -> None:
        """Show how many entries the log has dropped."""
        drops = Gauge(
            "vitrine_log_drops", "Entries that the log dropped: its queue was full.", registry=self.registry
        )
        drops.set_function(count_drops)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _model_labels(self) -> list[tuple[str, ...]]:
        return [tuple(sample.labels.values()) for metric in self.model.collect() for sample in metric.samples]
