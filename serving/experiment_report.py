"""`python -m serving experiment`: what customers prefer, by the request log.

It prints a table, writes a page, and records the result on the challenger's version, where `python -m registry judge`
finds it.
"""

import argparse
import math
from datetime import UTC, datetime
from pathlib import Path

from vitrine_judge.online import OnlineRule
from vitrine_judge.tables import format_table

from catalog.config import read_yaml, validate_values
from catalog.schema import DataError
from registry.champion_process import CHAMPION
from registry.mlflow_store import connect, translate_errors
from registry.model_registry import CHALLENGER, ModelRegistry
from registry.online_results import record_online_result, record_shadow_result
from registry.params import RegisterParams
from serving.experiment import KINDS, SHADOW
from serving.experiment_log import ExperimentLog, Pair, read_experiment
from serving.experiment_outcomes import measure_outcomes
from serving.experiment_page import Content, describe_preference, describe_shadow, render_page
from serving.params import load_serving_params
from serving.shadow_comparison import compare_shadow


def main() -> None:
    """Measure the experiment, print and record its result.

    Raises:
        DataError: the log has no result yet, the arms of an A/B test differ in size, or MLflow cannot be reached.
    """
    arguments = parse_arguments()
    params, register = load_serving_params(arguments.settings), load_register_params(arguments.params)
    folder = arguments.log or params.log.folder
    if folder is None:
        raise DataError(f"{arguments.settings}: log.folder is null; name the log with --log")
    until = arguments.until or datetime.now(UTC)
    with translate_errors():
        registry = ModelRegistry(connect(), register.model_name)
        pair = choose_pair(registry, arguments.champion, arguments.challenger)
        log = read_experiment(folder, pair, arguments.kind, arguments.since, until)
        rule = OnlineRule(**register.online.model_dump()) if register.online else OnlineRule()
        if log.kind == SHADOW:
            content, page = report_shadow(registry, log)
        else:
            content, page = report_preference(registry, log, rule, until, params.experiment.max_searches)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page)
    print(f"{describe(log, content)}\n{arguments.out}: the page")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", type=Path, default=Path("serving.yaml"), metavar="FILE")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="has the rule online"
    )
    parser.add_argument("--log", metavar="FOLDER", help="in place of log.folder")
    parser.add_argument("--champion", metavar="N", help="version; default: that of the alias")
    parser.add_argument("--challenger", metavar="M", help="version; default: that of the alias")
    parser.add_argument("--kind", choices=KINDS, help="needed if the log has several kinds of this pair")
    for name, text in (("since", "start of the experiment; default: of the log"), ("until", "default: now")):
        parser.add_argument(
            f"--{name}", type=parse_time, metavar="TIME", help=f"{text}; ISO 8601, UTC if no zone is given"
        )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("artifacts/experiment.html"),
        metavar="FILE",
        help="the page; default %(default)s",
    )
    return parser.parse_args()


def parse_time(text: str) -> datetime:
    """A time in ISO 8601, in UTC where it has no zone."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def load_register_params(path: Path) -> RegisterParams:
    """The section `register` of params.yaml; its defaults without the file."""
    section = read_yaml(path).get("register") if path.exists() else None
    return validate_values(RegisterParams, section or {}, path, "register")


def choose_pair(registry: ModelRegistry, champion: str | None, challenger: str | None) -> Pair:
    """The versions to compare: those given, else those of the aliases.

    Raises:
        DataError: no version has the alias.
    """
    numbers = {CHAMPION: champion, CHALLENGER: challenger}
    for alias, number in numbers.items():
        numbers[alias] = number or registry.find_by_alias(alias)
        if numbers[alias] is None:
            raise DataError(f"{registry.name} has no {alias}; name the versions: --champion N --challenger M")
    return Pair(str(numbers[CHAMPION]), str(numbers[CHALLENGER]))


def report_preference(
    registry: ModelRegistry, log: ExperimentLog, rule: OnlineRule, until: datetime, max_searches: int
) -> tuple[Content, str]:
    """Measure and record an interleaving or an A/B test; the content of its page, and the page.

    Raises:
        DataError: no session counts yet, or the arms differ in size.
    """
    outcomes, pair = measure_outcomes(log, until, max_searches), log.pair
    if outcomes.result is None:
        counts = "; ".join(f"{number:,} {name}" for name, number in outcomes.counts.items())
        raise DataError(f"no session counts yet: {counts}; try again later")
    content = describe_preference(pair, outcomes, outcomes.result, rule)
    page = render_page(registry.name, log, content)
    record_online_result(registry, pair.challenger, pair.champion, outcomes.result, rule.confidence, page)
    return content, page


def report_shadow(registry: ModelRegistry, log: ExperimentLog) -> tuple[Content, str]:
    """Compare and record a shadow; as `report_preference`."""
    comparison = compare_shadow(log)
    content = describe_shadow(log, comparison)
    figures = {name: value for name, value in comparison._asdict().items() if not math.isnan(value)}
    page = render_page(registry.name, log, content)
    record_shadow_result(registry, log.pair.challenger, log.pair.champion, figures, page)
    return content, page


def describe(log: ExperimentLog, content: Content) -> str:
    """The same for a terminal; of the days, only the page has all."""
    versions = f"version {log.pair.challenger} against the champion, version {log.pair.champion}"
    first = f"{log.kind}: {versions}, {content.period}"
    tables = [
        format_table([table.heads, *([cell.text for cell in row] for row in table.rows[-7:])])
        for table in content.tables
    ]
    return "\n\n".join([first, *tables, content.text])
