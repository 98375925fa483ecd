"""The queries put to the sample catalogue, their splits and their judgements."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from catalog.sample.draw import encode, picture
from catalog.sample.language import misspell, phrase, pick, word
from catalog.sample.truth import (
    BRAND,
    CHUNK,
    COLOUR,
    JUDGEMENTS,
    KIND,
    MATERIAL,
    MOTION,
    PATTERN,
    QUERIES,
    SPLITTING,
    STILL,
    Need,
    grades,
    resembles,
    truth,
    truths,
)
from catalog.sample.words import COLOURS, PATTERNS, TYPES
from catalog.schema import COMPLEMENT, DERIVED, EXACT, IRRELEVANT, SUBSTITUTE, DataError
from catalog.text import normalise

# Of every twenty queries; the last of all, one in six, are of the segment "video".
SEGMENTS = ("text",) * 11 + ("image",) * 4 + ("composed",) * 5
VIDEO = 6

# What is pinned beside type and colour, and how often. Most name something that only the text carries.
PINS: dict[str, dict[tuple[int, ...], float]] = {
    "text": {
        (BRAND,): 0.32,
        (MATERIAL,): 0.34,
        (PATTERN,): 0.08,
        (BRAND, PATTERN): 0.11,
        (MATERIAL, PATTERN): 0.12,
        (BRAND, MATERIAL): 0.03,
    },
    "image": {(PATTERN,): 1.0},
    "composed": {(BRAND,): 0.33, (MATERIAL,): 0.36, (PATTERN,): 0.11, (): 0.2},
    "video": {(MOTION,): 1.0},
}

PHRASES = {
    "text": (
        ("{brand}", "{pattern}", "{colour}", "{material}", "{kind}"),
        ("{colour}", "{pattern}", "{kind}", "made of {material}", "by {brand}"),
        ("{kind}", "{brand}", "{material}", "{colour}", "{pattern}"),
        ("{pattern}", "{material}", "{kind}", "in {colour}", "from {brand}"),
        ("looking for", "{colour}", "{material}", "{kind}", "{pattern}", "{brand}"),
    ),
    "composed": (
        ("like this but in {colour}", "from {brand}", "made of {material}", "and {pattern}"),
        ("same but", "{pattern}", "{colour}", "by {brand}", "in {material}"),
        ("this one in {colour}", "{material}", "{brand}", "{pattern}"),
        ("do you have this in", "{pattern}", "{colour}", "{material}", "from {brand}"),
        ("{colour}", "{pattern}", "{material}", "version of this", "by {brand}"),
        ("one of these, {colour}", "and {pattern}", "and of {material}", "and by {brand}"),
    ),
    "video": (
        ("{motion}", "{colour}", "{kind}"),
        ("{colour}", "{kind}", "{motion}"),
        ("{kind}", "in {colour}", "that is {motion}"),
        ("{motion}", "{kind}", "in {colour}"),
        ("clip of", "{colour}", "{kind}", "{motion}"),
    ),
}
SLOTS = {
    "kind": KIND,
    "colour": COLOUR,
    "pattern": PATTERN,
    "brand": BRAND,
    "material": MATERIAL,
    "motion": MOTION,
}
MISSPELT = 0.05
ATTEMPTS = 200  # at something to be had, and a text that no other query has

# Judged products of each grade, at most. The irrelevant are half look-alikes, half anything.
JUDGED = {EXACT: 100, SUBSTITUTE: 40, COMPLEMENT: 10, IRRELEVANT: 20}


class Query(NamedTuple):
    """A row of the queries table, and what it asks for."""

    row: dict[str, Any]
    need: Need


def splits(seed: int) -> np.ndarray:
    """The split of each type and colour: str array of shape (types, colours); 55 % train, 15 % valid, 30 % test.

    A query pins type and colour, so no exact match, nor any text, is shared by two splits. The pairs are dealt in a
    Latin square: every type has at least five colours in train, and every colour half the types.
    """
    rng = np.random.default_rng([seed, SPLITTING])
    kinds, colours = rng.permutation(len(TYPES))[:, None], rng.permutation(len(COLOURS))[None, :]
    place = (colours + 3 * kinds) % 10
    ends_train = np.where(kinds % 2, 5, 6)
    return np.select([place < ends_train, place < 7], ["train", "valid"], "test")


def ask(seed: int, products: int, count: int) -> Iterator[Query]:
    """Draw queries, each with at least one exact match among the products and a text of its own.

    Raises:
        DataError: where so few products can be asked for in no more ways.
    """
    split, texts = splits(seed), set[str]()
    for number in range(count):
        segment = SEGMENTS[number % len(SEGMENTS)] if number < count - count // VIDEO else "video"
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([seed, QUERIES, number, attempt])
            need = _wish(segment, seed, products, rng)
            if MOTION in need.pinned and need.truth[MOTION] == STILL:
                continue
            text = _say(segment, need, rng) if segment in PHRASES else None
            if normalise(text) not in texts:
                break
        else:
            raise DataError(
                f"no new {segment} query found as number {number + 1} of {count}; "
                "ask for fewer queries (--queries) or draw more products (--products)"
            )
        if text:
            texts.add(str(normalise(text)))
        row = {
            "query_id": f"q{number:06d}",
            "text": text,
            "image": None if segment in ("text", "video") else _photo(need, rng, other=segment == "composed"),
            "split": str(split[need.truth[KIND], need.truth[COLOUR]]),
            "judged_by": DERIVED,
            "segment": segment,
        }
        yield Query(row, need)


def _wish(segment: str, seed: int, products: int, rng: np.random.Generator) -> Need:
    """What some product of the catalogue is like."""
    wanted = truth(seed, int(rng.integers(products)))
    pins = PINS[segment]
    return Need(wanted, (KIND, COLOUR, *list(pins)[rng.choice(len(pins), p=list(pins.values()))]))


def _say(segment: str, need: Need, rng: np.random.Generator) -> str:
    said = {
        slot: word(rng, attribute, need.truth[attribute])
        for slot, attribute in SLOTS.items()
        if attribute in need.pinned and not (segment == "composed" and attribute == KIND)
    }
    text = phrase(pick(rng, PHRASES[segment]), said).lower()
    return misspell(text, rng) if rng.random() < MISSPELT else text


def _photo(need: Need, rng: np.random.Generator, other: bool) -> dict[str, Any]:
    """A shopper's photo: of what is wanted, or of the type in another colour and pattern."""
    kind, colour, pattern = need.truth[[KIND, COLOUR, PATTERN]].tolist()
    if other:
        colour = int(colour + rng.integers(1, len(COLOURS))) % len(COLOURS)
        pattern = int(pattern + rng.integers(1, len(PATTERNS))) % len(PATTERNS)
    return {"bytes": encode(picture(kind, colour, pattern, rng, rough=True)), "path": None}


class _Draw:
    """A sample of fixed size from a stream: those of the lowest random priority so far."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.priorities, self.indices = np.empty(0), np.empty(0, dtype=np.int64)

    def offer(self, indices: np.ndarray) -> None:
        self.priorities = np.concatenate([self.priorities, self.rng.random(len(indices))])
        self.indices = np.concatenate([self.indices, indices])
        if len(self.indices) > self.size:
            lowest = np.argpartition(self.priorities, self.size)[: self.size]
            self.priorities, self.indices = self.priorities[lowest], self.indices[lowest]


def judge(seed: int, products: int, needs: list[Need]) -> Iterator[tuple[int, int, int]]:
    """Judge products for queries, in one pass over the truths; memory grows with the queries alone.

    Yields:
        (number of the query, index of the product, grade), by query, best grade first, then by product.
    """
    look_alikes = JUDGED[IRRELEVANT] // 2
    drawn = []
    for number in range(len(needs)):
        rng = np.random.default_rng([seed, JUDGEMENTS, number])
        drawn.append(
            [(grade, _Draw(JUDGED[grade], rng)) for grade in (EXACT, SUBSTITUTE, COMPLEMENT)]
            + [
                (IRRELEVANT, _Draw(look_alikes, rng)),
                (IRRELEVANT, _Draw(JUDGED[IRRELEVANT] - look_alikes, rng)),
            ]
        )
    for start in range(0, products, CHUNK):
        candidates = truths(seed, start // CHUNK)[: products - start]
        for need, draws in zip(needs, drawn, strict=True):
            grade, alike = grades(candidates, need), resembles(candidates, need)
            zero = grade == IRRELEVANT
            masks = [grade == EXACT, grade == SUBSTITUTE, grade == COMPLEMENT, zero & alike, zero & ~alike]
            for mask, (_, draw) in zip(masks, draws, strict=True):
                draw.offer(start + np.flatnonzero(mask))
    for number, draws in enumerate(drawn):
        judged = sorted((-grade, int(index)) for grade, draw in draws for index in draw.indices)
        yield from ((number, index, -grade) for grade, index in judged)
