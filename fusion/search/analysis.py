"""Analysers: what BM25 compares of a text, by language."""

import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Self

from catalog.languages import ENGLISH, NON_LATIN
from catalog.scripts import CLUSTER, HANGUL, IDEOGRAPHIC, MARKS, UNSEGMENTED
from catalog.text import clean
from fusion.search.language_rules import (
    ELISIONS,
    NOUNS,
    SHORT_LISTS,
    STEMMERS,
    TURKIC,
    UNFOLDED,
)

AUTO = "auto"
ARABIC, ARTICLE = "ar", "ال"
MIN_PART, MIN_COMPOUND = 3, 7  # characters
MAX_COMPOUNDS = 20  # that a word of a query stands for
CACHE_WORDS = 100_000

_NUMBER = r"\d+(?:[.,]\d+)*"


def _compile_runs(unsegmented: str, letter: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<unsegmented>{unsegmented})"
        r"|(?P<sign>(?<!\w)[a-z](?:\+\+|#))"  # C++, C#
        r"|(?P<fraction>(?<![\w.,/])\d+/\d+(?![\w/]))"
        rf"|(?P<word>(?:{letter}|{_NUMBER})+(?:['._-](?:{letter}|{_NUMBER})+)*)"
    )


_RUNS = _compile_runs(
    f"[{IDEOGRAPHIC}]+|(?:{CLUSTER})+|[{HANGUL}]+", rf"(?:(?![{UNSEGMENTED}{HANGUL}\d_])\w[{MARKS}]*)"
)
_ASCII_RUNS = _compile_runs("(?!)", "[a-z]+")  # the same for ASCII texts, and much faster
_UNIT = re.compile(f"{CLUSTER}|.")
_INITIALS = re.compile(r"\w(?:\.\w)+")  # U.S.A
_PARTS = re.compile(r"[_-]+|(?<!\d)\.|\.(?!\d)")
_QUANTITY = re.compile(rf"({_NUMBER})(\D+)|(\D+)({_NUMBER})")  # 500ml, XK250
_UNITS = "mg g kg oz lb lbs ml cl dl l mm cm m km ft w kw v mah gb mb tb hz"
_BEFORE_UNIT = re.compile(rf"(?<=\d) (?=(?:{_UNITS.replace(' ', '|')})(?!\w))")
_DIMENSION = re.compile(r"(?<=\d) ?[x×] ?(?=\d)")
_APOSTROPHES = re.compile("[’‘ʼ`´]")
_DIGIT = re.compile(r"\d")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")  # Arabic, Devanagari …
_ASCII_WORD = re.compile("[a-z']+")
# What writers of Arabic and Hebrew leave out: vowel points, and the stroke that lengthens words.
_POINTS = re.compile("[\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u200d]")
# Letters that are typed one for another, as Lucene's normalisers of Arabic, Persian and Hindi take them.
_VARIANTS = str.maketrans("أإآٱىیةکۀەہ\u0901", "ااااييهكههه\u0902", "\u093c")
_ACCENTED = re.compile("[\u00c0-\u024f\u0370-\u03ff\u1e00-\u1fff]")
_ACCENT = re.compile(f"([a-z\u0370-\u03ff])[{MARKS}]+")
_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe"})


class Analyser:
    """The tokens of texts in one language.

    Words are stemmed, stop words are left out, and accents are optional. Runs of Chinese, Japanese, Korean, Thai, Lao,
    Khmer and Burmese become overlapping bigrams of characters (of Thai and its like, with their vowel signs), as in
    Lucene's CJK analyser. Korean has blanks, but writes particles and compounds without. Single characters are indexed,
    too, for queries of one character.

    "XK-250", "xk250" and "XK 250" share tokens, and so do "500ml" and "500 ml". Words of one letter or digit say too
    little, and are left out.

    A compound is split where all parts are words of the catalogue, by the geometric mean of their frequencies (Koehn &
    Knight, "Empirical methods for compound splitting", EACL 2003); the whole word stays. Where only the end is a word
    of the catalogue, that is added. A word of a query that the catalogue lacks stands for the compounds that begin or
    end with it.

    Args:
        language: ISO 639-1; of an unknown language, words are not stemmed.
        stems: Stem → number of products, of the catalogue's words; empty to split no compounds.
    """

    def __init__(self, language: str, stems: Mapping[str, int] | None = None) -> None:
        self.language = language
        self.stems = stems or {}
        self._stop_words = read_stop_words(language)
        self._elided = frozenset(ELISIONS.get(language, "").split())
        # brands and English words in texts of another script
        self._english = Analyser(ENGLISH) if language in NON_LATIN else None
        self._analyse_letters = lru_cache(CACHE_WORDS)(self._compute_letters)
        self._analyse_word = lru_cache(CACHE_WORDS)(lambda word: tuple(self._compute_word(word)))

    def index_tokens(self, text: str) -> list[str]:
        """The tokens of a product's text."""
        return list(self._analyse(text, single=True))

    def query_tokens(self, text: str) -> list[str]:
        """The tokens of a query: as those of a product, but single characters only where they stand alone."""
        return list(self._analyse(text, single=False))

    def count_stems(self, texts: Iterable[str]) -> dict[str, int]:
        """Count the texts of each word's stem, for splitting compounds."""
        counts: Counter[str] = Counter()
        for text in texts:
            words = (match["word"] for match in self._find_runs(text) if match["word"])
            parts = {part for word in words for part in _PARTS.split(word) if not _DIGIT.search(part)}
            counts.update({stem for part in parts for stem in self._analyse_letters(part)})
        return {stem: count for stem, count in counts.items() if len(stem) >= MIN_PART}

    def _find_runs(self, text: str) -> Iterator[re.Match[str]]:
        text = self._fold_case(text)
        return (_ASCII_RUNS if text.isascii() else _RUNS).finditer(text)

    def _fold_case(self, text: str) -> str:
        text = _APOSTROPHES.sub("'", clean(text))
        if self.language in TURKIC:
            text = text.replace("İ", "i").replace("I", "ı")
        text = text.casefold()
        if not text.isascii():
            text = _POINTS.sub("", unicodedata.normalize("NFC", text)).replace("\u200c", " ")
            text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
        return _BEFORE_UNIT.sub("", _DIMENSION.sub(" ", text))

    def _analyse(self, text: str, single: bool) -> Iterator[str]:
        for match in self._find_runs(text):
            if match["word"]:
                yield from self._analyse_word(match["word"])
            elif match["unsegmented"]:
                yield from split_bigrams(match["unsegmented"].translate(_VARIANTS), single)
            else:
                yield match[0]

    def _compute_word(self, word: str) -> Iterator[str]:
        """The tokens of a word's parts, and of the whole, as it is written without hyphens."""
        if _INITIALS.fullmatch(word):
            word = word.replace(".", "")
        parts = _PARTS.split(word)
        for part in parts:
            yield from self._analyse_part(part)
        if len(parts) > 1 and "." not in word:
            yield "".join(parts).replace("'", "")

    def _analyse_part(self, part: str) -> Iterator[str]:
        if not _DIGIT.search(part):
            yield from self._analyse_letters(part)
            return
        part = part.replace(",", ".")
        quantity = _QUANTITY.fullmatch(part)
        yield from (piece for piece in (part, *(quantity.groups("") if quantity else ())) if len(piece) > 1)

    def _compute_letters(self, word: str) -> tuple[str, ...]:
        """The tokens of a word without digits; none of a stop word."""
        if self._english and _ASCII_WORD.fullmatch(word):
            return self._english._analyse_letters(word)
        word = self._strip_apostrophes(word)
        if word in self._stop_words or len(word) < 2:
            return ()
        plain = self._fold_accents(word)
        forms = [word, plain]
        if self.language == ARABIC and not word.startswith(ARTICLE):
            forms.append(ARTICLE + word)  # without it, the stemmer takes some first letters for prefixes
        stems = dict.fromkeys(self._fold_accents(self._stem(form)) for form in forms)
        return tuple(dict.fromkeys([*stems, *self._relate_compounds(word)]))

    def _strip_apostrophes(self, word: str) -> str:
        first, apostrophe, rest = word.partition("'")
        if apostrophe and first in self._elided:
            return rest.replace("'", "")
        if self.language in TURKIC:
            return first
        return (word.removesuffix("'s") if self.language == ENGLISH else word).replace("'", "")

    def _stem(self, word: str) -> str:
        stem = _get_stemmer(self.language)
        shorter = stem(word)
        while self.language in TURKIC and shorter != word:  # endings follow each other
            word, shorter = shorter, stem(shorter)
        return shorter

    def _fold_accents(self, word: str) -> str:
        if word.isascii():
            return word
        word = word.translate(_VARIANTS)
        return word if self.language in UNFOLDED else fold_accents(word)

    def _relate_compounds(self, word: str) -> list[str]:
        """The parts of a compound; of a word that the catalogue lacks, also its compounds that begin or end with it."""
        if not self.stems:
            return []
        parts = self._split_compound(word) if len(word) >= MIN_COMPOUND else []
        stem = self._fold_accents(self._stem(word))
        if parts or stem in self.stems or len(word) <= MIN_PART:
            return parts or self._find_head(word)
        start = stem if len(stem) > MIN_PART else self._fold_accents(word)
        compounds = [other for other in self.stems if other.startswith(start) or other.endswith(stem)]
        return sorted(compounds, key=lambda other: -self.stems[other])[:MAX_COMPOUNDS] or self._find_head(
            word
        )

    def _find_head(self, word: str) -> list[str]:
        """The longest end of a word that is a word of the catalogue, where its beginning is none."""
        starts = range(MIN_PART, len(word) - MIN_PART)
        return [head for start in starts if (head := self._find_part(word[start:], is_last=True))][:1]

    def _split_compound(self, word: str) -> list[str]:
        """Split into the stems of parts that are words of the catalogue; none if there is no such split."""
        # position → number of parts until there → sum of the logarithms of their frequencies, and the parts
        best: dict[int, dict[int, tuple[float, list[str]]]] = {0: {0: (0.0, [])}}
        for end in range(MIN_PART, len(word) + 1):
            for start in [start for start in best if MIN_PART <= end - start < len(word)]:
                stem = self._find_part(word[start:end], is_last=end == len(word))
                for count, (score, parts) in best[start].items() if stem else ():
                    candidate = (score + math.log(self.stems[stem]), [*parts, stem])
                    scores = best.setdefault(end, {})
                    scores[count + 1] = max(scores.get(count + 1, candidate), candidate)
        splits = best.get(len(word), {})
        return max(splits.items(), key=lambda item: item[1][0] / item[0])[1][1] if splits else []

    def _find_part(self, part: str, is_last: bool) -> str:
        """The stem of a part of a compound, "" if it is no word of the catalogue; parts can be joined with an s."""
        for form in (part,) if is_last or not part.endswith("s") else (part, part[:-1]):
            stem = self._fold_accents(self._stem(form))
            if stem in self.stems and form not in self._stop_words:
                return stem
        return ""


class CatalogueAnalyser:
    """The analysers of a catalogue's languages.

    Args:
        language: "auto" to detect the languages of products, or the ISO 639-1 code of all.
        shares: Language → share of the products, the most frequent first.
        stems: Language that writes compounds as one word → the stems of its products; see `Analyser`.
    """

    def __init__(
        self, language: str, shares: Mapping[str, float], stems: Mapping[str, dict[str, int]]
    ) -> None:
        self.language = language
        self.shares = dict(shares)
        self.stems = dict(stems)
        self._analysers = {code: Analyser(code, stems.get(code)) for code in shares}

    @staticmethod
    def count_stems(language: str, texts: Iterable[str]) -> dict[str, int]:
        """Count the words that the compounds of a language's products are made of, for `stems`."""
        return Analyser(language).count_stems(texts)

    def index_tokens(self, text: str, language: str) -> list[str]:
        """The tokens of a product's text in a language of the catalogue."""
        return self._analysers[language].index_tokens(text)

    def query_tokens(self, text: str) -> list[str]:
        """The tokens of a query, whose language is not known: as every language of the catalogue reads it."""
        first, *others = (analyser.query_tokens(text) for analyser in self._analysers.values())
        added = dict.fromkeys(token for tokens in others for token in tokens)
        return [*first, *(token for token in added if token not in set(first))]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        content = {"language": self.language, "shares": self.shares, "stems": self.stems}
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def split_bigrams(text: str, single: bool) -> Iterator[str]:
    """Split into overlapping bigrams of characters, each with its marks; a single character stays as it is.

    Args:
        text: A run of a script without blanks.
        single: Whether to add the characters as well.
    """
    units = _UNIT.findall(text)
    if single or len(units) == 1:
        yield from units
    for first, second in itertools.pairwise(units):
        yield first + second


def fold_accents(word: str) -> str:
    """Remove the accents of Latin and Greek letters."""
    if not _ACCENTED.search(word):
        return word
    letters = unicodedata.normalize("NFD", word.translate(_STROKES))
    return unicodedata.normalize("NFC", _ACCENT.sub(r"\1", letters))


@cache
def read_stop_words(language: str) -> frozenset[str]:
    """Read the stop words of a language, none if no list is known; scripts without blanks have no words to stop."""
    import bm25s.stopwords
    import stopwordsiso

    if language in SHORT_LISTS:
        words = getattr(bm25s.stopwords, f"STOPWORDS_{SHORT_LISTS[language]}")
    else:
        words = stopwordsiso.stopwords(language) if stopwordsiso.has_lang(language) else ()
    return frozenset(word.casefold().replace("'", "") for word in words) - NOUNS.get(language, frozenset())


def _get_stemmer(language: str) -> Callable[[str], str]:
    """A new stemmer each time, because it is not safe to share between threads; results are cached by the analyser."""
    import Stemmer

    return Stemmer.Stemmer(STEMMERS[language], 0).stemWord if language in STEMMERS else str
