"""Which characters texts of a language consist of, and how likely a decoded text is in a language.

`catalog.reading.encodings` compares decodings of the same bytes: the right one reads like a language, the others have
symbols inside of words, capitals after small letters, several scripts in a word, or letters that no language uses
together.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

# Letters of a language, the more frequent first. Of a Latin alphabet only those outside of ASCII.
LATIN = {
    "de": "üäöß",
    "fr": "éèàêçâîôûùïëœæÿ",
    "es": "óíáéñúü",
    "pt": "ãçáéóíêâõàúô",
    "it": "àèùòéì",
    "nl": "ëéïèöü",
    "sv": "äåöé",
    "da": "øåæé",
    "is": "áðíóþéúæöý",
    "pl": "łąężśćóńź",
    "cs": "áíéěýčžšřůúťďňó",
    "hu": "éáőöüóíűú",
    "hr": "čšžćđ",
    "ro": "ăîâşţșț",
    "tr": "ışğüçöâîû",
    "lt": "ėųšįūžąčę",
    "lv": "āīēšūņļžķģč",
    "et": "äõüöšž",
    "vi": "đáàảãạăâéèêẹíìịóòôơọúùưụýđ\u0300\u0301\u0303\u0309\u0323",
}
ALPHABETS = {
    "ru": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "uk": "оаинвіертслкдмпузяьбгчйхїжєшюцщфґ'",
    "bg": "аоиентрсвлкдпмзгябуъчцжщшфхйюь",
    "el": "αοιετσνρκπλμςάίόυηέγδθώύήχωφβξζψϊ",
    "he": "יוהלאמתרשבנםחקדפעטגכסצזןךץף",
    "ar": "المينرتوبةدعسفحكقجخطصأشزضهىذثغإءآئظؤ",
    "th": "านรอกเงมยลวดทสตะบปคหแจพชไใขโธศซฟผณภฐฎฏษถญฉฮฬ่้ี็ัิื์ูุึำ๊๋ๆ",
}
# Characters outside of ASCII that texts of any language have.
SYMBOLS = "–—‘’“”„«»…•·°®™©€£½¼¾²³×±µ§¿¡ºª№\u00a0、。「」【】（）・ー！？：～％￥"
INNER_SYMBOLS = "’·\u00a0ー・–"  # these also stand between letters
OPENING_SYMBOLS = "°‘“„«¿¡€£•–—「（【\u00a0"  # these also stand before letters
# State → probability of a letter outside of ASCII as the next character; states are the kinds of the character before:
# "a" an ASCII letter, "n" another letter, "-" none.
NEXT_LETTER = {
    "latin": {"a": 0.07, "n": 0.04, "-": 0.06},
    "alphabet": {"a": 0.001, "n": 0.97, "-": 0.7},
    "ideographic": {"a": 0.02, "n": 0.9, "-": 0.7},
}
# State → logarithm of the probability that the next letter is a capital; the states are the case of the letter before.
CAPITAL = {"small": math.log(0.003), "capital": math.log(0.9), "-": math.log(0.4)}
INNER_SYMBOL = math.log(1e-5)
STEEPNESS = 3.0  # the last letter is exp(3) times as rare as the first
IMPOSSIBLE = math.log(1e-8)  # control characters, private characters, bytes that mean nothing
FOREIGN = math.log(1e-5)  # a letter of another language
SYMBOL = math.log(0.02 / len(SYMBOLS))
# What no text of a language has: a leading vowel without a consonant, a mark that no letter carries.
MALFORMED = {"th": re.compile("[เ-ไ](?![ก-ฮ])|(?<![ก-๎])[ัิ-ฺ็-๎]")}


class Language(NamedTuple):
    """How texts of a language look.

    Attributes:
        kind: A key of `NEXT_LETTER`.
        letters: Character → natural logarithm of its share of the letters outside of ASCII.
    """

    kind: str
    letters: Mapping[str, float]


@cache
def get_language(code: str) -> Language:
    """The characters of a language of `LATIN`, `ALPHABETS` or `IDEOGRAPHS`."""
    if code in IDEOGRAPHS:
        return Language("ideographic", dict(IDEOGRAPHS[code]()))
    letters = LATIN.get(code) or ALPHABETS[code]
    weights = {letter: math.exp(-STEEPNESS * rank / len(letters)) for rank, letter in enumerate(letters)}
    total = sum(weights.values())
    shares: dict[str, float] = {}
    for letter, weight in weights.items():
        shares[letter] = math.log(weight / total)
        if len(letter.upper()) == 1:
            shares[letter.upper()] = shares[letter]
    if code == "tr":
        shares["İ"] = shares["Ş"]
    return Language("latin" if code in LATIN else "alphabet", shares)


def _block(codec: str, first: range, second: range, share: float) -> Iterator[tuple[str, float]]:
    """The characters of a block of a double-byte code; each has the same part of a share."""
    texts = (bytes((high, low)).decode(codec, "ignore") for high in first for low in second)
    characters = [text for text in texts if len(text) == 1]
    for character in characters:
        yield character, math.log(share / len(characters))


def _simplified() -> Iterator[tuple[str, float]]:
    """GB 2312: level 1 are the 3,755 frequent characters."""
    yield from _block("gb2312", range(0xD8, 0xF8), range(0xA1, 0xFF), 0.02)
    yield from _block("gb2312", range(0xB0, 0xD8), range(0xA1, 0xFF), 0.97)


def _traditional() -> Iterator[tuple[str, float]]:
    """Big5: level 1 are the 5,401 frequent characters."""
    yield from _block("big5", range(0xC9, 0xFA), [*range(0x40, 0x7F), *range(0xA1, 0xFF)], 0.02)  # type: ignore[arg-type]
    yield from _block("big5", range(0xA4, 0xC7), [*range(0x40, 0x7F), *range(0xA1, 0xFF)], 0.97)  # type: ignore[arg-type]


def _japanese() -> Iterator[tuple[str, float]]:
    """JIS X 0208: rows 4 and 5 are kana, 16 to 47 are the 2,965 frequent characters."""
    yield from _block("euc_jp", range(0xD0, 0xF5), range(0xA1, 0xFF), 0.01)
    yield from _block("euc_jp", range(0xB0, 0xD0), range(0xA1, 0xFF), 0.36)
    yield from _block("euc_jp", range(0xA4, 0xA6), range(0xA1, 0xFF), 0.6)


def _korean() -> Iterator[tuple[str, float]]:
    """KS X 1001: rows 16 to 40 are the 2,350 frequent syllables."""
    yield from _block("euc_kr", range(0xCA, 0xFE), range(0xA1, 0xFF), 0.005)
    yield from _block("euc_kr", range(0xB0, 0xC9), range(0xA1, 0xFF), 0.98)


IDEOGRAPHS = {"zh-Hans": _simplified, "zh-Hant": _traditional, "ja": _japanese, "ko": _korean}


def log_likelihood(text: str, code: str) -> float:
    """Natural logarithm of the likelihood of a text's characters outside of ASCII in a language.

    A Markov chain of kinds of characters (`NEXT_LETTER`), the frequencies of letters, and `MALFORMED` sequences.

    Args:
        text: The words of a text.
        code: A key of `LATIN`, `ALPHABETS` or `IDEOGRAPHS`.
    """
    language = get_language(code)
    chances = {
        state: (math.log(chance), math.log(1 - chance))
        for state, chance in NEXT_LETTER[language.kind].items()
    }
    total, state, previous = 0.0, "-", " "
    for position, character in enumerate(text):
        if character < "\x80":
            if character.isalpha():
                total += chances[state][1] if language.kind != "ideographic" or state != "-" else 0.0
                state = "a"
            else:
                state = "-"
        elif (share := language.letters.get(character)) is not None:
            total += chances[state][0] + share
            if character.isupper():
                total += CAPITAL[_get_case(previous)]
            state = "n"
        else:
            total += _rate_other(character, text[max(0, position - 1) : position + 2])
            state = "n" if character.isalpha() else "-"
        previous = character
    if code in MALFORMED:
        total += FOREIGN * len(MALFORMED[code].findall(text))
    return total


def _get_case(letter: str) -> str:
    return "small" if letter.islower() else "capital" if letter.isupper() else "-"


def _rate_other(character: str, context: str) -> float:
    """Like `log_likelihood`, of a character that is no letter of the language; `context` is its neighbourhood."""
    if character in SYMBOLS:
        before, after = context[0].isalpha(), context[-1].isalpha()
        odd = after and character not in (INNER_SYMBOLS if before else OPENING_SYMBOLS)
        return INNER_SYMBOL if odd else SYMBOL
    return FOREIGN if character.isalpha() or re.match(r"\w", character) else IMPOSSIBLE
