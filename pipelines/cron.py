"""Crons as Kubeflow's scheduler reads them: six fields, seconds first."""

import re

from catalog.schema import DataError

FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 6),
)
NAMES = {
    "month": ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    "day of week": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}
_PART = re.compile(r"(\*|\?|(\w+)(?:-(\w+))?)(?:/(\w+))?")


def normalize_cron(cron: str) -> str:
    """A cron of 5 or 6 fields as Kubeflow's scheduler expects it: with 6.

    The scheduler reads the first of 5 fields as seconds. So 5 fields become 6, at second 0.

    Args:
        cron: Such as "0 2 * * *", every night at two, or "30 0 2 * * MON".

    Raises:
        DataError: if it is not a valid cron; names the field.
    """
    fields = cron.split()
    if len(fields) == len(FIELDS) - 1:
        fields = ["0", *fields]
    if len(fields) != len(FIELDS):
        raise DataError(f"--cron '{cron}': has {len(fields)} fields; give 5 or 6, such as '0 2 * * *'")
    for text, (name, low, high) in zip(fields, FIELDS, strict=True):
        for part in text.split(","):
            _check_part(part, name, low, high, cron)
    return " ".join(fields)


def _check_part(part: str, name: str, low: int, high: int, cron: str) -> None:
    """Check one part of a field: `*`, a value or a range, each with or without a step."""
    place = f"--cron '{cron}': {name}"
    match = _PART.fullmatch(part)
    if not match:
        raise DataError(f"{place}: '{part}' must be *, a value, a range such as 1-5, or a step such as */15")
    values = [_parse_value(text, name, place) for text in match.groups()[1:3] if text is not None]
    for value in values:
        if not low <= value <= high:
            raise DataError(f"{place}: {value} is not within {low}-{high}")
    if len(values) == 2 and values[0] > values[1]:
        raise DataError(f"{place}: the range '{part}' runs backwards")
    if (step := match[4]) is not None and not (step.isdigit() and int(step) > 0):
        raise DataError(f"{place}: the step '{step}' is not a positive number")


def _parse_value(text: str, name: str, place: str) -> int:
    names = NAMES.get(name, [])
    if text.upper() in names:
        return names.index(text.upper()) + (name == "month")
    if not text.isdigit():
        raise DataError(f"{place}: '{text}' is not a number{' or a name' if names else ''}")
    return int(text)
