"""The layout of a delimited table: what stands before its header, its delimiter, and the names of its columns."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

DELIMITERS = ",;\t|"
HEAD_LINES = 50  # read to detect the layout
SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # a first line that Excel writes and reads


class Layout(NamedTuple):
    """Where a table begins, and its delimiter."""

    skipped: int  # lines before the header: "sep=;", blank lines, comments, a title
    delimiter: str


def detect_layout(head: Sequence[str], delimiter: str | None = None) -> Layout:
    """Detect the layout of a table from its first lines.

    Args:
        head: The first lines.
        delimiter: The delimiter, if it is known.
    """
    skipped = 0
    if head and (match := SEPARATOR.fullmatch(head[0].lstrip("\ufeff"))):
        delimiter, skipped = delimiter or match[1], 1
    while skipped < len(head) and _is_skipped(head[skipped:]):
        skipped += 1
    delimiter = delimiter or max(DELIMITERS, key=lambda choice: _rate(head[skipped:], choice))
    return Layout(skipped + _count_titles(head[skipped:], delimiter), delimiter)


def _is_skipped(lines: Sequence[str]) -> bool:
    """Whether the first of these lines is blank or a comment; "#id,name" before rows of as many values is neither."""
    line, *others = (text.strip() for text in lines)
    if not line.strip(f"{DELIMITERS} \ufeff"):
        return True
    if not line.startswith("#"):
        return False
    following = next((text for text in others if text), "")
    return following.startswith("#") or not any(
        0 < line.count(choice) == following.count(choice) for choice in DELIMITERS
    )


def _parse(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    try:
        return [fields for fields in csv.reader(lines, delimiter=delimiter) if any(fields)]
    except csv.Error:  # a value that is too long
        return [line.split(delimiter) for line in lines]


def _rate(lines: Sequence[str], delimiter: str) -> float:
    """Rate a delimiter: the number of columns of the header, times the share of rows that have as many values."""
    header, *rows = [len(fields) for fields in _parse(lines, delimiter)] or [1]
    if header == 1:  # perhaps a title above the header
        header, count = Counter(rows).most_common(1)[0] if rows else (1, 0)
        return header * count / (len(rows) + 1) / 100 if header > 1 else 0.0
    agreeing = sum(count in (header, header + 1) for count in rows)
    return header * (1 + agreeing) / (1 + len(rows))


def _count_titles(lines: Sequence[str], delimiter: str) -> int:
    """Count the lines of a title, such as "Products of our shop": one value above rows of several."""
    counts = [
        sum(bool(field.strip()) for row in _parse([line], delimiter) for field in row) for line in lines
    ]
    titles = next((number for number, count in enumerate(counts) if count > 1), 0)
    following = next((count for count in counts[titles + 1 :] if count), 0)
    return titles if counts[titles : titles + 1] == [following] else 0


def name_columns(fields: Sequence[str], delimiter: str) -> list[str]:
    """The names of the columns of a header; a delimiter at its end is no column, and a column may have no name."""
    names = [field.strip().lstrip("\ufeff#").strip() for field in fields]
    while names and not names[-1]:
        names.pop()
    return [name or f"column {number}" for number, name in enumerate(names, 1)]


def number_duplicates(names: Sequence[str]) -> list[str]:
    """Give each column its own name: size, size → size, size 2."""
    counts: Counter[str] = Counter()
    unique = []
    for name in names:
        counts[name] += 1
        unique.append(name if counts[name] == 1 else f"{name} {counts[name]}")
    return unique
