"""`make try`: a page to search with, on this machine; champion and challenger answer side by side.

Each model is served by a process of its own, since two of them in one would share the code of the first.
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

from catalog.command import run
from catalog.schema import DataError
from components.params import RegisterParams, load
from registry import local_stack, tracking
from registry.model_registry import CHALLENGER, CHAMPION, Registry
from serving.demo.catalogue import Shop
from serving.demo.page import Demo
from serving.demo.search import Model
from serving.demo.votes import Votes

HOST = "127.0.0.1"


def main() -> None:
    """Serve the models that there are, and the page, until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m serving.demo", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="the data set whose pictures are shown"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    parser.add_argument(
        "--votes", type=Path, default=Path("votes"), metavar="DIR", help="where votes are kept"
    )
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--headless", action="store_true", help="open no browser")
    options = parser.parse_args()
    local_stack.stop_when_told()
    name = cast(RegisterParams, load(options.params, "register")).model_name
    versions = find_versions(name)
    shop, votes = Shop.load(options.data), Votes(options.votes)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(options.port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = []
        for number, alias in versions.items():
            served = local_stack.model(f"models:/{name}/{number}", folder / f"{number}.log")
            models.append(Model(alias, number, stack.enter_context(served)))
            print(f"{models[-1].label} answers at {models[-1].address}", flush=True)
        app = Demo(models, shop, votes).app()
        address = f"http://{HOST}:{options.port}"
        print(f"the page is at {address}; Ctrl-C stops it", flush=True)
        if not options.headless:  # a thread, for a browser in the terminal lets its caller wait
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)).run(
            sockets=[listener]
        )


def find_versions(name: str) -> Mapping[str, str]:
    """Version → alias, the champion first; a version that is both is shown once.

    Args:
        name: Of the registered model.

    Raises:
        DataError: where there is neither.
    """
    with tracking.reached():
        registry = Registry(tracking.connect(), name)
        numbers = {alias: number for alias in (CHAMPION, CHALLENGER) if (number := registry.alias(alias))}
    if not numbers:
        raise DataError(f"{name} has neither champion nor challenger to try; run the chain first (make demo)")
    versions: dict[str, str] = {}
    for alias, number in numbers.items():
        versions[number] = f"{versions[number]} and {alias}" if number in versions else alias
    return versions


def listen(port: int) -> socket.socket:
    """A socket that listens to this machine alone; requests wait there until the page is ready.

    Raises:
        DataError: where the port is taken.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise DataError(f"port {port}: {error.strerror}; choose another one with --port") from error


if __name__ == "__main__":
    sys.exit(run(main))
