"""`make try`: a search page on this machine, with champion and challenger side by side.

Each model runs in its own process: in one process, both would use the code of the first.
"""

import argparse
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import cast

import uvicorn

from catalog.command import run_command
from catalog.schema import DataError
from catalog.threads import limit_threads
from components.params import RegisterParams, load_section
from registry import local_stack, mlflow_store
from registry.model_registry import CHALLENGER, CHAMPION, ModelRegistry
from serving.demo.catalogue import DemoCatalogue
from serving.demo.page import Demo
from serving.demo.search import Model
from serving.demo.votes import Votes

HOST = "127.0.0.1"


def main() -> None:
    """Serve the models and the page until interrupted."""
    limit_threads()  # of the models' processes, too
    arguments = parse_arguments()
    local_stack.exit_on_sigterm()
    name = cast(RegisterParams, load_section(arguments.params, "register")).model_name
    versions = find_versions(name)
    catalogue, votes = DemoCatalogue.load(arguments.data), Votes(arguments.votes)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(arguments.port))
        models = start_models(name, versions, stack)
        app = Demo(models, catalogue, votes).build_app()
        address = f"http://{HOST}:{arguments.port}"
        print(f"open {address}; stop with Ctrl-C", flush=True)
        if not arguments.headless:  # in a thread, because a terminal browser would block
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listener])


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.demo", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="data set of the catalogue to show")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    parser.add_argument(
        "--votes", type=Path, default=Path("votes"), metavar="DIR", help="folder to save votes in"
    )
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--headless", action="store_true", help="do not open a browser")
    return parser.parse_args()


def start_models(name: str, versions: Mapping[str, str], stack: ExitStack) -> list[Model]:
    """Start a server for each version; they stop with the stack.

    Args:
        name: Name of the registered model.
        versions: Version → alias.
        stack: Closes the servers and their folder of logs.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    models = []
    for version, alias in versions.items():
        server = local_stack.serve_model(f"models:/{name}/{version}", folder / f"{version}.log")
        model = Model(alias, version, stack.enter_context(server))
        print(f"{model.label} answers at {model.address}", flush=True)
        models.append(model)
    return models


def find_versions(name: str) -> Mapping[str, str]:
    """Find champion and challenger: version → alias, the champion first, one entry if both are the same version.

    Args:
        name: Name of the registered model.

    Raises:
        DataError: the model has neither.
    """
    with mlflow_store.translate_errors():
        registry = ModelRegistry(mlflow_store.connect(), name)
        numbers = {
            alias: number for alias in (CHAMPION, CHALLENGER) if (number := registry.find_by_alias(alias))
        }
    if not numbers:
        raise DataError(f"{name} has neither champion nor challenger; run the chain first (make demo)")
    versions: dict[str, str] = {}
    for alias, number in numbers.items():
        versions[number] = f"{versions[number]} and {alias}" if number in versions else alias
    return versions


def listen(port: int) -> socket.socket:
    """Listen on this machine's loopback address only; early requests wait until the page is ready.

    Raises:
        DataError: the port is in use.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise DataError(f"port {port}: {error.strerror}; choose another port with --port") from error


if __name__ == "__main__":
    sys.exit(run_command(main))
