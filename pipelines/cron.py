"""Times of schedules, as Kubeflow's scheduler reads them: six fields, the first of them seconds."""

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


def six_fields(cron: str) -> str:
    """A cron of 5 or 6 fields as Kubeflow's scheduler wants it.

    Given 5, it would take the first for seconds; so they become 6, at second 0.

    Args:
        cron: Such as "0 2 * * *", every night at two, or "30 0 2 * * MON".

    Raises:
        DataError: where it is no cron, with the field.
    """
    fields = cron.split()
    if len(fields) == len(FIELDS) - 1:
        fields = ["0", *fields]
    if len(fields) != len(FIELDS):
        raise DataError(f"--cron '{cron}': {len(fields)} fields; 5 or 6 are wanted, such as '0 2 * * *'")
    for text, (name, low, high) in zip(fields, FIELDS, strict=True):
        for part in text.split(","):
            _check(part, name, low, high, cron)
    return " ".join(fields)


def _check(part: str, name: str, low: int, high: int, cron: str) -> None:
    """One of a field's alternatives: `*`, a value, a range, each with a step or without."""
    at = f"--cron '{cron}': {name}"
    found = _PART.fullmatch(part)
    if not found:
        raise DataError(f"{at}: '{part}' is none of *, a value, a range such as 1-5, a step such as */15")
    values = [_value(one, name, at) for one in found.groups()[1:3] if one is not None]
    for value in values:
        if not low <= value <= high:
            raise DataError(f"{at}: {value} is not within {low}-{high}")
    if len(values) == 2 and values[0] > values[1]:
        raise DataError(f"{at}: the range '{part}' runs backwards")
    if (step := found[4]) is not None and not (step.isdigit() and int(step) > 0):
        raise DataError(f"{at}: the step '{step}' is no positive number")


def _value(text: str, name: str, at: str) -> int:
    names = NAMES.get(name, [])
    if text.upper() in names:
        return names.index(text.upper()) + (name == "month")
    if not text.isdigit():
        raise DataError(f"{at}: '{text}' is no number{' and no name' if names else ''}")
    return int(text)
