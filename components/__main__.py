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
    """Run a stage.

    Returns:
        0, or 1 after one message on stderr where the input is at fault, or 130 when interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    top = argparse.ArgumentParser("python -m components", description="Run one stage of the chain.")
    top.add_argument("stage", choices=SECTIONS, help="STAGE --help lists its flags")
    name = top.parse_args(words[:1]).stage
    arguments = vars(flags(name).parse_args(words[1:]))
    file = arguments.pop("params")
    try:
        stage(name)(params=load(file, name), **arguments)
    except (DataError, JudgeError, FloatingPointError) as error:
        print(f"vitrine: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"vitrine: {name}: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"vitrine: {name} interrupted; the same command goes on or starts again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
