"""`python -m components STAGE --input PATH … --output PATH …`, built from each stage's signature."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from catalog.schema import DataError
from components.params import SECTIONS, load
from eval.rankings import JudgeError


def stage(name: str) -> Callable[..., None]:
    """The function `name` of `components/name.py`."""
    return getattr(import_module(f"components.{name}"), name)


def parser() -> argparse.ArgumentParser:
    """One sub-command a stage, one flag a path."""
    top = argparse.ArgumentParser(prog="python -m components", description="Run one stage of the chain.")
    verbs = top.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name in SECTIONS:
        function = stage(name)
        verb = verbs.add_parser(name, help=(inspect.getdoc(function) or "").splitlines()[0])
        for parameter in inspect.signature(function).parameters.values():
            if parameter.annotation is Path:
                verb.add_argument(f"--{parameter.name}", type=Path, required=True, metavar="PATH")
        verb.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a stage.

    Returns:
        0, or 1 after one message on stderr where the input is at fault, or 130 when interrupted.
    """
    arguments = vars(parser().parse_args(argv))
    name, file = arguments.pop("stage"), arguments.pop("params")
    try:
        stage(name)(params=load(file, name), **arguments)
    except (DataError, JudgeError, FloatingPointError, PermissionError) as error:
        print(f"vitrine: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"vitrine: {name} interrupted; the same command goes on or starts again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
