"""Tables as text, for people at a terminal."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they must be; all but the first aligned to the right."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            f"{cell!s:<{width}}" if i == 0 else f"{cell!s:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
