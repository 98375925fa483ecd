"""The history of champions, and of looks at the evidence: parameters of one MLflow run per registered model.

MLflow does not change a parameter once it is set, and its database lets only one of two writers set it. So the
history only grows, and of two simultaneous promotions only one succeeds.
"""

import getpass
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from registry.mlflow_store import EXPERIMENT, ensure_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY = "vitrine.history"  # tag of the model: the id of the run that holds its history
COMPLETED = " done"  # suffix of a parameter: the move was made
COPIED = "copy "  # prefix of a parameter that holds a copy
LOOK = "look "  # prefix of a parameter that holds a look

How = Literal["promoted", "promoted by the chain", "rolled back", "by hand"]


@dataclass(frozen=True)
class Move:
    """One change of champion.

    Attributes:
        at: When, ISO 8601 in UTC; for a move by hand, when it was detected.
        by: The user.
        how: By which command.
        old, new: Versions; None for no champion.
        verdict: The gate's on `new`, at that time.
        reason: For a promotion against the verdict.
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
        by: The user, where MLflow knows.
        version: The version that was copied.
        model, number: Model and version of the copy.
        verdict: The gate's on `version`, when the copy was detected.
    """

    at: str
    by: str
    version: str
    model: str
    number: str
    verdict: str

    @property
    def key(self) -> str:
        """Its parameter in the history: a hash, as a model's name may have characters that parameters must not."""
        return COPIED + blake2b(f"{self.model}/{self.number}/{self.at}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Look:
    """A comparison of a version with the champion.

    Attributes:
        at: When, ISO 8601 in UTC.
        by: The user.
        version: The version that was compared.
        weights: The fingerprint of its weights.
        champion: The version that it was compared with.
        queries: The test queries, of `vitrine_judge.looks.sketch_queries`.
        verdict: The gate's.
        holdout: Whether the holdout was used.
    """

    at: str
    by: str
    version: str
    weights: str
    champion: str
    queries: Sequence[str]
    verdict: str
    holdout: bool

    @property
    def key(self) -> str:
        """Its parameter in the history. The same comparison has the same key."""
        content = json.dumps([self.version, self.champion, list(self.queries), self.holdout])
        return LOOK + blake2b(content.encode(), digest_size=8).hexdigest()


class ChampionHistory:
    """The history of one registered model.

    Args:
        client: Of `registry.mlflow_store.connect`.
        model_name: Of the registered model, which is created if missing.
    """

    def __init__(self, client: "MlflowClient", model_name: str) -> None:
        self._client = client
        self._run_id = _ensure_history_run(client, model_name)

    def list_moves(self) -> list[Move]:
        """All moves, oldest first."""
        return [move for move, _ in self.list_moves_with_state()]

    def list_moves_with_state(self) -> list[tuple[Move, bool]]:
        """All moves, oldest first, and whether each is complete."""
        params = self._client.get_run(self._run_id).data.params
        keys = sorted(key for key in params if key.isdigit())
        moves = [(key, Move(**json.loads(params[key]))) for key in keys]
        return [(move, move.how == "by hand" or f"{key}{COMPLETED}" in params) for key, move in moves]

    def add_move(self, move: Move, number: int) -> bool:
        """Add a move with that number; False where another process was faster."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_param(self._run_id, f"{number:04d}", json.dumps(asdict(move)))
        except MlflowException:
            if self.list_moves()[number - 1 : number] in ([], [move]):
                raise
            return False
        return True

    def complete_move(self, number: int) -> None:
        """Mark a move as made."""
        self._client.log_param(self._run_id, f"{number:04d}{COMPLETED}", "true")

    def list_copies(self) -> list[Copy]:
        """All copies, oldest first."""
        return sorted((Copy(**values) for values in self._read(COPIED)), key=lambda copy: copy.at)

    def add_copy(self, copy: Copy) -> None:
        """Add a copy, if no other process added it first."""
        self._add(copy, {known.key for known in self.list_copies()})

    def list_looks(self) -> list[Look]:
        """All looks at the evidence, oldest first."""
        return sorted((Look(**values) for values in self._read(LOOK)), key=lambda look: look.at)

    def add_look(self, look: Look) -> None:
        """Add a look; the same comparison is added once."""
        self._add(look, {known.key for known in self.list_looks()})

    def _read(self, prefix: str) -> Iterator[dict[str, Any]]:
        params = self._client.get_run(self._run_id).data.params
        yield from (json.loads(value) for key, value in params.items() if key.startswith(prefix))

    def _add(self, entry: Copy | Look, known: Collection[str]) -> None:
        """Add an entry, unless its key is known; another process may add it at the same time."""
        from mlflow.exceptions import MlflowException

        if entry.key in known:
            return
        try:
            self._client.log_param(self._run_id, entry.key, json.dumps(asdict(entry)))
        except MlflowException:
            if entry.key not in self._client.get_run(self._run_id).data.params:
                raise


def _ensure_history_run(client: "MlflowClient", model_name: str) -> str:
    """The id of the run that the model's tag names; model and run are created if missing."""
    models = client.search_registered_models(f"name = '{model_name}'")
    if models and HISTORY in models[0].tags:
        return str(models[0].tags[HISTORY])
    experiment = ensure_experiment(client, f"{EXPERIMENT}-registry")
    run_name = f"history of {model_name}"
    oldest_first = ["attributes.start_time"]  # a killed attempt may have left a run without a model
    runs = client.search_runs([experiment], f"attributes.run_name = '{run_name}'", order_by=oldest_first)
    run_id = str((runs or [client.create_run(experiment, run_name=run_name)])[0].info.run_id)
    client.set_terminated(run_id)
    if models:  # made by hand
        client.set_registered_model_tag(model_name, HISTORY, run_id)
        return run_id
    return _create_model(client, model_name, run_id)


def _create_model(client: "MlflowClient", model_name: str, run_id: str) -> str:
    """Create a model with that history; another process may be faster, then its history counts."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name, tags={HISTORY: run_id})
    except MlflowException:
        models = client.search_registered_models(f"name = '{model_name}'")
        if not models or HISTORY not in models[0].tags:
            raise
        first_run_id = str(models[0].tags[HISTORY])
        if first_run_id != run_id:
            client.delete_run(run_id)
        return first_run_id
    return run_id


def current_user() -> str:
    """MLflow's user, else the system's."""
    with suppress(OSError, KeyError):  # a container's user may have no name
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    return f"user {os.getuid()}"


def previous_champion(moves: Sequence[Move], champion: str | None) -> str | None:
    """The version that a rollback makes champion; None without one.

    Args:
        moves: The history, oldest first.
        champion: The current one.
    """
    reigns: list[str] = []
    for move in moves:
        if move.how == "rolled back":
            while reigns and reigns[-1] != move.new:
                reigns.pop()
        elif move.new:
            reigns.append(move.new)
    earlier = reigns[:-1] if champion else reigns
    return earlier[-1] if earlier else None
