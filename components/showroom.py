"""`make try`: champion and challenger side by side, in a small web page on this machine.

Each model is served by a process of its own, since two of them in one would share the code of the first; the page,
`showroom_page.py`, is Streamlit's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from catalog.command import run
from catalog.schema import DataError
from components import services, tracking
from components.params import RegisterParams, load
from components.registry import CHALLENGER, CHAMPION, Registry

PAGE = Path(__file__).with_name("showroom_page.py")


def main() -> None:
    """Serve the models that there are, and the page, until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m components.showroom", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="whose pictures are shown")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--headless", action="store_true", help="open no browser")
    asked = parser.parse_args()
    services.stop_when_told()
    name = cast(RegisterParams, load(asked.params, "register")).model_name
    with tracking.reached():
        registry = Registry(tracking.connect(), name)
        found = {alias: registry.alias(alias) for alias in (CHAMPION, CHALLENGER)}
    versions = {alias: number for alias, number in found.items() if number}
    if not versions:
        raise DataError(f"{name} has neither champion nor challenger to try; run the chain first (make demo)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = {}
        for alias, number in versions.items():
            label = f"{alias} · version {number}"
            served = services.model(f"models:/{name}/{number}", folder / f"{alias}.log")
            models[label] = stack.enter_context(served)
            print(f"{label} answers at {models[label]}", flush=True)
        words = [sys.executable, "-m", "streamlit", "run", str(PAGE)]
        words += ["--server.address", "127.0.0.1", "--server.port", str(asked.port)]
        words += ["--server.headless", str(asked.headless).lower(), "--server.maxUploadSize", "20"]
        words += ["--browser.gatherUsageStats", "false", "--", json.dumps(models), str(asked.data.resolve())]
        subprocess.run(words, check=False)


if __name__ == "__main__":
    sys.exit(run(main))
