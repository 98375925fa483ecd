"""Finds the pictures and clips of a product: by the names in a column, or by the product's id."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from catalog.files import Files, Media

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
CLIPS = (".mp4", ".webm")
ADDRESS = re.compile("https?:", re.IGNORECASE)
ADDRESS_KEYS = ("src", "url", "link", "href", "path")  # of a picture that is a mapping in JSON
# A bar or a line break; a comma or semicolon before white space or another address or path, or after the ending of a
# file's name.
SEPARATOR = re.compile(r"[|\r\n]|[,;](?=\s|https?:|//|/)|(?<=\.\w{3})[,;]|(?<=\.\w{4})[,;]")


def split_names(text: Any) -> list[str]:
    """Split a list of names or addresses; a comma inside of an address, as in "w_300,h_200/a.jpg", stays."""
    return [part.strip() for part in SEPARATOR.split(str(text or "")) if part.strip()]


def list_media(media: Files, value: Any) -> list[Any]:
    """List the pictures or clips of a column's value, in order and each once.

    Args:
        media: Where the files are.
        value: A text with one name or several, or a list of texts or of mappings with an address. What is none of these
            stays as it is: the conversion rejects it.
    """
    if isinstance(value, str):
        return get_pictures(media, [value] if media.has(value) else split_names(value))
    items = value if isinstance(value, list) else [value]
    names = [_read_address(item) for item in items if item not in (None, "")]
    return [
        *get_pictures(media, (name for name in names if isinstance(name, str))),
        *(name for name in names if not isinstance(name, str)),
    ]


def _read_address(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    return next((item[key] for key in ADDRESS_KEYS if isinstance(item.get(key), str)), item)


def get_pictures(media: Files, names: Iterable[str]) -> list[Media]:
    """The pictures at paths or addresses, in order and each once; or of the same name without the path's folders."""
    paths = dict.fromkeys(_normalise_path(name.strip()) for name in names if name and name.strip())
    return [media.get_media(_locate(media, path)) for path in paths]


def _locate(media: Files, path: str) -> str:
    """Exports often name the folders of the shop's server, while the pictures are in one folder."""
    if ADDRESS.match(path) or media.has(path):
        return path
    name = path.rpartition("/")[2]
    return name if media.has(name) else path


def find_by_id(media: Files, product_id: Any, suffixes: Iterable[str]) -> list[Media]:
    """Find the file that is named after a product, if its id is a plain name; the suffix may be in any case."""
    stem = "" if product_id is None else str(product_id)
    if not stem or "/" in stem:
        return []
    names = filter(None, (media.find_with_suffix(stem, suffix) for suffix in suffixes))
    return [media.get_media(name) for name in names][:1]


def _normalise_path(name: str) -> str:
    r"""The path of a picture without "/" or "./" at its start and with "/" for "\"; the address of "//host/path"."""
    if name.startswith("//"):
        return f"https:{name}"
    if scheme := ADDRESS.match(name):
        return scheme[0].lower() + name[scheme.end() :]
    return re.sub(r"^(\./|/)+", "", name.replace("\\", "/"))
