"""The history of champions: parameters of one MLflow run per registered model.

MLflow does not change a parameter once it is set, and its database lets only one of two writers set it. So the
history only grows, and of two simultaneous promotions only one succeeds.
"""

import getpass
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

from registry.mlflow_store import EXPERIMENT, ensure_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY = "vitrine.history"  # tag of the model: the id of the run that holds its history
COMPLETED = " done"  # suffix of a parameter: the move was made
COPIED = "copy "  # prefix of a parameter that holds a copy

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
        params = self._client.get_run(self._run_id).data.params
        copies = [Copy(**json.loads(value)) for key, value in params.items() if key.startswith(COPIED)]
        return sorted(copies, key=lambda copy: copy.at)

    def add_copy(self, copy: Copy) -> None:
        """Add a copy, if no other process added it first."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_param(self._run_id, copy.key, json.dumps(asdict(copy)))
        except MlflowException:
            if copy.key not in {known.key for known in self.list_copies()}:
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
