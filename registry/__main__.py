"""`python -m registry promote VERSION | judge VERSION | rollback | history`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vitrine_judge.errors import JudgeError

from catalog.command import run_command
from catalog.config import read_yaml, validate_values
from catalog.threads import limit_threads
from registry.mlflow_store import connect, translate_errors
from registry.model_registry import ModelRegistry
from registry.params import RegisterParams
from registry.promotion import history, promote, rollback


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run_command`."""
    limit_threads()
    arguments = create_parser().parse_args(argv)
    return run_command(lambda: print(run_verb(arguments)), JudgeError)


def create_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(prog="python -m registry", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("promote", help="make a version the champion")
    verb.add_argument("version", metavar="VERSION")
    verb.add_argument("--force", action="store_true", help="override the gate; needs --reason")
    verb.add_argument("--reason", default="", metavar="TEXT")
    verb = verbs.add_parser("judge", help="judge a version again, against the current champion")
    verb.add_argument("version", metavar="VERSION")
    verb.add_argument(
        "--data", type=Path, default=Path("data"), metavar="PATH", help="the data set; default %(default)s"
    )
    verbs.add_parser("rollback", help="make the previous champion the champion again")
    verbs.add_parser("history", help="list every change of champion")
    return parser


def run_verb(arguments: argparse.Namespace) -> str:
    """Run a verb; its result as text.

    Raises:
        DataError: where params.yaml is wrong, MLflow cannot be reached, or the verb refuses.
    """
    with translate_errors():
        params = load_params(arguments.params)
        registry = ModelRegistry(connect(), params.model_name)
        if arguments.verb == "promote":
            return promote(registry, arguments.version, arguments.force, arguments.reason)
        if arguments.verb == "judge":
            from registry.judging import judge  # its imports are slow

            return judge(registry, arguments.version, arguments.data, params)
        return rollback(registry) if arguments.verb == "rollback" else history(registry)


def load_params(path: Path) -> RegisterParams:
    """The section `register` of params.yaml.

    Raises:
        DataError: where it cannot be read.
    """
    return validate_values(RegisterParams, read_yaml(path).get("register") or {}, path, "register")


if __name__ == "__main__":
    sys.exit(main())
