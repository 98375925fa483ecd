"""Who is champion, who was, and why.

Every move of the alias `champion` is a parameter of one MLflow run, the model's history. MLflow lets no parameter
change once it is set, and its database lets one of two writers set it: so the history only grows, and of two
promotions at once one wins and the other is told. A move is first written down and then made, so that what a kill
interrupts, the next command finishes. A move made by hand in MLflow's UI is found by the next command, and written
down as such; so is a copy that MLflow's "Promote model" made of a version whose gate did not pass. As long as such a
champion or copy stands, each command warns of it.
"""

import getpass
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

from catalog.schema import DataError
from registry import tracking
from registry.champion_process import CHAMPION

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
HISTORY = "vitrine.history"  # tag of the model: the run that holds its history
GATE, REASONS, COMPARED_WITH = "vitrine.gate", "vitrine.reasons", "vitrine.compared_with"  # tags of a version
DONE = " done"
REASON = 1000  # characters
UNKNOWN = "unknown"
COPY = re.compile(r"models:/([^/]+)/(\d+)")  # source of a version that MLflow's "Promote model" made
COPIED = "copy "  # how the parameters of the history begin that hold copies

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


@dataclass(frozen=True)
class Copy:
    """A copy that MLflow's "Promote model" made of a version whose gate did not pass.

    Attributes:
        at: When it was made, ISO 8601 in UTC.
        by: Who, where MLflow knows.
        version: The version that was copied.
        model, number: The model and version that the copy is.
        verdict: The gate's on `version`, when the copy was noticed.
    """

    at: str
    by: str
    version: str
    model: str
    number: str
    verdict: str

    @property
    def key(self) -> str:
        """The parameter of the history that holds it; a model's name may have characters that none may have."""
        return COPIED + blake2b(f"{self.model}/{self.number}/{self.at}".encode(), digest_size=8).hexdigest()


class Registry:
    """One registered model, its aliases, and the history of its champion.

    Args:
        client: Of `registry.tracking.connect`.
        name: Of the model, which is made where it is missing.
    """

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self.client, self.name = client, name
        self._run = self._history_run()
        self._shown: set[str] = set()

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

    def copies(self) -> list[Copy]:
        """The copies that the history holds, oldest first."""
        params = self.client.get_run(self._run).data.params
        copies = [Copy(**json.loads(value)) for key, value in params.items() if key.startswith(COPIED)]
        return sorted(copies, key=lambda copy: copy.at)

    def finish(self) -> str | None:
        """Finish a move that was interrupted, write down what was done by hand; the champion."""
        champion, _ = self._settled()
        new = {copy.key: copy for copy in self._standing_copies()}
        for key in new.keys() - {copy.key for copy in self.copies()}:
            self._write_copy(new[key])
        return champion

    def settle(self) -> str | None:
        """`finish`, and warn on stderr of what was done by hand against the gate, once in a process; the champion."""
        champion = self.finish()
        for line in [*self._champion_warning(champion), *map(self._copy_warning, self._standing_copies())]:
            if line not in self._shown:
                print(f"{self.name}: warning: {line}", file=sys.stderr)
                self._shown.add(line)
        return champion

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
                self._write(self._noted("by hand", known, champion, by=UNKNOWN), len(written) + 1)
                self._name_runs(known, champion)
            else:
                return champion, len(written)

    def _champion_warning(self, champion: str | None) -> Iterator[str]:
        moves = self.moves()
        if champion is None or moves[-1].how != "by hand":
            return
        verdict = self.version(champion).tags.get(GATE)
        if verdict != "passed":
            undo = "rollback" if previous_champion(moves, champion) else "promote VERSION"
            yield (
                f"version {champion} was made champion by hand, and {_gate_words(verdict)}; to undo: python -m "
                f"registry.model_registry {undo}"
            )

    def _copy_warning(self, copy: Copy) -> str:
        return (
            f"version {copy.version} was copied as {copy.model} version {copy.number} in MLflow, and "
            f"{_gate_words(copy.verdict)}; to undo: delete version {copy.number} of {copy.model} in MLflow"
        )

    def _standing_copies(self) -> list[Copy]:
        """The copies there are of versions whose gate did not pass, by today's verdict."""
        verdicts = {str(version.version): version.tags.get(GATE, UNKNOWN) for version in self.versions()}
        copies = []
        for copy in self.client.search_model_versions(f"source_path LIKE 'models:/{self.name}/%'"):
            source = COPY.fullmatch(copy.source or "")
            if not source or source[1] != self.name:
                continue
            verdict = verdicts.get(
                source[2], copy.tags.get(GATE, UNKNOWN)
            )  # what was copied may be deleted by now
            if verdict != "passed":
                at = datetime.fromtimestamp(copy.creation_timestamp / 1000, UTC).isoformat(
                    timespec="microseconds"
                )
                by = copy.user_id or UNKNOWN
                copies.append(Copy(at, by, source[2], copy.name, str(copy.version), verdict))
        return copies

    def _write_copy(self, copy: Copy) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.log_param(self._run, copy.key, json.dumps(asdict(copy)))
        except MlflowException:
            if copy.key not in {other.key for other in self.copies()}:  # nobody else wrote it down
                raise

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
        verdict = self.version(new).tags.get(GATE, UNKNOWN) if new else ""
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


def copied_from(version: "ModelVersion") -> str | None:
    """The address of the version that MLflow copied, such as "models:/product-search/4"; None for an original."""
    source = str(version.source or "")
    return source if COPY.fullmatch(source) else None


def _gate_words(verdict: str | None) -> str:
    if verdict in (None, UNKNOWN):
        return "no gate has judged it"
    return "its gate failed" if verdict == "failed" else f"its gate is {verdict}"


def user() -> str:
    """Who is at work: MLflow's user, else the system's."""
    with suppress(OSError, KeyError):  # a container's user may have no name
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return f"user {os.getuid()}"


def previous_champion(moves: Sequence[Move], champion: str | None) -> str | None:
    """The version that a rollback makes champion; None where there is none.

    Args:
        moves: The history, oldest first.
        champion: Today's.
    """
    reigns: list[str] = []
    for move in moves:
        if move.how == "rolled back":
            while reigns and reigns[-1] != move.new:
                reigns.pop()
        elif move.new:
            reigns.append(move.new)
    before = reigns[:-1] if champion else reigns
    return before[-1] if before else None
