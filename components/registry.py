"""Who is champion, who was, and why: `python -m components.registry promote VERSION | rollback | history`.

Every move of the alias `champion` is a parameter of one MLflow run, the model's history. MLflow lets no parameter
change once it is set, and its database lets one of two writers set it: so the history only grows, and of two
promotions at once one wins and the other is told. A move is first written down and then made, so that what a kill
interrupts, the next command finishes. A move made by hand in MLflow's UI is found by the next command, and written
down as such.
"""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from catalog.command import run
from catalog.schema import DataError
from components import tracking
from components.champion import CHAMPION
from components.params import RegisterParams, load
from eval.tables import table

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
HISTORY = "vitrine.history"  # tag of the model: the run that holds its history
GATE, REASONS, COMPARED_WITH = "vitrine.gate", "vitrine.reasons", "vitrine.compared_with"  # tags of a version
DONE = " done"
REASON = 1000  # characters

How = Literal["promoted", "promoted by the chain", "rolled back", "by hand"]


@dataclass(frozen=True)
class Move:
    """One change of champion.

    Attributes:
        at: When, ISO 8601 in UTC; of a move by hand, when it was noticed.
        by: Who.
        how: By what.
        old, new: Versions; None for no champion.
        verdict: The gate's on `new`, at that time.
        reason: Of a promotion against the verdict.
    """

    at: str
    by: str
    how: How
    old: str | None
    new: str | None
    verdict: str
    reason: str = ""


class Registry:
    """One registered model, its aliases, and the history of its champion.

    Args:
        client: Of `components.tracking.connect`.
        name: Of the model, which is made where it is missing.
    """

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self.client, self.name = client, name
        self._run = self._history_run()

    def alias(self, alias: str) -> str | None:
        """The version that has it."""
        number = self.client.get_registered_model(self.name).aliases.get(alias)
        return str(number) if number else None

    def version(self, number: str) -> "ModelVersion":
        """One version.

        Raises:
            DataError: where there is none of that number.
        """
        versions = {str(one.version): one for one in self.versions()}
        if number not in versions:
            known = ", ".join(sorted(versions, key=int)) or "none"
            raise DataError(f"{self.name} has no version {number}; there are {known}")
        return versions[number]

    def moves(self) -> list[Move]:
        """The history, oldest first."""
        return [move for move, _ in self._written()]

    def settle(self) -> str | None:
        """Finish a move that was interrupted, write down one that was made by hand; the champion."""
        return self._settled()[0]

    def move(self, new: str, how: How, seen: str | None, reason: str = "") -> None:
        """Make a version the champion.

        Args:
            new: Its number.
            how: By what.
            seen: The champion on which the decision was made.
            reason: Of a move against the verdict.

        Raises:
            DataError: where another one has become champion since.
        """
        champion, moves = self._settled()
        if champion != seen or not self._write(self._noted(how, champion, new, reason=reason), moves + 1):
            other = self.moves()[-1]
            raise DataError(
                f"{self.name}: version {new} is not champion: {other.by} was faster, and version {other.new} was "
                f"{other.how}; look at the history and decide again"
            )
        self.settle()

    def challenge(self, number: str, earned: bool) -> None:
        """Give a version the alias `challenger`, or take it away where it no longer earns it."""
        before = self.alias(CHALLENGER)
        if earned:
            self.client.set_registered_model_alias(self.name, CHALLENGER, number)
        elif before == number:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)
        self._name_runs(before, number)

    def versions(self) -> "list[ModelVersion]":
        """All of them."""
        return list(self.client.search_model_versions(f"name = '{self.name}'", max_results=10_000))

    def _settled(self) -> tuple[str | None, int]:
        """The champion, and how many moves the history has."""
        while True:
            written = self._written()
            last, done = written[-1] if written else (None, True)
            champion, known = self.alias(CHAMPION), last.new if last else None
            if last and not done:
                self._point(last.new)
                self._name_runs(last.old, last.new)
                self.client.log_param(self._run, f"{len(written):04d}{DONE}", "true")
                if (newest := self.moves()[-1]) != last:  # somebody else finished it, and went on
                    self._point(newest.new)
            elif champion != known:
                self._write(self._noted("by hand", known, champion, by="unknown"), len(written) + 1)
                self._name_runs(known, champion)
            else:
                return champion, len(written)

    def _history_run(self) -> str:
        """The run of the history: whoever makes the model makes it, and the model's tag names it."""
        from mlflow.exceptions import MlflowException

        found = self.client.search_registered_models(f"name = '{self.name}'")
        if found and HISTORY in found[0].tags:
            return str(found[0].tags[HISTORY])
        experiment, named = (
            tracking.experiment(self.client, f"{tracking.EXPERIMENT}-registry"),
            f"history of {self.name}",
        )
        oldest = ["attributes.start_time"]  # of attempts that were killed before they made the model
        left = self.client.search_runs([experiment], f"attributes.run_name = '{named}'", order_by=oldest)
        own = (left or [self.client.create_run(experiment, run_name=named)])[0].info.run_id
        self.client.set_terminated(own)
        if found:  # made by hand
            self.client.set_registered_model_tag(self.name, HISTORY, own)
            return own
        try:
            self.client.create_registered_model(self.name, tags={HISTORY: own})
        except MlflowException:
            found = self.client.search_registered_models(f"name = '{self.name}'")
            if not found or HISTORY not in found[0].tags:
                raise
            theirs = str(found[0].tags[HISTORY])
            if theirs != own:
                self.client.delete_run(own)
            return theirs
        return own

    def _written(self) -> list[tuple[Move, bool]]:
        """Every move, and whether it was finished."""
        params = self.client.get_run(self._run).data.params
        keys = sorted(key for key in params if key.isdigit())
        moves = [(key, Move(**json.loads(params[key]))) for key in keys]
        return [(move, move.how == "by hand" or f"{key}{DONE}" in params) for key, move in moves]

    def _write(self, move: Move, number: int) -> bool:
        """Write down a move as the one of that number; whether nobody else did."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.log_param(self._run, f"{number:04d}", json.dumps(asdict(move)))
        except MlflowException:
            if self.moves()[number - 1 : number] in ([], [move]):
                raise
            return False
        return True

    def _noted(self, how: How, old: str | None, new: str | None, by: str = "", reason: str = "") -> Move:
        verdict = self.version(new).tags.get(GATE, "unknown") if new else ""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return Move(now, by or user(), how, old, new, verdict, reason)

    def _point(self, number: str | None) -> None:
        """Let the alias `champion` be that version's, which no longer challenges."""
        if number is None:
            self.client.delete_registered_model_alias(self.name, CHAMPION)
            return
        self.client.set_registered_model_alias(self.name, CHAMPION, number)
        if self.alias(CHALLENGER) == number:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def _name_runs(self, *numbers: str | None) -> None:
        """Name runs after their version and its aliases: MLflow's comparisons show no more than the name of a run."""
        aliases = self.client.get_registered_model(self.name).aliases
        for one in self.versions():
            if str(one.version) in numbers and one.run_id:
                roles = [
                    alias for alias, number in sorted(aliases.items()) if str(number) == str(one.version)
                ]
                self.client.update_run(one.run_id, name=" · ".join([f"version {one.version}", *roles]))


def user() -> str:
    """Who is at work: MLflow's user, else the system's."""
    with suppress(OSError, KeyError):  # a container's user may have no name
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return f"user {os.getuid()}"


def promote(registry: Registry, number: str, force: bool = False, reason: str = "") -> str:
    """Make a version the champion, if its gate passed against the one there is.

    Args:
        registry: Where.
        number: Of the version.
        force: Whatever the gate says.
        reason: Why, if forced.

    Returns:
        What was done, in one sentence.

    Raises:
        DataError: an unknown version, a verdict that does not allow it, force without a reason, or somebody was faster.
    """
    if force != bool(reason.strip()) or len(reason) > REASON:
        raise DataError(f"--force and --reason go together; give a reason of 1 to {REASON:,} characters")
    champion, version = registry.settle(), registry.version(number)
    if champion == number:
        return f"version {number} is the champion already"
    verdict, compared = (version.tags.get(tag) for tag in (GATE, COMPARED_WITH))
    standing = f"version {champion}" if champion else "no champion"
    wrong = ""
    if verdict is None:
        wrong = "no gate has judged it; register it with the chain"
    elif verdict != "passed":
        wrong = f"its gate {verdict}: {version.tags.get(REASONS, '')}"
    elif compared != (champion or ""):
        against = f"version {compared}" if compared else "no champion"
        wrong = f"it was judged against {against}, and now there is {standing}; register it again"
    if wrong and not force:
        raise DataError(
            f"version {number} is not promoted: {wrong}\n  (--force --reason TEXT does it all the same, and is "
            "written down)"
        )
    registry.move(number, "promoted", champion, reason)
    return f"version {number} is the champion; before, there was {standing}"


def rollback(registry: Registry) -> str:
    """Make the previous champion the champion again; a second time, the one before it.

    Raises:
        DataError: where there is none, or somebody was faster.
    """
    champion = registry.settle()
    reigns: list[str] = []
    for move in registry.moves():
        if move.how == "rolled back":
            while reigns and reigns[-1] != move.new:
                reigns.pop()
        elif move.new:
            reigns.append(move.new)
    before = reigns[:-1] if champion else reigns
    if not before:
        raise DataError(f"{registry.name} has no previous champion to go back to; see the history")
    registry.version(before[-1])
    registry.move(before[-1], "rolled back", champion)
    return f"version {before[-1]} is the champion again; before, it was {f'version {champion}' if champion else 'none'}"


def history(registry: Registry) -> str:
    """Every change of champion, as a table; oldest first."""
    registry.settle()
    rows = [
        [move.at[:19] + "Z", move.old or "–", move.new or "–", move.how, move.by, move.verdict, move.reason]
        for move in registry.moves()
    ]
    return (
        table([["when", "from", "to", "how", "by", "gate", "reason"], *rows]) if rows else "no champion yet"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run`."""
    top = argparse.ArgumentParser(prog="python -m components.registry", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("promote", help="make a version the champion")
    verb.add_argument("version", metavar="VERSION")
    verb.add_argument("--force", action="store_true", help="whatever the gate says; needs --reason")
    verb.add_argument("--reason", default="", metavar="TEXT")
    verbs.add_parser("rollback", help="make the previous champion the champion again")
    verbs.add_parser("history", help="every change of champion")
    asked = top.parse_args(argv)

    def work() -> None:
        params = cast(RegisterParams, load(asked.params, "register"))
        with tracking.reached():
            registry = Registry(tracking.connect(), params.model_name)
            if asked.verb == "promote":
                print(promote(registry, asked.version, asked.force, asked.reason))
            else:
                print({"rollback": rollback, "history": history}[asked.verb](registry))

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
