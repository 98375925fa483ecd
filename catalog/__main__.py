"""python -m catalog sample|import|queries|refresh-judgements|update|describe: create, change, summarise a data set."""

import argparse
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog.command import run_command
from catalog.schema import DataError
from catalog.threads import limit_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code of `catalog.command.run_command`."""
    limit_threads()
    words = sys.argv[1:] if argv is None else argv
    arguments = _build_parser(formats="import" in words[:1]).parse_args(words)
    return run_command(lambda: arguments.run(arguments))


def _sample(arguments: argparse.Namespace) -> None:
    from catalog.sample import write_sample

    _check_unused(arguments.out)
    write_sample(arguments.out, arguments.products, arguments.seed, arguments.queries)


def _import(arguments: argparse.Namespace) -> None:
    from catalog.sources import import_data, importer_options, preview_data

    options = {name: getattr(arguments, name) for name in importer_options(arguments.format)}
    if arguments.dry_run:
        for line in preview_data(arguments.format, arguments.source, **options):
            print(line)
        return
    if arguments.out is None:
        raise DataError("give --out DIR, a new folder")
    _check_unused(arguments.out)
    import_data(arguments.format, arguments.source, arguments.out, private=arguments.private, **options)


def _queries(arguments: argparse.Namespace) -> None:
    from catalog.queries import add_click_queries, add_derived_queries

    _check_unused(arguments.out)
    if arguments.clicks:
        add_click_queries(arguments.data, arguments.clicks, arguments.out, arguments.personal, arguments.map)
    else:
        add_derived_queries(arguments.data, arguments.out, arguments.most, arguments.seed)


def _refresh_judgements(arguments: argparse.Namespace) -> None:
    from catalog.refresh import refresh_judgements

    _check_unused(arguments.out)
    refresh_judgements(
        arguments.data,
        arguments.out,
        arguments.clicks,
        arguments.personal,
        arguments.most,
        arguments.seed,
        arguments.map,
    )


def _update(arguments: argparse.Namespace) -> None:
    from catalog.update import read_id_words, update_products

    _check_unused(arguments.out)
    update_products(arguments.data, arguments.out, arguments.products, read_id_words(arguments.remove))


def _describe(arguments: argparse.Namespace) -> None:
    from catalog.summary import summarise_data, write_contact_sheet

    print(summarise_data(arguments.data))
    if arguments.sheet:
        write_contact_sheet(arguments.data, arguments.sheet)


def _check_unused(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: already exists; remove it or give another --out")


def _build_parser(formats: bool) -> argparse.ArgumentParser:
    """Build the parser; the slow import of the formats happens only with `formats`."""
    parser = argparse.ArgumentParser(
        prog="python -m catalog", description="Create a data set, or summarise one."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_sample(commands.add_parser("sample", help="generate a sample catalogue with known ground truth"))
    import_parser = commands.add_parser("import", help="convert a public data set or your own tables")
    if formats:
        _add_formats(import_parser)
    queries = commands.add_parser(
        "queries", help="add queries derived from products, or taken from a click log"
    )
    _add_queries(queries, seed=0)
    queries.set_defaults(run=_queries)
    refresh = commands.add_parser(
        "refresh-judgements", help="replace the judged test queries, because each use of them costs evidence"
    )
    _add_queries(refresh, seed=1)
    refresh.set_defaults(run=_refresh_judgements)
    _add_update(
        commands.add_parser("update", help="add, replace and remove products; no query changes its split")
    )
    _add_describe(commands.add_parser("describe", help="summarise a data set"))
    return parser


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--products", type=int, required=True, metavar="N")
    parser.add_argument("--queries", type=int, default=840, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--seed", type=int, required=True, metavar="N", help="the same seed gives the same files"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.set_defaults(run=_sample)


def _add_queries(parser: argparse.ArgumentParser, seed: int) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="a data set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--clicks",
        metavar="LOG",
        help="log of searches and clicks; a file, or the folder or address of a request log; see docs/catalogues.md",
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="COLUMN=NAME",
        help="name of a column in the log, such as query=search_term",
    )
    parser.add_argument(
        "--personal",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column of the log that is allowed although it looks like personal data; it is not read",
    )
    parser.add_argument(
        "--most",
        type=int,
        default=1000,
        metavar="N",
        help="maximal number of derived queries; default %(default)s",
    )
    parser.add_argument(
        "--seed", type=int, default=seed, metavar="N", help="random seed; default %(default)s"
    )


def _add_update(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="a data set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--products",
        type=Path,
        nargs="+",
        default=[],
        metavar="NEW",
        help="data sets of new products, such as an import; an old product with the same id is replaced",
    )
    parser.add_argument(
        "--remove",
        nargs="+",
        default=[],
        metavar="IDS",
        help="ids of products, or files with one id per line",
    )
    parser.set_defaults(run=_update)


def _add_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also write a contact sheet of pictures")
    parser.set_defaults(run=_describe)


def _add_formats(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for each format; its options are the keyword-only arguments of its importer."""
    from catalog.sources import PREVIEWS, importer_options, load_sources

    formats = parser.add_subparsers(required=True, metavar="FORMAT")
    for name, importer in sorted(load_sources().items()):
        description, _, arguments = (inspect.getdoc(importer) or "").partition("\nArgs:")
        format_parser = formats.add_parser(
            name,
            help=_escape(description.partition("\n")[0]),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        format_parser.add_argument(
            "source", type=Path, metavar="SRC", help="the file, zip or folder as published"
        )
        has_preview = name in PREVIEWS
        format_parser.add_argument(
            "--out", type=Path, required=not has_preview, metavar="DIR", help="a new folder"
        )
        if has_preview:
            format_parser.add_argument(
                "--dry-run", action="store_true", help="show the columns and the first rows; write nothing"
            )
        format_parser.add_argument(
            "--private", action="store_true", help="allow downloads from servers with private addresses"
        )
        helps = dict(re.findall(r"^ +(\w+): (.*)$", arguments, re.MULTILINE))
        for option, parameter in importer_options(name).items():
            # a plugin may leave an option undocumented
            format_parser.add_argument(
                f"--{option}", help=_escape(helps.get(option, "")), **_argument_settings(parameter)
            )
        format_parser.set_defaults(run=_import, format=name, dry_run=False)


def _escape(text: str) -> str:
    """Escape a text for argparse, which formats help with `%`."""
    return text.replace("%", "%%")


def _argument_settings(parameter: inspect.Parameter) -> dict[str, Any]:
    """The arguments of `add_argument` for an option of an importer."""
    if isinstance(parameter.default, bool):
        return {"action": "store_true"}
    if isinstance(parameter.default, tuple):
        return {"action": "append", "default": [], "metavar": "COLUMN"}
    kind: type = str if parameter.default is None else type(parameter.default)
    if "Path" in str(parameter.annotation):
        kind = Path
    return {"type": kind, "default": parameter.default, "metavar": kind.__name__.upper()}


if __name__ == "__main__":
    sys.exit(main())
