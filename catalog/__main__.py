"""python -m catalog sample|import|queries|describe: make a data set, or look at one."""

import argparse
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog.command import run
from catalog.schema import DataError


def _sample(arguments: argparse.Namespace) -> None:
    from catalog.sample import sample

    _unused(arguments.out)
    sample(arguments.out, arguments.products, arguments.seed, arguments.queries)


def _import(arguments: argparse.Namespace) -> None:
    from catalog.sources import import_from, options

    _unused(arguments.out)
    chosen = {name: getattr(arguments, name) for name in options(arguments.format)}
    import_from(arguments.format, arguments.source, arguments.out, private=arguments.private, **chosen)


def _queries(arguments: argparse.Namespace) -> None:
    from catalog.queries import derive, from_clicks

    _unused(arguments.out)
    if arguments.clicks:
        from_clicks(arguments.data, arguments.clicks, arguments.out, arguments.personal)
    else:
        derive(arguments.data, arguments.out, arguments.most, arguments.seed)


def _describe(arguments: argparse.Namespace) -> None:
    from catalog.describe import contact_sheet, describe

    print(describe(arguments.data))
    if arguments.sheet:
        contact_sheet(arguments.data, arguments.sheet)


def _unused(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: already there; remove it or give another --out")


def _parser(formats: bool) -> argparse.ArgumentParser:
    """Of all verbs; `formats` are looked for where they are asked for, as they take long to load."""
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

    verb = verbs.add_parser("import", help="turn a public data set, or tables of your own, into one of ours")
    if formats:
        _add_formats(verb)

    verb = verbs.add_parser("queries", help="add queries made from titles and attributes, or from clicks")
    verb.add_argument("data", type=Path, metavar="DIR", help="a data set")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    verb.add_argument("--clicks", type=Path, metavar="LOG", help="query, product_id, position, clicked")
    verb.add_argument(
        "--personal",
        action="append",
        default=[],
        metavar="COLUMN",
        help="of the log; may look like personal data, and is not read",
    )
    verb.add_argument(
        "--most", type=int, default=1000, metavar="N", help="derived queries; default %(default)s"
    )
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what is drawn; default %(default)s"
    )
    verb.set_defaults(run=_queries)

    verb = verbs.add_parser("describe", help="say what is in a data set")
    verb.add_argument("data", type=Path, metavar="DIR")
    verb.add_argument("--sheet", type=Path, metavar="PNG", help="also write a sheet of pictures")
    verb.set_defaults(run=_describe)
    return parser


def _add_formats(parser: argparse.ArgumentParser) -> None:
    """A sub-command a format; its options are the keyword arguments of its function."""
    from catalog.sources import SOURCES, options

    formats = parser.add_subparsers(required=True, metavar="FORMAT")
    for name in sorted(SOURCES):
        said, _, told = (inspect.getdoc(SOURCES[name]) or "").partition("\nArgs:")
        verb = formats.add_parser(
            name,
            help=said.partition("\n")[0],
            description=said,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        about = dict(re.findall(r"^ +(\w+): (.*)$", told, re.MULTILINE))
        verb.add_argument("source", type=Path, metavar="SRC", help="the file, zip or folder as published")
        verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
        verb.add_argument(
            "--private", action="store_true", help="download pictures from addresses of this network, too"
        )
        for option, one in options(name).items():
            verb.add_argument(f"--{option}", help=about[option], **_argument(one))
        verb.set_defaults(run=_import, format=name)


def _argument(option: inspect.Parameter) -> dict[str, Any]:
    """What argparse is to know of an option."""
    if isinstance(option.default, bool):
        return {"action": "store_true"}
    if isinstance(option.default, tuple):
        return {"action": "append", "default": [], "metavar": "COLUMN"}
    kind: type = str if option.default is None else type(option.default)
    if "Path" in str(option.annotation):
        kind = Path
    return {"type": kind, "default": option.default, "metavar": kind.__name__.upper()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code of `catalog.command.run`."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser(formats="import" in words[:1]).parse_args(words)
    return run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
