"""Text normalisation: `clean` at import, `normalise` for comparing texts, and the words of a text."""

import html
import itertools
import re
import unicodedata
from collections.abc import Sequence

from catalog.scripts import (
    CLUSTER,
    HAN,
    HIRAGANA,
    KATAKANA,
    MARKS,
    UNSEGMENTED,
)

# Elements that separate words where they begin and end; the others, such as <b>, do not.
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|caption|center|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption"
    "|figure|footer|form|frame|h[1-6r]|head|header|html|iframe|img|input|label|legend|li|link|main|menu|meta|nav|ol"
    "|option|p|pre|section|select|source|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video"
)
_INLINE = (
    "a|abbr|acronym|audio|b|bdi|bdo|big|cite|code|col|colgroup|data|del|dfn|em|embed|font|i|ins|kbd|mark|nobr|noscript"
    "|object|q|s|samp|script|small|span|strike|strong|style|sub|sup|svg|template|time|tt|u|var|wbr"
)
_WITHOUT_TEXT = ["script", "style", "template", "noscript", "iframe", "object", "svg"]
_ELEMENT = rf"(?:{_BLOCK}|{_INLINE})(?![\w:-])"
_ATTRIBUTE = r"""\s+[\w:.-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)|(?=\s*/?>))"""
_TAG = re.compile(
    rf"<{_ELEMENT}(?:{_ATTRIBUTE})*\s*/?>|</{_ELEMENT}\s*>|<!--|<!doctype\b|<!\[CDATA\[", re.IGNORECASE
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_BLOCK_TAG = re.compile(rf"(?=</?(?:{_BLOCK})(?![\w:-]))", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>", re.IGNORECASE)
_CUT_TAG = re.compile(rf"<{_ELEMENT}\s[^<>]*$", re.IGNORECASE)  # the end of a text of limited length
_LESS_THAN = re.compile("<(?![^<>]*>)")

# Characters whose compatibility form is not what a shop means by them.
_SUBSTITUTES = {"™": " ", "℠": " ", "´": "'", "˝": '"', "¨": '"', "˚": "°", "˜": "~", "¯": " "}
_SUBSTITUTED = re.compile(f"[{''.join(_SUBSTITUTES)}]")
_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")  # 1½ is not 11/2
# NFKC takes this vowel of Thai and of Lao to pieces that no keyboard types.
_COMPOSED_VOWELS = (("\u0e4d\u0e32", "\u0e33"), ("\u0ecd\u0eb2", "\u0eb3"))
# Control characters but white space, and what Unicode calls default-ignorable but for joiners and variation selectors.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f]")
_CURSIVE = re.compile("[\u0620-\u07ff\u0840-\u08ff\u1820-\u18aa]")
_VIRAMA = 9  # its canonical combining class

_PIECE_CHARS = 4  # of an unsegmented text; most words of Chinese and Japanese are not longer
_PIECES = re.compile(
    f"[{HAN}]+[{HIRAGANA}]*|[{KATAKANA}]+[{HIRAGANA}]*|[{HIRAGANA}]+"  # a particle ends a phrase of Japanese
    f"|(?:{CLUSTER})+"
    rf"|(?:(?![{UNSEGMENTED}])[^\W_][{MARKS}]*)+(?:[-'’.](?:(?![{UNSEGMENTED}])\w[{MARKS}]*)+)*"
)
_UNSEGMENTED = re.compile(f"[{UNSEGMENTED}]")


def clean(text: str) -> str:
    """Normalise a text at import: what every reader of the data set gets.

    Compatibility forms are replaced (NFKC), markup and entities of HTML are resolved, control and zero-width characters
    are removed, and white space is collapsed. "a < b" and "<3" are no markup. Cleaning twice changes nothing.

    Zero-width joiners and non-joiners stay where they change letters: after a virama, between letters of a cursive
    script (RFC 5892, appendix A), and in emoji.

    Returns:
        The text, "" if nothing visible is left.
    """
    if text.isascii() and text.isprintable() and "<" not in text and "&" not in text:
        return " ".join(text.split()) if "  " in text else text.strip(" ")
    previous = None
    while text != previous:  # of an escaped "&lt;p&gt;", the first round leaves the markup
        previous = text
        text = _resolve_compatibility(text)
        if "<" in text or "&" in text:
            text = _resolve_markup(text)
    return text


def normalise(text: str | None) -> str | None:
    """Clean a text and fold its case, to compare it; None if it is empty."""
    return clean(clean(text or "").casefold()) or None


def split_words(text: str) -> list[str]:
    """Split a text into words; where it has no blanks between words, into short pieces that are about as long."""
    return [piece for run in _PIECES.findall(text) for piece in _split_run(run)]


def join_words(words: Sequence[str]) -> str:
    """Join words as people type them: without a blank between those of a script that has none."""
    text = ""
    for word in words:
        glued = text and _UNSEGMENTED.match(text[-1]) and _UNSEGMENTED.match(word)
        text += word if glued or not text else f" {word}"
    return text


def _resolve_compatibility(text: str) -> str:
    """Apply NFKC, remove invisible characters and collapse white space."""
    if not (text.isascii() and text.isprintable()):
        text = _JOINERS.sub(_keep_joiner, _INVISIBLE.sub("", text))
    if not text.isascii():
        text = _SUBSTITUTED.sub(lambda match: _SUBSTITUTES[match[0]], _FRACTION.sub(" ", text))
        text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")  # fractions, such as 1/2
        for parts, vowel in _COMPOSED_VOWELS:
            text = text.replace(parts, vowel)
    return " ".join(text.split())


def _keep_joiner(match: re.Match[str]) -> str:
    """Keep a joiner or variation selector where its removal would change letters or emoji."""
    text, at = match.string, match.start()
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if not before:
        return ""
    if match[0] in "\ufe0e\ufe0f":
        return match[0] if unicodedata.category(before) == "So" else ""
    if match[0] == "\u200d" and after and unicodedata.category(after) == "So":
        return match[0] if unicodedata.category(before) in {"So", "Sk", "Mn"} else ""
    joins = unicodedata.combining(before) == _VIRAMA or (
        _CURSIVE.match(before) and after and _CURSIVE.match(after)
    )
    return match[0] if joins and match[0] in "\u200c\u200d" else ""


def _resolve_markup(text: str) -> str:
    """Reduce HTML to its text; a text without tags and entities stays as it is."""
    if not _TAG.search(text):
        return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    from selectolax.lexbor import LexborHTMLParser  # most texts have no markup

    text = _CUT_TAG.sub(lambda tag: "" if "=" in tag[0] else tag[0], _CDATA.sub(" ", text))
    tree = LexborHTMLParser(_BLOCK_TAG.sub(" ", _LESS_THAN.sub("&lt;", text)))
    tree.strip_tags(_WITHOUT_TEXT, recursive=True)
    return tree.root.text() if tree.root else ""


def _split_run(run: str) -> list[str]:
    """Split a run of an unsegmented script into pieces of equal length; other runs are words."""
    if not _UNSEGMENTED.match(run):
        return [run]
    units = re.findall(f"{CLUSTER}|.", run)
    count = -(-len(units) // _PIECE_CHARS)
    bounds = [len(units) * number // count for number in range(count + 1)]
    return ["".join(units[start:end]) for start, end in itertools.pairwise(bounds)]
