"""Finds garbled words in a text: those that an earlier program decoded in a wrong encoding and saved as UTF-8."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

# Words with their neighbouring symbols: bytes of UTF-8 read as cp1252 are letters, symbols and no-break spaces.
WORD = re.compile(r"[^\x00-\x40\x5b-\x60\x7b-\x7f]*[^\x00-\x7f][^\x00-\x40\x5b-\x60\x7b-\x7f]*")
SINGLE_BYTE = ("cp1251", "cp1250")
SYMBOLIC = ("cp437", "cp850", "mac_roman")  # in these, bytes of UTF-8 have a symbol: "├╝", "√º"
DOUBLE_BYTE = ("gb18030", "cp932", "big5hkscs", "cp949")
# What double-byte characters may stand for. Pairs of frequent ideographs can be a letter in UTF-8 by chance.
ORIGINAL = re.compile(
    r"[\x00-\x7f]*[\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef][\x00-\x7f\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]*"
    r"|[\u0370-\u03ff]{3,}|[\u0400-\u04ff]{3,}|[\u0590-\u05ff]{3,}|[\u0600-\u06ff]{3,}"
    r"|(?=.*[a-z])[A-Za-z\u00c0-\u017f'-]{2,}"
)
LOST = "\ufffd"  # stands for a character that an earlier program could not decode


class Mojibake(NamedTuple):
    """A garbled word, and what it should be; None if its characters are lost."""

    word: str
    original: str | None


def find_mojibake(words: Sequence[str]) -> list[Mojibake]:
    """Find garbled words.

    Args:
        words: Words with characters outside of ASCII.
    """
    return [Mojibake(word, original) for word in words if (original := _restore(word)) or LOST in word]


def _restore(word: str) -> str | None:
    """Decode a word again as UTF-8; None if it is not UTF-8 in any of the usual encodings."""
    with suppress(UnicodeError):
        return encode_cp1252(word).decode("utf-8")
    for encoding in (*SINGLE_BYTE, *(() if word.isalpha() else SYMBOLIC)):
        with suppress(UnicodeError):
            return word.encode(encoding).decode("utf-8")
    for encoding in DOUBLE_BYTE:
        with suppress(UnicodeError):
            original = word.encode(encoding).decode("utf-8")
            if ORIGINAL.fullmatch(original):
                return original
    return None


def encode_cp1252(text: str) -> bytes:
    """Encode as browsers decode cp1252: its five undefined bytes are control characters.

    Raises:
        UnicodeEncodeError: if a character is not in cp1252.
    """
    return b"".join(
        character.encode("latin-1" if "\x80" <= character <= "\x9f" else "cp1252") for character in text
    )
