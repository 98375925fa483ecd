"""Say things from vocabulary: pick words, join them to phrases, misspell them."""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TypeVar

import numpy as np

from catalog.sample.truth import BRAND, COLOUR, KIND, MATERIAL, MOTION, PATTERN
from catalog.sample.words import BRANDS, COLOURS, MATERIALS, MOTIONS, PATTERNS, TYPES

T = TypeVar("T")

# How each attribute may be called, by its column of the truth and then by its value.
NAMES: dict[int, Sequence[Sequence[str]]] = {
    KIND: [kind.words for kind in TYPES],
    COLOUR: [colour.words for colour in COLOURS],
    PATTERN: PATTERNS,
    BRAND: [(brand,) for brand in BRANDS],
    MATERIAL: [(material,) for material in MATERIALS],
    MOTION: MOTIONS,
}


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of them, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def word(rng: np.random.Generator, attribute: int, value: int) -> str:
    """A word for an attribute's value: its name as often as all its synonyms together."""
    name, *synonyms = NAMES[attribute][value]
    return name if not synonyms or rng.random() < 0.5 else pick(rng, synonyms)


def phrase(pieces: Sequence[str], words: Mapping[str, str]) -> str:
    """Join pieces such as "made of {material}" with spaces, leaving out those whose word is not given.

    >>> phrase(("{colour}", "mug", "by {brand}"), {"colour": "red"})
    'red mug'
    """
    said = (p for p in pieces if all(words.get(slot) for _, slot, _, _ in Formatter().parse(p) if slot))
    return " ".join(piece.format_map(words) for piece in said)


def misspell(text: str, rng: np.random.Generator) -> str:
    """Swap, drop or double one letter inside one longer word; a text of short words, or of codes, stays as it is."""
    words = text.split(" ")
    longer = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not longer:
        return text
    place = pick(rng, longer)
    at = int(rng.integers(1, len(words[place]) - 2))
    before, a, b, after = words[place][:at], words[place][at], words[place][at + 1], words[place][at + 2 :]
    words[place] = before + pick(rng, (b + a, a, a + a + b)) + after
    return " ".join(words)
