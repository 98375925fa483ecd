"""`python -m registry promote VERSION | rollback | history`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from catalog.command import run
from catalog.config import read_yaml, validate_values
from registry import tracking
from registry.model_registry import Registry
from registry.params import RegisterParams
from registry.promotion import history, promote, rollback


def load_model_name(path: Path) -> str:
    """The model's name in params.yaml.

    Raises:
        DataError: where the section `register` cannot be read.
    """
    return validate_values(RegisterParams, read_yaml(path).get("register") or {}, path, "register").model_name


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run`."""
    top = argparse.ArgumentParser(prog="python -m registry", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("promote", help="make a version the champion")
    verb.add_argument("version", metavar="VERSION")
    verb.add_argument("--force", action="store_true", help="override the gate; needs --reason")
    verb.add_argument("--reason", default="", metavar="TEXT")
    verbs.add_parser("rollback", help="make the previous champion the champion again")
    verbs.add_parser("history", help="every change of champion")
    arguments = top.parse_args(argv)

    def work() -> None:
        with tracking.reached():
            registry = Registry(tracking.connect(), load_model_name(arguments.params))
            if arguments.verb == "promote":
                print(promote(registry, arguments.version, arguments.force, arguments.reason))
            else:
                print({"rollback": rollback, "history": history}[arguments.verb](registry))

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
