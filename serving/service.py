"""`python -m serving`: the search service. It serves the champion, and changes models when another is promoted."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn

from catalog.config import read_yaml, validate_values
from catalog.schema import DataError
from catalog.threads import limit_threads
from registry.champion_process import CHAMPION
from registry.live_index import LiveIndex, find_live_index
from registry.model_registry import CHALLENGER
from registry.params import RegisterParams
from serving.api import build_app
from serving.live_experiment import LiveExperiment, check_experiment
from serving.live_model import LiveModel
from serving.log_rows import KEY_VARIABLE
from serving.metrics import Metrics
from serving.packages import PackageCache
from serving.params import ServiceParams, ServingParams, load_serving_params
from serving.request_log import RequestLog

# MLflow's client would repeat a request for minutes; the service itself tries again
RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
KEEP_ALIVE = (
    75  # seconds; longer than load balancers keep idle connections, which else use one that has just closed
)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    limit_threads()
    arguments = parse_arguments()
    for name, value in RETRIES.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("vitrine").setLevel(logging.INFO)
    params = load_serving_params(arguments.settings)
    flags = {name: value for name in ("host", "port") if (value := getattr(arguments, name)) is not None}
    service = params.service.model_copy(update=flags)
    name = read_model_name(arguments.params)
    find, alias = choose_version(name, arguments)
    check_experiment(params.experiment, params.log, os.environ.get(KEY_VARIABLE), alias)
    live = find()
    if live is None:
        raise DataError(describe_missing(name, alias))
    with listen(service) as listener, tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        has_experiment = params.experiment.kind != "none"
        find_challenger = partial(find_live_index, name, CHALLENGER) if has_experiment else None
        asyncio.run(serve(params, service, alias, live, find, find_challenger, Path(folder), listener))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--settings", type=Path, default=Path("serving.yaml"), metavar="FILE")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="has the model's name"
    )
    parser.add_argument("--host", help="in place of service.host")
    parser.add_argument("--port", type=int, help="in place of service.port")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--alias", choices=(CHAMPION, CHALLENGER), default=CHAMPION)
    choice.add_argument("--version", metavar="N", help="serve this version, whatever is promoted")
    return parser.parse_args()


def read_model_name(path: Path) -> str:
    """The name of the registered model, `register.model_name` in params.yaml; its default without the file."""
    section = read_yaml(path).get("register") if path.exists() else None
    return validate_values(RegisterParams, section or {}, path, "register").model_name


def choose_version(name: str, arguments: argparse.Namespace) -> tuple[Callable[[], LiveIndex | None], str]:
    """The function that reads what is to be served, and its name in messages."""
    if arguments.version:
        return partial(find_live_index, name, arguments.version), f"version {arguments.version}"
    return partial(find_live_index, name, arguments.alias), arguments.alias


def describe_missing(name: str, alias: str) -> str:
    """What to do where there is nothing to serve."""
    if alias.startswith("version"):
        return f"{name} has no {alias}; list them: python -m registry history"
    return (
        f"{name} has no {alias}; promote a version: python -m registry promote N\n"
        "  (to serve another on purpose: --alias challenger, or --version N)"
    )


def listen(params: ServiceParams) -> socket.socket:
    """Listen before the model is loaded: requests that come early get status 503.

    Raises:
        DataError: the port is in use.
    """
    family = socket.AF_INET6 if ":" in params.host else socket.AF_INET
    try:
        listener = socket.create_server((params.host, params.port), family=family, backlog=1024)
    except OSError as error:
        raise DataError(
            f"{params.host} port {params.port}: {error.strerror}; choose another with --port"
        ) from error
    # inherited by connections: asyncio sets it only where the protocol number is given, and without it the second part
    # of an answer waits 40 ms for an acknowledgement of the first
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def create_challenger(
    find: Callable[[], LiveIndex | None], folder: Path, params: ServiceParams, metrics: Metrics
) -> LiveModel:
    """The model that an experiment compares with the champion, while there is one; arguments as of `LiveModel`."""
    cache = PackageCache(folder / CHALLENGER, workers=2)
    return LiveModel(
        CHALLENGER, None, find, cache.prepare, cache.remove_others, params, metrics, required=False
    )


async def serve(
    params: ServingParams,
    service: ServiceParams,
    alias: str,
    live: LiveIndex,
    find: Callable[[], LiveIndex | None],
    find_challenger: Callable[[], LiveIndex | None] | None,
    folder: Path,
    listener: socket.socket,
) -> None:
    """Run the service until a signal; then finish the requests that are being answered.

    Args:
        params: All settings.
        service: The section of the service, with the flags of the command line.
        alias: What is served, for messages.
        live: The same now.
        find: Reads it.
        find_challenger: Reads what an experiment compares it with; None for no experiment.
        folder: For downloads.
        listener: The socket.
    """
    metrics = Metrics()
    log = RequestLog(params.log) if params.log.folder else None
    if log:
        metrics.watch_log(lambda: log.dropped)
    cache = PackageCache(folder / alias, workers=2 if find_challenger else 1)
    champion = LiveModel(alias, live, find, cache.prepare, cache.remove_others, service, metrics)
    experiment = None
    if find_challenger:
        challenger = create_challenger(find_challenger, folder, service, metrics)
        experiment = LiveExperiment(params.experiment, champion, challenger, metrics)
    app = build_app(service, champion, metrics, log, experiment)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        server_header=False,
        timeout_graceful_shutdown=int(service.drain_seconds) or 1,
    )
    # uvicorn sends itself the signal that ended it; the exit code must be 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    address = listener.getsockname()
    logging.getLogger("vitrine").info("listening on %s port %d", *address[:2])
    try:
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        if log:
            log.close()
