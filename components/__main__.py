"""`python -m components STAGE --input PATH … --output PATH …`. The flags come from the signature of each stage."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from vitrine_judge.errors import JudgeError

from catalog.command import run_command
from catalog.threads import limit_threads
from components.params import SECTIONS, load_section


def load_stage(name: str) -> Callable[..., None]:
    """Load the function `name` of `components/name.py`."""
    return getattr(import_module(f"components.{name}"), name)


def build_parser(name: str) -> argparse.ArgumentParser:
    """Build a parser with one flag per path of the stage's signature; only this stage is imported."""
    function = load_stage(name)
    parser = argparse.ArgumentParser(f"python -m components {name}", description=inspect.getdoc(function))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation is Path:
            parser.add_argument(f"--{parameter.name}", type=Path, required=True, metavar="PATH")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a stage; returns the exit code of `catalog.command.run_command`."""
    limit_threads()  # before the stage imports PyTorch
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m components", description="Run one stage of the chain.")
    parser.add_argument("stage", choices=SECTIONS, help="STAGE --help lists its flags")
    name = parser.parse_args(words[:1]).stage
    arguments = vars(build_parser(name).parse_args(words[1:]))
    params_path = arguments.pop("params")

    def run_stage() -> None:
        load_stage(name)(params=load_section(params_path, name), **arguments)

    return run_command(run_stage, JudgeError, FloatingPointError)


if __name__ == "__main__":
    sys.exit(main())
