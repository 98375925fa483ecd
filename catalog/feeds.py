"""Reads product feeds in XML item by item: RSS 2.0 and Atom 1.0, within limits, without DTD, entities or network."""

import codecs
from collections import defaultdict
from collections.abc import Iterator
from typing import IO, Any

from lxml import etree

from catalog.files import READ_ERRORS, Files
from catalog.reading import Record
from catalog.schema import DataError

ITEMS = ("item", "entry")
MAX_DEPTH = 20
MAX_ELEMENTS = 10_000  # of an item
BEFORE_XML = codecs.BOM_UTF8 + codecs.BOM_UTF16 + b"\x00 \t\r\n"  # bytes: byte order marks and white space
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def is_feed(files: Files, name: str) -> bool:
    """Whether a file begins as XML does, in UTF-8 or UTF-16; its name does not matter.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        with files.open(name) as stream:
            return stream.read(512).lstrip(BEFORE_XML).startswith(b"<")
    except READ_ERRORS as error:
        raise DataError(f"{files.source}: cannot be read ({error}); download it again") from error


def read_feed(files: Files, name: str) -> Iterator[Record]:
    """Read the items of a feed, one at a time.

    Args:
        files: The files of the source.
        name: The feed's name in these files.

    Yields:
        The items; their values are lists of texts by the element's name without namespace. An element with elements
        of its own is one text, "a:b:c". The feed's language is the value `language` of each item.

    Raises:
        DataError: if it is not well-formed, declares a DTD, exceeds a limit, or has no item.
    """
    try:
        with files.open(name) as stream:
            yield from _read_items(stream, name)
    except etree.XMLSyntaxError as error:
        raise DataError(f"{files.source}: not well-formed XML ({error.msg}); export it again") from error
    except READ_ERRORS as error:
        raise DataError(f"{files.source}: cannot be read ({error}); download it again") from error


def _read_items(stream: IO[bytes], name: str) -> Iterator[Record]:
    depth, number, language, elements = 0, 0, "", 0
    events = etree.iterparse(
        stream,
        events=("start", "end"),
        **{"resolve_entities": False, "load_dtd": False, "no_network": True, "huge_tree": False},
        **{"remove_comments": True, "remove_pis": True},
    )
    item: Any = None
    for event, element in events:
        if event == "start":
            depth += 1
            elements += 1
            _check_limits(element, name, depth, elements)
            language = language or element.get(LANGUAGE, "")
            if item is None and _local_name(element) in ITEMS:
                item, elements = element, 0
            continue
        depth -= 1
        if item is not None and element is item:
            number += 1
            yield Record(f"{name} line {element.sourceline}", _read_values(element, language))
            item = None
        elif item is None and _local_name(element) == "language":
            language = language or (element.text or "").strip()
        if item is None:  # what lies between items is not kept
            elements = 0
            _forget(element)
    if not number:
        raise DataError(f"{name}: no <item> or <entry>; is it a feed in RSS 2.0 or Atom 1.0?")


def _check_limits(element: etree._Element, name: str, depth: int, elements: int) -> None:
    """Refuse a DTD, which could declare entities that grow, and items that are too deep or too large."""
    where = f"{name} line {element.sourceline}"
    if depth == 1 and element.getroottree().docinfo.internalDTD is not None:
        raise DataError(
            f"{where}: declares a DTD, which a feed must not; remove <!DOCTYPE …> and its entities"
        )
    if depth > MAX_DEPTH:
        raise DataError(f"{where}: more than {MAX_DEPTH} levels of elements; this is no product feed")
    if elements > MAX_ELEMENTS:
        raise DataError(f"{where}: an item of more than {MAX_ELEMENTS:,} elements; this is no product feed")


def _local_name(element: etree._Element) -> str:
    return etree.QName(element).localname


def _read_values(item: etree._Element, language: str) -> dict[str, Any]:
    values: dict[str, Any] = defaultdict(list)
    for element in item:
        parts = [_join_text(child) for child in element] if len(element) else []
        text = ":".join(parts) if _has_fields(element) else _join_text(element)
        values[_local_name(element)].append(text or element.get("href", ""))
    values["language"] += [item.get(LANGUAGE, "") or language]
    return values


def _has_fields(element: etree._Element) -> bool:
    """Whether an element has elements of the feed, as <g:product_detail> has, not markup of a text."""
    return any(etree.QName(child).namespace for child in element) and not (element.text or "").strip()


def _join_text(element: etree._Element) -> str:
    return "".join(element.itertext()).strip()


def _forget(element: etree._Element) -> None:
    """Free the memory of an element and of what lies before it."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]
