"""python -m catalog sample|import|describe: make a data set, or look at one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from catalog.command import run
from catalog.schema import DataError


def _sample(arguments: argparse.Namespace) -> None:
    from catalog.sample import sample

    _unused(arguments.out)
    sample(arguments.out, arguments.products, arguments.seed, arguments.queries)


def _import(arguments: argparse.Namespace) -> None:
    from catalog.sources import SOURCES

    if arguments.format not in SOURCES:
        raise DataError(f"{arguments.format}: no such format; known are {', '.join(sorted(SOURCES))}")
    _unused(arguments.out)
    SOURCES[arguments.format](arguments.source, arguments.out, arguments.seed)


def _describe(arguments: argparse.Namespace) -> None:
    from catalog.describe import contact_sheet, describe

    print(describe(arguments.data))
    if arguments.sheet:
        contact_sheet(arguments.data, arguments.sheet)


def _unused(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: already there; remove it or give another --out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m catalog", description="Make a data set, or look at one.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("sample", help="draw a catalogue whose truth is known")
    verb.add_argument("--products", type=int, required=True, metavar="N")
    verb.add_argument("--queries", type=int, default=720, metavar="N", help="default %(default)s")
    verb.add_argument(
        "--seed", type=int, required=True, metavar="N", help="the same seed draws the same bytes"
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    verb.set_defaults(run=_sample)

    verb = verbs.add_parser("import", help="turn a public data set into one of ours")
    verb.add_argument("format", help="fashion, …")
    verb.add_argument("source", type=Path, help="the file or folder as published")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for what is drawn by chance; default %(default)s"
    )
    verb.set_defaults(run=_import)

    verb = verbs.add_parser("describe", help="say what is in a data set")
    verb.add_argument("data", type=Path, metavar="DIR")
    verb.add_argument("--sheet", type=Path, metavar="PNG", help="also write a sheet of pictures")
    verb.set_defaults(run=_describe)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code of `catalog.command.run`."""
    arguments = _parser().parse_args(argv)
    return run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
