"""Queries of the sample catalogue, their splits and their judgements."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from catalog.sample.language import join_phrase, misspell, pick, pick_word
from catalog.sample.pictures import draw_picture, encode_webp
from catalog.sample.truth import (
    BRAND,
    CHUNK_PRODUCTS,
    COLOUR,
    EMBLEM,
    JUDGEMENTS,
    KIND,
    LABEL,
    MATERIAL,
    MOTION,
    NO_EMBLEM,
    NO_LABEL,
    PATTERN,
    PRINT_QUERIES,
    QUERIES,
    STILL,
    Need,
    assign_splits,
    draw_truth,
    draw_truths,
    find_look_alikes,
    grade_products,
)
from catalog.sample.words import COLOURS, PATTERNS
from catalog.schema import COMPLEMENT, DERIVED, EXACT, IRRELEVANT, SUBSTITUTE, DataError
from catalog.text import normalise

# Segments of every twenty queries; but the last two sevenths of all queries are of the segments "video" and "gallery".
SEGMENTS = ("text",) * 11 + ("image",) * 4 + ("composed",) * 5
LAST_SEGMENTS, LAST_DIVISOR = ("video", "gallery"), 7
# More queries ask for labels: one for each type, colour and label, at most an eighth of the number of the others.
LABEL_SEGMENT, LABEL_DIVISOR = "label", 8

# Attributes that a query fixes besides type and colour, and their shares. Most are only in the text of products.
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
    "gallery": {(EMBLEM,): 1.0},
    LABEL_SEGMENT: {(LABEL,): 1.0},
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
    "gallery": (
        ("{colour}", "{kind}", "with a {emblem}", "on the back"),
        ("{kind}", "in {colour}", "{emblem}", "on the other side"),
        ("{emblem}", "print", "{colour}", "{kind}"),
        ("{colour}", "{kind}", "{emblem}", "emblem"),
        ("{kind}", "with {emblem} motif", "in {colour}"),
    ),
    LABEL_SEGMENT: (
        ("{colour}", "{kind}", "{label}"),
        ("{label}", "{colour}", "{kind}"),
        ("{kind}", "in {colour}", "that says {label}"),
        ("{label}", "{kind}", "in {colour}"),
        ("{colour}", "{kind}", "with {label}", "printed on it"),
    ),
}
SLOTS = {
    "kind": KIND,
    "colour": COLOUR,
    "pattern": PATTERN,
    "brand": BRAND,
    "material": MATERIAL,
    "motion": MOTION,
    "emblem": EMBLEM,
    "label": LABEL,
}
ABSENT = {MOTION: STILL, EMBLEM: NO_EMBLEM}  # values that no query asks for
MISSPELLED_SHARE = 0.05
MAX_ATTEMPTS = 200  # to draw a query that has an answer and a new text

# Judged products by grade, at most. Half of the irrelevant ones are look-alikes, half are random.
MAX_JUDGED = {EXACT: 100, SUBSTITUTE: 40, COMPLEMENT: 10, IRRELEVANT: 20}


class Query(NamedTuple):
    """A row of the queries table, and the attributes that it asks for."""

    row: dict[str, Any]
    need: Need


def draw_queries(seed: int, products: int, count: int) -> Iterator[Query]:
    """Draw queries, each with a unique text and at least one exact match among the products.

    Args:
        seed: Random seed.
        products: Number of products.
        count: Number of queries. Those that ask for labels come after them; others do not depend on them.

    Raises:
        DataError: if the products are too few for so many different queries.
    """
    splits, texts = assign_splits(seed), set[str]()
    for number in range(count):
        segment = _choose_segment(number, count)
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng([seed, QUERIES, number, attempt])
            need = _draw_need(segment, seed, products, rng)
            if any(column in need.pinned and need.truth[column] == value for column, value in ABSENT.items()):
                continue
            text = _make_text(segment, need, rng) if segment in PHRASES else None
            if normalise(text) not in texts:
                break
        else:
            raise DataError(
                f"cannot draw a new {segment} query as number {number + 1} of {count}; "
                "use fewer queries (--queries) or more products (--products)"
            )
        if text:
            texts.add(str(normalise(text)))
        pictured = segment not in ("text", *LAST_SEGMENTS)
        image = _make_photo(need, rng, altered=segment == "composed") if pictured else None
        yield _make_query(number, segment, text, image, need, splits)
    label_needs = itertools.islice(_list_label_needs(seed, products), count // LABEL_DIVISOR)
    for number, need in enumerate(label_needs, start=count):
        rng = np.random.default_rng([seed, PRINT_QUERIES, number - count])
        yield _make_query(number, LABEL_SEGMENT, _make_text(LABEL_SEGMENT, need, rng), None, need, splits)


def _list_label_needs(seed: int, products: int) -> Iterator[Need]:
    """One need for each type, colour and label that a product has, in the order of the first such products."""
    pinned, listed = (KIND, COLOUR, LABEL), set[tuple[int, ...]]()
    for start in range(0, products, CHUNK_PRODUCTS):
        truths = draw_truths(seed, start // CHUNK_PRODUCTS)[: products - start]
        for truth in truths[truths[:, LABEL] != NO_LABEL]:
            values = tuple(truth[list(pinned)].tolist())
            if values not in listed:
                listed.add(values)
                yield Need(truth, pinned)


def _make_query(
    number: int,
    segment: str,
    text: str | None,
    image: dict[str, Any] | None,
    need: Need,
    splits: np.ndarray,
) -> Query:
    row = {
        "query_id": f"q{number:06d}",
        "text": text,
        "image": image,
        "split": str(splits[need.truth[KIND], need.truth[COLOUR]]),
        "judged_by": DERIVED,
        "segment": segment,
    }
    return Query(row, need)


def _choose_segment(number: int, count: int) -> str:
    """The segment of a query by its number."""
    last = (count - number - 1) // max(1, count // LAST_DIVISOR)  # 0 for the last seventh
    if count >= LAST_DIVISOR and last < len(LAST_SEGMENTS):
        return LAST_SEGMENTS[-1 - last]
    return SEGMENTS[number % len(SEGMENTS)]


def _draw_need(segment: str, seed: int, products: int, rng: np.random.Generator) -> Need:
    """Draw a product, and the attributes of it that a query asks for."""
    truth = draw_truth(seed, int(rng.integers(products)))
    pins = PINS[segment]
    return Need(truth, (KIND, COLOUR, *list(pins)[rng.choice(len(pins), p=list(pins.values()))]))


def _make_text(segment: str, need: Need, rng: np.random.Generator) -> str:
    words = {
        slot: pick_word(rng, attribute, need.truth[attribute])
        for slot, attribute in SLOTS.items()
        if attribute in need.pinned and not (segment == "composed" and attribute == KIND)
    }
    text = join_phrase(pick(rng, PHRASES[segment]), words).lower()
    return misspell(text, rng) if rng.random() < MISSPELLED_SHARE else text


def _make_photo(need: Need, rng: np.random.Generator, altered: bool) -> dict[str, Any]:
    """Draw a shopper's photo of the product; `altered` changes its colour and pattern."""
    kind, colour, pattern = need.truth[[KIND, COLOUR, PATTERN]].tolist()
    if altered:
        colour = int(colour + rng.integers(1, len(COLOURS))) % len(COLOURS)
        pattern = int(pattern + rng.integers(1, len(PATTERNS))) % len(PATTERNS)
    return {"bytes": encode_webp(draw_picture(kind, colour, pattern, rng, rough=True)), "path": None}


class _Reservoir:
    """A random sample of fixed size from a stream: the items with the lowest random priorities."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.priorities, self.indices = np.empty(0), np.empty(0, dtype=np.int64)

    def add(self, indices: np.ndarray) -> None:
        self.priorities = np.concatenate([self.priorities, self.rng.random(len(indices))])
        self.indices = np.concatenate([self.indices, indices])
        if len(self.indices) > self.size:
            lowest = np.argpartition(self.priorities, self.size)[: self.size]
            self.priorities, self.indices = self.priorities[lowest], self.indices[lowest]


def draw_judgements(seed: int, products: int, needs: list[Need]) -> Iterator[tuple[int, int, int]]:
    """Judge products for queries in one pass over the truths; memory grows only with the number of queries.

    Yields:
        (number of the query, index of the product, grade), sorted by query, descending grade, product.
    """
    samples = [_make_reservoirs(seed, number) for number in range(len(needs))]
    for start in range(0, products, CHUNK_PRODUCTS):
        candidates = draw_truths(seed, start // CHUNK_PRODUCTS)[: products - start]
        for need, reservoirs in zip(needs, samples, strict=True):
            grades, alike = grade_products(candidates, need), find_look_alikes(candidates, need)
            irrelevant = grades == IRRELEVANT
            masks = [grades == grade for grade in (EXACT, SUBSTITUTE, COMPLEMENT)]
            masks += [irrelevant & alike, irrelevant & ~alike]
            for mask, (_, reservoir) in zip(masks, reservoirs, strict=True):
                reservoir.add(start + np.flatnonzero(mask))
    for number, reservoirs in enumerate(samples):
        judged = sorted(
            (-grade, int(index)) for grade, reservoir in reservoirs for index in reservoir.indices
        )
        yield from ((number, index, -negative) for negative, index in judged)


def _make_reservoirs(seed: int, number: int) -> list[tuple[int, _Reservoir]]:
    """The samples of one query by grade; of the irrelevant grade, first look-alikes, then others."""
    rng = np.random.default_rng([seed, JUDGEMENTS, number])
    look_alikes = MAX_JUDGED[IRRELEVANT] // 2
    sizes = [(grade, MAX_JUDGED[grade]) for grade in (EXACT, SUBSTITUTE, COMPLEMENT)]
    sizes += [(IRRELEVANT, look_alikes), (IRRELEVANT, MAX_JUDGED[IRRELEVANT] - look_alikes)]
    return [(grade, _Reservoir(size, rng)) for grade, size in sizes]
