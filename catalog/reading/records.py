"""What the readers of tables yield, and their limits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_LINE_CHARS = 16 << 20
MAX_FIELD_CHARS = 1 << 20


class Record(NamedTuple):
    """A row of a file, and its place in the file."""

    where: str
    values: dict[str, Any]


class Header(NamedTuple):
    """The columns of a file; its reader yields them before the rows."""

    columns: Sequence[str]


def join_lines(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())
