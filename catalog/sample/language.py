"""Text generation: pick words, join them to phrases, misspell them."""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TypeVar

import numpy as np

from catalog.sample.truth import BRAND, COLOUR, EMBLEM, KIND, LABEL, MATERIAL, MOTION, PATTERN
from catalog.sample.words import BRANDS, COLOURS, EMBLEMS, LABELS, MATERIALS, MOTIONS, PATTERNS, TYPES

T = TypeVar("T")

# Words for each attribute: column of the truth → value → name and synonyms.
NAMES: dict[int, Sequence[Sequence[str]]] = {
    KIND: [kind.words for kind in TYPES],
    COLOUR: [colour.words for colour in COLOURS],
    PATTERN: PATTERNS,
    BRAND: [(brand,) for brand in BRANDS],
    MATERIAL: [(material,) for material in MATERIALS],
    MOTION: MOTIONS,
    EMBLEM: EMBLEMS,
    LABEL: [(label,) for label in LABELS],
}


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of the choices with equal probabilities."""
    return choices[int(rng.integers(len(choices)))]


def pick_word(rng: np.random.Generator, attribute: int, value: int) -> str:
    """Draw a word for an attribute's value: the name with probability 0.5, else a synonym."""
    name, *synonyms = NAMES[attribute][value]
    return name if not synonyms or rng.random() < 0.5 else pick(rng, synonyms)


def join_phrase(pieces: Sequence[str], words: Mapping[str, str]) -> str:
    """Join pieces such as "made of {material}" with spaces; skips pieces whose word is missing.

    >>> phrase(("{colour}", "mug", "by {brand}"), {"colour": "red"})
    'red mug'
    """
    usable = (
        piece
        for piece in pieces
        if all(words.get(slot) for _, slot, _, _ in Formatter().parse(piece) if slot)
    )
    return " ".join(piece.format_map(words) for piece in usable)


def misspell(text: str, rng: np.random.Generator) -> str:
    """Swap, drop or double one letter inside a word of five or more letters; unchanged if there is none."""
    words = text.split(" ")
    long_words = [index for index, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long_words:
        return text
    index = pick(rng, long_words)
    word = words[index]
    at = int(rng.integers(1, len(word) - 2))
    first, second = word[at], word[at + 1]
    typo = pick(rng, (second + first, first, first + first + second))
    words[index] = word[:at] + typo + word[at + 2 :]
    return " ".join(words)
