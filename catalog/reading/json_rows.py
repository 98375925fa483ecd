"""Reads rows from JSON: an object per line, a list of objects, or a document with a list of objects inside."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import ijson

from catalog.files import Fault
from catalog.reading.records import MAX_LINE_CHARS, Record, join_lines
from catalog.schema import DataError

HEAD_CHARS = 1 << 20
# A document's list of rows has one of these names if the document has several lists.
ROW_LISTS = ("products", "items", "rows", "records", "data", "results", "entries", "hits", "docs", "queries")
IDS = ("id", "sku", "asin", "gtin", "ean")  # an object with a key that ends like this is a row


class Utf8Stream:
    """The bytes of a text in UTF-8, which ijson reads."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text

    def read(self, size: int = -1) -> bytes:
        """Read about `size` bytes."""
        return self._text.read(size).encode("utf-8", "replace")


def is_document(head: str) -> bool:
    """Whether JSON is a document, not an object per line.

    Args:
        head: The first characters of the file; a document is also recognised by a first line that is longer.
    """
    first, *others = [line for line in head.splitlines() if line.strip()] or [""]
    if first.lstrip()[:1] == "[":
        return True
    if (values := _parse(first)) is not None:
        return not others and _wraps_rows(values)
    return not others[0].lstrip().startswith("{") if others else len(head) >= HEAD_CHARS


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _wraps_rows(values: Any) -> bool:
    """Whether an object is a document around a list of rows, and not a row."""
    if not isinstance(values, dict) or _has_id(values):
        return False
    lists = [
        key
        for key, value in values.items()
        if isinstance(value, list) and isinstance((value or [0])[0], dict)
    ]
    if lists:
        return len(lists) == len(values) or any(key.lower() in ROW_LISTS for key in lists)
    return any(_wraps_rows(value) for value in values.values())


def _has_id(keys: Iterable[str]) -> bool:
    return any(key.lower().endswith(IDS) for key in keys)


def read_lines(text: IO[str], name: str) -> Iterator[Record | Fault]:
    """Read an object per line."""
    number = 0
    while line := text.readline(MAX_LINE_CHARS):
        number += 1
        where = f"{name} line {number}"
        if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
            yield Fault(where, f"longer than {MAX_LINE_CHARS:,} characters")
            while (line := text.readline(MAX_LINE_CHARS)) and not line.endswith("\n"):
                pass
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Fault(where, f"not JSON ({error})")
            continue
        yield Record(where, values) if isinstance(values, dict) else Fault(where, "not a JSON object")


def read_document(open_text: Callable[[], IO[str]], name: str) -> Iterator[Record | Fault]:
    """Read the objects of the list in a document; a document without a list is a row, and there may be several.

    Args:
        open_text: Opens the document; it is read twice.
        name: Its name, for messages.

    Raises:
        DataError: if it is not JSON, or has several lists.
    """
    path = _find_rows(open_text(), name)
    for number, values in enumerate(read_items(Utf8Stream(open_text()), name, path), 1):
        where = f"{name} item {number}"
        yield Record(where, values) if isinstance(values, dict) else Fault(where, "not a JSON object")


def read_items(stream: Any, name: str, path: str) -> Iterator[Any]:
    """Read the items of a document one by one.

    Args:
        stream: Its bytes, in UTF-8.
        name: Its name, for messages.
        path: ijson path of the items: "item", "annotations.item".

    Raises:
        DataError: if it is not JSON.
    """
    with _explain_errors(name):
        yield from ijson.items(stream, path, use_float=True, multiple_values=not path)


@contextmanager
def _explain_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (ijson.JSONError, ValueError) as error:
        raise DataError(f"{name} is not JSON ({join_lines(error)}); download it again") from error


def _find_rows(text: IO[str], name: str) -> str:
    """Find the list of rows in a document: its ijson path; "" if the document itself is a row."""
    keys: set[str] = set()
    lists: dict[str, str] = {}  # name of a list of objects → path of its items
    with _explain_errors(name):
        for prefix, event, value in ijson.parse(Utf8Stream(text), use_float=True, multiple_values=True):
            if event == "start_map" and prefix == "item":
                return prefix
            if event == "map_key" and not prefix:
                keys.add(value.lower())
            if event == "start_map" and prefix.endswith(".item") and ".item." not in prefix:
                lists.setdefault(prefix.split(".")[-2], prefix)
    chosen = next((lists[key] for key in ROW_LISTS if key in lists), None)
    if _has_id(keys) and "products" not in lists:
        return ""
    if chosen or len(lists) < 2:
        return chosen or next(iter(lists.values()), "" if keys else "item")
    raise DataError(f"{name}: several lists, {', '.join(lists)}; write the one of the rows to a file")
