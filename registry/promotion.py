"""Promotion and rollback of versions, and the history as a table."""

from typing import TYPE_CHECKING

from vitrine_judge.tables import format_table

from catalog.schema import DataError
from registry.champion_history import previous_champion
from registry.champion_process import has_artifact, list_missing_files
from registry.live_index import COLLECTION, INDEX
from registry.model_registry import COMPARED_WITH, GATE, REASONS, ModelRegistry

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

REASON_LENGTH = 1000  # characters


def promote(registry: ModelRegistry, number: str, force: bool = False, reason: str = "") -> str:
    """Make a version the champion, if its gate passed against the current champion.

    Args:
        registry: The model's.
        number: Of the version.
        force: Override the gate.
        reason: Required with force.

    Returns:
        A sentence on what was done.

    Raises:
        DataError: an unknown version, a version whose files are gone, a verdict that does not allow it, force without a
            reason, or a simultaneous change of champion.
    """
    if force != bool(reason.strip()) or len(reason) > REASON_LENGTH:
        raise DataError(
            f"--force and --reason go together; give a reason of 1 to {REASON_LENGTH:,} characters"
        )
    champion, version = registry.reconcile_and_warn(), registry.get_version(number)
    if champion == number:
        _require_files(version, f"version {number} is the champion, but cannot be served")
        return f"version {number} is the champion already"
    _require_files(version, f"version {number} is not promoted")
    _require_index(version)
    objection = find_objection(number, version.tags, champion) or _find_lost_collection(
        registry, version, champion
    )
    if objection and not force:
        raise DataError(
            f"version {number} is not promoted: {objection}\n  (--force --reason TEXT overrides the gate; logged)"
        )
    registry.set_champion(number, "promoted", champion, reason)
    before = f"version {champion}" if champion else "no champion"
    return f"version {number} is the champion; before, there was {before}"


def _require_files(version: "ModelVersion", consequence: str) -> None:
    """Refuse a version whose files are gone, as it can neither serve nor be compared.

    Args:
        version: Of the registry.
        consequence: Start of the message.

    Raises:
        DataError: where a file is missing.
    """
    if missing := list_missing_files(version):
        raise DataError(
            f"{consequence}: its files are gone from MLflow's artifacts (missing: {', '.join(missing)}; source: "
            f"{version.source}); restore them, or promote another version"
        )


def _require_index(version: "ModelVersion") -> None:
    """Refuse a version that has no index: it was registered without one, and no refresh has built one.

    Raises:
        DataError: nothing could be searched.
    """
    if INDEX not in version.tags and not has_artifact(version, "index"):
        raise DataError(
            f"version {version.version} is not promoted: it holds no index (register.package_index: false), and none "
            f"was built for it; build one: python -m serving refresh --version {version.version}"
        )


def find_objection(number: str, tags: dict[str, str], champion: str | None) -> str:
    """Why the gate does not allow the promotion of a version; empty if it does.

    Args:
        number: Of the version.
        tags: Of the version.
        champion: The current champion's number.
    """
    verdict, compared = tags.get(GATE), tags.get(COMPARED_WITH)
    command = f"python -m registry judge {number}"
    if verdict is None:
        return f"no gate has judged it; judge it: {command}"
    if verdict != "passed":
        return tags.get(REASONS) or f"its gate {verdict}"
    if compared != (champion or ""):
        opponent = f"version {compared}" if compared else "no champion"
        current = f"the champion is version {champion} now" if champion else "there is no champion now"
        return f"judged against {opponent}, but {current}; judge it again: {command}"
    return ""


def _find_lost_collection(registry: ModelRegistry, version: "ModelVersion", champion: str | None) -> str:
    """Why a version that is not in Milvus does not follow a champion that is; empty for any other version."""
    if not champion or COLLECTION in version.tags or COLLECTION not in registry.get_version(champion).tags:
        return ""
    return (
        f"version {champion} is searched in Milvus, and version {version.version} is not there; write it: "
        f"python -m serving publish --version {version.version}"
    )


def rollback(registry: ModelRegistry) -> str:
    """Make the previous champion the champion; a second call makes the one before it the champion.

    Raises:
        DataError: where there is none, its files are gone, or the champion changes at the same time.
    """
    champion = registry.reconcile()
    previous = previous_champion(registry.history.list_moves(), champion)
    if not previous:
        raise DataError(
            f"{registry.name} has no previous champion to go back to; see python -m registry history"
        )
    _require_files(registry.get_version(previous), f"version {previous} is not made champion again")
    registry.set_champion(previous, "rolled back", champion)
    before = f"version {champion}" if champion else "no champion"
    return f"version {previous} is the champion again; before, there was {before}"


def history(registry: ModelRegistry) -> str:
    """Every change of champion, and every copy that bypassed the gate, as a table; oldest first."""
    registry.reconcile_and_warn()
    moves = [
        [move.at, move.old or "–", move.new or "–", move.how, move.by, move.verdict, move.reason]
        for move in registry.history.list_moves()
    ]
    copies = [
        [
            copy.at,
            copy.version,
            f"{copy.model} version {copy.number}",
            "copied in MLflow",
            copy.by,
            copy.verdict,
            "",
        ]
        for copy in registry.history.list_copies()
    ]
    if not moves and not copies:
        return "no champion yet"
    lines = [[f"{time[:19]}Z", *cells] for time, *cells in sorted(moves + copies, key=lambda row: row[0])]
    return format_table([["when", "from", "to", "how", "by", "gate", "reason"], *lines])
