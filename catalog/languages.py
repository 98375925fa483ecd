"""Language detection: by script where it decides, else by statistics of letters."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from catalog import scripts

ENGLISH = "en"
MIN_PROBABILITY = 0.5  # it is lower for names, codes and very short texts
MIN_PROBABILITY_ANY = 0.05  # mean over texts, of a language in which they can be
MIN_SCRIPT_SHARE = 0.2  # of the letters: Latin brands and units are part of titles in every language
MIN_LANGUAGE_SHARE = 0.02  # of the texts of a catalogue: a language of fewer is a name or an error
MIN_CERTAIN_SHARE = 0.01  # of the texts must be certainly in it
SAMPLE_TEXTS = 2000  # of a catalogue, to find its languages
PRIOR_TEXTS = 0.5  # of English: a few short titles can look like any language
ROUNDS = 20  # of expectation maximisation; the shares of a catalogue's languages hardly change after ten

# Script → its letters, and its language; None where several languages use it.
SCRIPTS: dict[str, tuple[str, str | None]] = {
    "Kana": (scripts.HIRAGANA + scripts.KATAKANA, "ja"),
    "Han": (scripts.HAN, None),
    "Hangul": (scripts.HANGUL, "ko"),
    "Thai": (scripts.THAI, "th"),
    "Lao": (scripts.LAO, "lo"),
    "Khmer": (scripts.KHMER, "km"),
    "Myanmar": (scripts.MYANMAR, "my"),
    "Greek": ("\u0370-\u03ff\u1f00-\u1fff", "el"),
    "Hebrew": ("\u05d0-\u05ea", "he"),
    "Armenian": ("\u0531-\u0587", "hy"),
    "Georgian": ("\u10a0-\u10ff\u1c90-\u1cbf", "ka"),
    "Tamil": ("\u0b80-\u0bff", "ta"),
    "Telugu": ("\u0c00-\u0c7f", "te"),
    "Kannada": ("\u0c80-\u0cff", "kn"),
    "Malayalam": ("\u0d00-\u0d7f", "ml"),
    "Sinhala": ("\u0d80-\u0dff", "si"),
    "Gujarati": ("\u0a80-\u0aff", "gu"),
    "Gurmukhi": ("\u0a00-\u0a7f", "pa"),
    "Odia": ("\u0b00-\u0b7f", "or"),
    "Ethiopic": ("\u1200-\u137f", "am"),
    "Bengali": ("\u0980-\u09ff", None),
    "Devanagari": ("\u0900-\u097f", None),
    "Arabic": ("\u0620-\u06d3\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc", None),
    "Cyrillic": ("\u0400-\u052f", None),
}
_SCRIPT_LETTERS = re.compile("|".join(f"(?P<{name}>[{letters}])" for name, (letters, _) in SCRIPTS.items()))
_LETTER = re.compile(r"[^\W\d_]")
_OTHER_THAN_LATIN = re.compile("[\u0370-\u1cff\u1f00-\u1fff\u2e80-\ufefc\U00020000-\U000323af]")
# Languages of the scripts that several languages use; of the Latin script, all others.
SHARED_SCRIPTS = {
    "Bengali": {"bn", "as"},
    "Devanagari": {"hi", "mr", "ne", "sa", "gom"},
    "Arabic": {"ar", "ary", "arz", "fa", "ur", "ps", "ug", "ku", "sdh"},
    "Cyrillic": {"ru", "uk", "bg", "sr", "mk", "be", "kk", "ky", "mn", "tg", "tt", "ba", "uz"},
}
HAN_LANGUAGES = {"zh": 0.9, "ja": 0.1}  # of titles without kana
# Languages that are never written in Latin letters; Serbian, Uzbek and Kurdish are.
NON_LATIN = frozenset(
    {code for _, code in SCRIPTS.values() if code}.union(HAN_LANGUAGES, *SHARED_SCRIPTS.values())
    - {"sr", "uz", "ku"}
)
# Varieties and standards that titles cannot separate: their probabilities are added up.
VARIETIES = {
    "nn": "no",
    "nb": "no",
    "arz": "ar",
    "ary": "ar",
    "sdh": "ku",
    "uzs": "uz",
}
RELATED = (frozenset({"hr", "bs", "sr"}), frozenset({"id", "ms"}))


def detect_language(text: str) -> str | None:
    """Detect the language of a text: its ISO 639-1 code, or None if uncertain, as for most short titles."""
    return _choose_certain(rank_languages(text))


def _choose_certain(probabilities: Mapping[str, float]) -> str | None:
    """Choose the language that is more probable than all others together; None if there is none."""
    if not probabilities:
        return None
    code = max(probabilities, key=lambda code: probabilities[code])
    related = next((group for group in RELATED if code in group), frozenset({code}))
    return code if sum(probabilities.get(other, 0) for other in related) >= MIN_PROBABILITY else None


def rank_languages(text: str) -> dict[str, float]:
    """Estimate the probability of each language, ISO 639-1, in which a text can be; empty for a text without letters.

    A script other than Latin that has `MIN_SCRIPT_SHARE` of the letters decides: its language is certain, or one of the
    few that use it. A text of Han characters with kana is Japanese; without, most likely Chinese. The rest is left to
    py3langid, whose probabilities of varieties, such as Moroccan and Egyptian Arabic, are added up.
    """
    if not _LETTER.search(text):
        return {}
    script = _find_script(text)
    if script == "Han":
        return dict(HAN_LANGUAGES)
    if script and (language := SCRIPTS[script][1]):
        return {language: 1.0}
    candidates = SHARED_SCRIPTS.get(script or "")
    probabilities: Counter[str] = Counter()
    for code, probability in _identifier().rank(text):
        name = VARIETIES.get(code, code)
        if code in candidates if candidates else name not in NON_LATIN:
            probabilities[name] += probability
    total = sum(probabilities.values()) if candidates else 1.0
    return {code: value / total for code, value in probabilities.items() if len(code) == 2 and value > 0}


def find_languages(texts: Sequence[str]) -> dict[str, float]:
    """Find the languages of a catalogue and their shares, the most frequent first.

    Most titles are too short to be certain of their language, but what they have in common is not: the shares are the
    weights of a mixture, by expectation maximisation (Dempster, Laird & Rubin, 1977). Names can look like another
    language, so each language but the first must be certain in some texts, too.

    Args:
        texts: Of products; a sample of about `SAMPLE_TEXTS` at equal distances is read.

    Returns:
        ISO 639-1 code → share, of the languages with `MIN_LANGUAGE_SHARE` of the texts; empty if no text has letters.
    """
    sample = texts[:: max(1, len(texts) // SAMPLE_TEXTS)]
    rankings = [ranking for text in sample if (ranking := rank_languages(text))]
    if not rankings:
        return {}
    shares = _fit_shares(rankings)
    certain = Counter(filter(None, map(_choose_certain, rankings)))
    first = max(shares, key=lambda code: shares[code])
    order = sorted(shares, key=lambda code: (-shares[code], code))
    return {
        code: shares[code]
        for code in order
        if code == first
        or (shares[code] >= MIN_LANGUAGE_SHARE and certain[code] >= MIN_CERTAIN_SHARE * len(rankings))
    }


def _fit_shares(rankings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Fit the weights of a mixture of languages to the probabilities of texts; they add up to 1."""
    codes = sorted({code for ranking in rankings for code in ranking})
    probabilities = np.array([[ranking.get(code, 0.0) for code in codes] for ranking in rankings])
    shares = np.full(len(codes), 1 / len(codes))
    prior = np.array([PRIOR_TEXTS if code == ENGLISH else 0.0 for code in codes])
    for _ in range(ROUNDS):
        weighted = probabilities * shares + np.finfo(float).tiny
        counts = (weighted / weighted.sum(1, keepdims=True)).sum(0) + prior
        shares = counts / counts.sum()
    return dict(zip(codes, shares.tolist(), strict=True))


def is_possible(language: str, texts: Sequence[str]) -> bool:
    """Whether texts can be in a language: their mean probability is `MIN_PROBABILITY_ANY` or more."""
    sample = texts[:: max(1, len(texts) // SAMPLE_TEXTS)]
    return sum(rank_languages(text).get(language, 0.0) for text in sample) >= MIN_PROBABILITY_ANY * len(
        sample
    )


def choose_language(text: str, shares: Mapping[str, float]) -> str:
    """Choose the language of a text among those of its catalogue.

    Args:
        text: Of a product.
        shares: ISO 639-1 code → share of the catalogue, the most frequent first; one or more.

    Returns:
        The most probable language, given the shares; the most frequent where the text says nothing.
    """
    if len(shares) == 1:
        return next(iter(shares))
    probabilities = rank_languages(text)
    return max(shares, key=lambda code: probabilities.get(code, 0.0) * shares[code])


def choose_languages(texts: Sequence[str], languages: Sequence[str | None]) -> list[str]:
    """Choose the language of each product: as given, else detected among those of the catalogue; English if none is.

    Args:
        texts: Of products.
        languages: Of the same products; None where unknown.
    """
    unknown = [text for text, language in zip(texts, languages, strict=True) if not language]
    shares = find_languages(unknown) or {ENGLISH: 1.0}
    return [
        read_code(language) if language else choose_language(text, shares)
        for text, language in zip(texts, languages, strict=True)
    ]


def read_code(language: str) -> str:
    """Read the ISO 639-1 code of a locale: "de" of "de-AT", "de_AT" or "DE"; "no" of its two written standards."""
    code = re.split("[-_]", language.strip().casefold())[0]
    return VARIETIES.get(code, code)


def _find_script(text: str) -> str | None:
    """Find the script that decides the language; None for Latin, or where there are no letters."""
    if text.isascii() or not _OTHER_THAN_LATIN.search(text):
        return None
    counts = Counter(match.lastgroup or "" for match in _SCRIPT_LETTERS.finditer(text))
    letters = sum(map(str.isalpha, text))
    if not counts or counts.total() < MIN_SCRIPT_SHARE * letters:
        return None
    if counts["Kana"] and counts["Kana"] + counts["Han"] >= counts.total() / 2:
        return "Kana"
    return counts.most_common(1)[0][0]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # slow: loads the model

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
