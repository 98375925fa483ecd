"""`python -m serving [VERB]`: the search service, and what runs beside it."""

import sys
from importlib import import_module

from catalog.command import run_command
from catalog.schema import DataError

# verb → module that has `main`, what it does; without a verb, the service runs
VERBS: dict[str, tuple[str, str]] = {
    "refresh": ("serving.refresh", "publish today's catalogue, encoded by the champion"),
    "monitor": ("serving.monitor.command", "compare a period of the request log with an earlier one"),
    "experiment": ("serving.experiment_report", "what customers prefer, by the request log"),
    "publish": ("serving.publish", "write the live index to Milvus, and switch to it at once"),
}
SERVICE = "serving.service"
NEEDED = ("fastapi", "prometheus_client", "uvicorn")  # of the extra `serving`


def main() -> None:
    """Run the verb.

    Raises:
        DataError: where a package of the extra is missing.
    """
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    module = SERVICE
    if verb in VERBS:
        module = VERBS[verb][0]
        del sys.argv[1]
    elif verb and not verb.startswith("-"):
        raise DataError(
            f"unknown verb '{verb}'; known are {', '.join(VERBS)}; without a verb the service runs"
        )
    try:
        command = import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise DataError(f"{error.name} is not installed: pip install 'vitrine[serving]'") from error
    command.main()


if __name__ == "__main__":
    sys.exit(run_command(main))
