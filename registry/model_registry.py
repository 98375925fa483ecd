"""Aliases of a registered model: `champion` and `challenger`.

A move of the alias `champion` is first added to the history, then made. So the next command can complete a move that
a kill interrupted. It also detects changes that bypassed these commands, and adds them to the history: a champion
that was set by hand in MLflow's UI, and a copy that "Promote model" made of a version whose gate did not pass. As
long as such a champion or copy exists, each command prints a warning.

Where the index of a version is in Milvus, the alias there is moved as a part of the same move.
"""

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from catalog.schema import DataError
from registry.champion_history import ChampionHistory, Copy, How, Move, current_user, previous_champion
from registry.champion_process import CHAMPION
from registry.milvus_alias import follow_champion, require_collection
from registry.mlflow_store import connect, translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"  # alias
GATE, REASONS, COMPARED_WITH = "vitrine.gate", "vitrine.reasons", "vitrine.compared_with"  # tags of a version
UNKNOWN = "unknown"
COPY_SOURCE = re.compile(r"models:/([^/]+)/(\d+)")  # source of a version that MLflow's "Promote model" made


class ModelRegistry:
    """One registered model, its versions and aliases, and the history of its champion.

    Args:
        client: Of `registry.mlflow_store.connect`.
        name: Of the model, which is created if missing.
    """

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self.client, self.name = client, name
        self.history = ChampionHistory(client, name)
        self._printed_warnings: set[str] = set()

    def find_by_alias(self, alias: str) -> str | None:
        """The number of the version that has the alias."""
        number = self.client.get_registered_model(self.name).aliases.get(alias)
        return str(number) if number else None

    def get_version(self, number: str) -> "ModelVersion":
        """The version of that number.

        Raises:
            DataError: where there is none.
        """
        versions = {str(version.version): version for version in self.list_versions()}
        if number not in versions:
            known = ", ".join(sorted(versions, key=int)) or "none"
            raise DataError(f"{self.name} has no version {number}; there are {known}")
        return versions[number]

    def list_versions(self) -> "list[ModelVersion]":
        """All versions."""
        return list(self.client.search_model_versions(f"name = '{self.name}'", max_results=10_000))

    def reconcile(self) -> str | None:
        """Complete an interrupted move, and add changes that were made by hand to the history; the champion."""
        champion, _ = self._reconcile_moves()
        copies = {copy.key: copy for copy in self._find_failed_copies()}
        for key in copies.keys() - {copy.key for copy in self.history.list_copies()}:
            self.history.add_copy(copies[key])
        return champion

    def reconcile_and_warn(self) -> str | None:
        """`reconcile`, then warn on stderr of changes that bypassed the gate, once per process; the champion."""
        champion = self.reconcile()
        warnings = [*self._warn_of_champion(champion), *map(self._warn_of_copy, self._find_failed_copies())]
        for warning in warnings:
            if warning not in self._printed_warnings:
                print(f"{self.name}: warning: {warning}", file=sys.stderr)
                self._printed_warnings.add(warning)
        return champion

    def set_champion(self, number: str, how: How, expected: str | None, reason: str = "") -> None:
        """Make a version the champion.

        Args:
            number: Of the version.
            how: By which command.
            expected: The champion on which the decision was based.
            reason: For a move against the verdict.

        Raises:
            DataError: where the champion is no longer the expected one, or Milvus does not have the version's index.
        """
        champion, moves = self._reconcile_moves()
        require_collection(self.get_version(number), self.get_version(champion) if champion else None)
        move = self._create_move(how, champion, number, reason=reason)
        if champion != expected or not self.history.add_move(move, moves + 1):
            newest = self.history.list_moves()[-1]
            raise DataError(
                f"{self.name}: version {number} is not promoted: the champion has changed (version {newest.new}, "
                f"{newest.how}, user {newest.by}); look at python -m registry history and decide again"
            )
        self.reconcile_and_warn()

    def update_challenger(self, number: str, earned: bool) -> None:
        """Give a version the alias `challenger`, or remove it from this version."""
        challenger = self.find_by_alias(CHALLENGER)
        if earned:
            self.client.set_registered_model_alias(self.name, CHALLENGER, number)
        elif challenger == number:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)
        self._update_run_names(challenger, number)

    def _reconcile_moves(self) -> tuple[str | None, int]:
        """The champion, and the number of moves in the history."""
        while True:
            moves = self.history.list_moves_with_state()
            last, complete = moves[-1] if moves else (None, True)
            champion, recorded = self.find_by_alias(CHAMPION), last.new if last else None
            if last and not complete:
                self._move_aliases(last)
                self._update_run_names(last.old, last.new)
                self.history.complete_move(len(moves))
                if (
                    newest := self.history.list_moves()[-1]
                ) != last:  # another process completed it and went on
                    self._move_aliases(newest)
            elif champion != recorded:
                move = self._create_move("by hand", recorded, champion, user=UNKNOWN)
                self._follow_in_milvus(move)
                self.history.add_move(move, len(moves) + 1)
                self._update_run_names(recorded, champion)
            else:
                return champion, len(moves)

    def _create_move(
        self, how: How, old: str | None, new: str | None, user: str = "", reason: str = ""
    ) -> Move:
        verdict = self.get_version(new).tags.get(GATE, UNKNOWN) if new else ""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return Move(now, user or current_user(), how, old, new, verdict, reason)

    def _move_aliases(self, move: Move) -> None:
        """Make a move: in MLflow, then in Milvus."""
        self._set_champion_alias(move.new)
        self._follow_in_milvus(move)

    def _follow_in_milvus(self, move: Move) -> None:
        versions = {str(version.version): version for version in self.list_versions()}
        follow_champion(self.name, versions.get(move.new or ""), versions.get(move.old or ""))

    def _set_champion_alias(self, number: str | None) -> None:
        """Move the alias `champion`; a challenger that becomes champion loses its other alias."""
        if number is None:
            self.client.delete_registered_model_alias(self.name, CHAMPION)
            return
        self.client.set_registered_model_alias(self.name, CHAMPION, number)
        if self.find_by_alias(CHALLENGER) == number:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def _update_run_names(self, *numbers: str | None) -> None:
        """Name runs after their version and its aliases: MLflow's comparisons show only the name of a run."""
        aliases = self.client.get_registered_model(self.name).aliases
        for version in self.list_versions():
            number = str(version.version)
            if number in numbers and version.run_id:
                roles = [alias for alias, target in sorted(aliases.items()) if str(target) == number]
                self.client.update_run(version.run_id, name=" · ".join([f"version {number}", *roles]))

    def _warn_of_champion(self, champion: str | None) -> Iterator[str]:
        moves = self.history.list_moves()
        if champion is None or moves[-1].how != "by hand":
            return
        verdict = self.get_version(champion).tags.get(GATE)
        if verdict != "passed":
            undo = "rollback" if previous_champion(moves, champion) else "promote VERSION"
            yield (
                f"version {champion} was made champion by hand, but {_describe_verdict(verdict)}; "
                f"to undo: python -m registry {undo}"
            )

    def _warn_of_copy(self, copy: Copy) -> str:
        return (
            f"version {copy.version} was copied in MLflow as {copy.model} version {copy.number}, but "
            f"{_describe_verdict(copy.verdict)}; to undo: delete version {copy.number} of {copy.model} in MLflow"
        )

    def _find_failed_copies(self) -> list[Copy]:
        """The existing copies of versions whose gate did not pass, by the current verdict."""
        verdicts = {str(version.version): version.tags.get(GATE, UNKNOWN) for version in self.list_versions()}
        copies = []
        for version in self.client.search_model_versions(f"source_path LIKE 'models:/{self.name}/%'"):
            source = COPY_SOURCE.fullmatch(version.source or "")
            if not source or source[1] != self.name:
                continue
            number = source[2]
            # the original may be deleted by now
            verdict = verdicts.get(number, version.tags.get(GATE, UNKNOWN))
            if verdict != "passed":
                created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
                time, user = created.isoformat(timespec="microseconds"), version.user_id or UNKNOWN
                copies.append(Copy(time, user, number, version.name, str(version.version), verdict))
        return copies


def copied_from(version: "ModelVersion") -> str | None:
    """The address of the version that MLflow copied, such as "models:/product-search/4"; None for an original."""
    source = str(version.source or "")
    return source if COPY_SOURCE.fullmatch(source) else None


def find_pipeline_version(run_id: str) -> "ModelVersion | None":
    """The model version that a pipeline's run registered, if any.

    Args:
        run_id: Kubeflow's.

    Raises:
        DataError: where the store cannot be reached.
    """
    client = connect()
    with translate_errors():
        versions = client.search_model_versions(f"tags.`vitrine.pipeline.run` = '{run_id}'")
    return versions[0] if versions else None


def _describe_verdict(verdict: str | None) -> str:
    if verdict in (None, UNKNOWN):
        return "no gate has judged it"
    return "its gate failed" if verdict == "failed" else f"its gate is {verdict}"
