"""Promotion and rollback of versions, and the history as a table."""

from catalog.schema import DataError
from eval.tables import table
from registry.model_registry import COMPARED_WITH, GATE, REASON, REASONS, Registry, previous_champion


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
        wrong = version.tags.get(REASONS) or f"its gate {verdict}"
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
    champion = registry.finish()
    before = previous_champion(registry.moves(), champion)
    if not before:
        raise DataError(f"{registry.name} has no previous champion to go back to; see the history")
    registry.version(before)
    registry.move(before, "rolled back", champion)
    return f"version {before} is the champion again; before, it was {f'version {champion}' if champion else 'none'}"


def history(registry: Registry) -> str:
    """Every change of champion, and every copy against the gate, as a table; oldest first."""
    registry.settle()
    rows = [
        [move.at, move.old or "–", move.new or "–", move.how, move.by, move.verdict, move.reason]
        for move in registry.moves()
    ]
    rows += [
        [
            copy.at,
            copy.version,
            f"{copy.model} version {copy.number}",
            "copied in MLflow",
            copy.by,
            copy.verdict,
            "",
        ]
        for copy in registry.copies()
    ]
    if not rows:
        return "no champion yet"
    lines = [[f"{at[:19]}Z", *cells] for at, *cells in sorted(rows, key=lambda row: row[0])]
    return table([["when", "from", "to", "how", "by", "gate", "reason"], *lines])
