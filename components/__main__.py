"""`python -m components STAGE --input PATH … --output PATH …`, built from each stage's signature."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from catalog.command import run
from components.params import SECTIONS, load
from eval.rankings import JudgeError


def stage(name: str) -> Callable[..., None]:
    """The function `name` of `components/name.py`."""
    return getattr(import_module(f"components.{name}"), name)


def flags(name: str) -> argparse.ArgumentParser:
    """One flag a path of the stage's signature; other stages and what they need are not imported."""
    function = stage(name)
    parser = argparse.ArgumentParser(f"python -m components {name}", description=inspect.getdoc(function))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation is Path:
            parser.add_argument(f"--{parameter.name}", type=Path, required=True, metavar="PATH")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a stage; the exit code of `catalog.command.run`."""
    words = sys.argv[1:] if argv is None else argv
    top = argparse.ArgumentParser("python -m components", description="Run one stage of the chain.")
    top.add_argument("stage", choices=SECTIONS, help="STAGE --help lists its flags")
    name = top.parse_args(words[:1]).stage
    arguments = vars(flags(name).parse_args(words[1:]))
    file = arguments.pop("params")
    return run(lambda: stage(name)(params=load(file, name), **arguments), JudgeError, FloatingPointError)


if __name__ == "__main__":
    sys.exit(main())
