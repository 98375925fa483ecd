"""Attributes of a product as texts: nested values and lists of JSON and parquet are flattened, none is dropped."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SEPARATOR = "; "  # between the values of a list
PAIRS = (
    ("name", "value"),
    ("key", "value"),
    ("label", "value"),
    ("code", "value"),
)  # of an attribute in a list


def flatten_attributes(values: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """Flatten attributes: {"size": {"w": 5}, "tags": ["a", "b"]} → size.w 5, tags "a; b".

    Args:
        values: Names and values; or pairs, as parquet stores a map.

    Yields:
        Names and values that are neither mappings nor lists; a truth value is "true" or "false".
    """
    for name, value in values.items() if isinstance(values, Mapping) else values:
        yield from _flatten(str(name), value)


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        nested = [item for item in value if isinstance(item, Mapping | list | tuple)]
        if texts := [str(_format(item)) for item in value if item is not None and item not in nested]:
            yield name, SEPARATOR.join(texts)
        for number, item in enumerate(nested, 1):
            if pair := get_pair(item):
                yield from _flatten(f"{name}.{pair[0]}", pair[1])
            else:
                yield from _flatten(f"{name}.{number}", item)
    elif value is not None:
        yield name, _format(value)


def get_pair(item: Any) -> tuple[str, Any] | None:
    """Name and value of an attribute that is an object: {"name": "Size", "value": "XL"}; None for other objects."""
    if not isinstance(item, Mapping):
        return None
    return next(
        ((str(item[name]), item[value]) for name, value in PAIRS if item.keys() >= {name, value}), None
    )


def _format(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
