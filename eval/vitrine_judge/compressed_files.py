"""The content of a file, decompressed and without a byte order mark; the first bytes tell, not the name."""

import codecs
import io
import lzma
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vitrine_judge.errors import JudgeError

COMPRESSIONS = {
    "gzip": rb"\x1f\x8b",
    "bz2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",  # the second is an empty file
    "zstd": rb"\x28\xb5\x2f\xfd",
    "lz4": rb"\x04\x22\x4d\x18",
    "xz": rb"\xfd7zXZ\x00",
}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CHUNK = 1 << 24  # bytes decompressed at a time
EXPANSION = 200  # rankings shrink to a tenth; what expands this much more is an attack or a mistake
SMALL = 1 << 26  # bytes that any file may expand to


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file or folder.

    Raises:
        JudgeError: what is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise JudgeError(
            f"expected the path of a file, not {type(path).__name__}; from_dict and from_arrays take data"
        )
    return Path(path)


def read_bytes(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes of a file as they are; all for −1.

    Raises:
        JudgeError: an unreadable file.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise JudgeError(f"{path}: cannot be read ({reason}); check the path") from error


def read_content(path: Path) -> bytes:
    """The decompressed bytes of a file; text with a byte order mark as UTF-8 without it.

    Raises:
        JudgeError: an unreadable, truncated or damaged file, or one that expands more than `EXPANSION`-fold.
    """
    content = read_bytes(path)
    for compression, first_bytes in COMPRESSIONS.items():
        if re.match(first_bytes, content):
            content = b"".join(_decompress(path, content, compression))
            break
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return decode_text(content, str(path), encoding).encode()
    return content


def decode_text(content: bytes, where: str, encoding: str = "utf-8") -> str:
    """Bytes as text; `where` names them in errors.

    Raises:
        JudgeError: bytes that are not text in this encoding.
    """
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise JudgeError(f"{where}: line {line}: not {error.encoding} text; save it as UTF-8") from error


def _decompress(path: Path, content: bytes, compression: str) -> Iterator[bytes]:
    limit, size = max(SMALL, EXPANSION * len(content)), 0
    with _open(content, compression) as stream:
        while chunk := _read_chunk(path, stream, compression):
            size += len(chunk)
            if size > limit:
                raise JudgeError(
                    f"{path}: expands more than {EXPANSION}-fold; decompress it yourself if you expect that"
                )
            yield chunk


def _open(content: bytes, compression: str) -> Any:
    if compression == "xz":  # pyarrow cannot decompress it
        return lzma.open(io.BytesIO(content))
    return pa.CompressedInputStream(pa.BufferReader(content), compression)


def _read_chunk(path: Path, stream: Any, compression: str) -> bytes:
    try:
        return bytes(stream.read(CHUNK))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise JudgeError(f"{path}: damaged or truncated {compression} ({error}); write it again") from error
