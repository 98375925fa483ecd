"""A product of the sample catalogue as its merchant lists it.

The picture shows type, colour and pattern, never more. The text carries type, brand and material, and seldom colour
or pattern: a product is found by both together. A clip, where there is one, alone shows how it moves.
"""

from typing import Any

import numpy as np

from catalog.sample.draw import clip, encode, picture
from catalog.sample.language import misspell, phrase, pick, word
from catalog.sample.truth import (
    BRAND,
    CLIPS,
    COLOUR,
    KIND,
    MATERIAL,
    MOTION,
    PATTERN,
    PRODUCTS,
    STILL,
    truth,
)
from catalog.sample.words import BRAND_PRICE, BRANDS, CARE, COLOURS, LINES, MATERIALS, PATTERNS, SIZES, TYPES

TITLES = (
    ("{brand}", "{line}", "{code}", "{pattern}", "{colour}", "{material}", "{kind}", "{size}"),
    ("{kind}", "{line}", "{code}", "{pattern}", "{colour}", "{material}", "by {brand}"),
    ("{brand}", "{kind}", "{line}", "{code}", "in {material}", "{colour}", "{pattern}", "{size}"),
)
OPENINGS = (
    ("{brand} {kind}, made of {material}.",),  # the first says it all
    ("{brand} makes it to last, of {material}.",),
    ("Your new {kind} for every day", "from {brand}."),
    ("Made of {material}.",),
)
LOOKS = ("In {colour}.", "The look is {pattern}.")

# Shares of products.
IN_TITLE = {"kind": 0.9, "brand": 0.85, "material": 0.75, "colour": 0.6, "pattern": 0.6, "size": 0.2}
IN_COLUMN = {"category": 0.85, "brand": 0.93, "material": 0.9, "description": 0.98, "image": 0.98}
TELLS = {"colour": 0.25, "pattern": 0.15}  # anywhere in its text
MISSPELT = 0.05

LETTERS, DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789"
CODES = (len(LETTERS) * len(DIGITS)) ** 3  # as many products can be told apart
STRIDE = 7_368_787  # shares no factor with CODES


def code(index: int) -> str:
    """The model code of a product, "K4F2M7", and of no other below CODES."""
    rest, signs = index * STRIDE % CODES, []
    for alphabet in (LETTERS, DIGITS) * 3:
        rest, place = divmod(rest, len(alphabet))
        signs.append(alphabet[place])
    return "".join(signs)


def listing(seed: int, index: int) -> dict[str, Any]:
    """The row of one product, a function of seed and index."""
    rng = np.random.default_rng([seed, PRODUCTS, index])
    values = truth(seed, index)
    kind = TYPES[values[KIND]]
    measure, sizes = SIZES[kind.department]
    size = pick(rng, sizes)
    columns = {name for name, share in IN_COLUMN.items() if rng.random() < share}
    words = {
        "kind": word(rng, KIND, values[KIND]),
        "brand": BRANDS[values[BRAND]],
        "material": MATERIALS[values[MATERIAL]],
        "line": pick(rng, LINES),
        "code": code(index),
        "measure": measure.capitalize() if measure.islower() else measure,
        "size": size,
    }
    for name, attribute in (("colour", COLOUR), ("pattern", PATTERN)):
        if rng.random() < TELLS[name]:
            words[name] = word(rng, attribute, values[attribute])
    title = _title(words, rng, kind_needed=not columns & {"category", "description"})
    pattern = [("pattern", PATTERNS[values[PATTERN]][0])] if "pattern" in words else []
    shown = picture(values[KIND], values[COLOUR], values[PATTERN], rng)
    product_id = f"p{index:08d}"
    row = {
        "title": title,
        "description": _description(words, rng, values[KIND], kind_needed="category" not in columns),
        "category": f"{kind.department}/{kind.name}",
        "brand": words["brand"],
        "material": words["material"],
        "image": {"bytes": encode(shown), "path": f"{product_id}.webp"},
    }
    return {name: value for name, value in row.items() if name == "title" or name in columns} | {
        "product_id": product_id,
        "color": COLOURS[values[COLOUR]].words[0] if "colour" in words else None,
        "price": _price(values, rng),
        "currency": "EUR",
        "video": None if values[MOTION] == STILL else _video(seed, index, product_id),
        "attributes": [(measure, size), ("model", words["code"]), *pattern],
    }


def _video(seed: int, index: int, product_id: str) -> list[dict[str, Any]]:
    """The frames of a clip, from a stream of their own: all else stays as it is, whatever moves."""
    kind, colour, pattern, motion = truth(seed, index)[[KIND, COLOUR, PATTERN, MOTION]].tolist()
    frames = clip(kind, colour, pattern, motion, np.random.default_rng([seed, CLIPS, index]))
    return [{"bytes": encode(frame), "path": f"{product_id}-{n}.webp"} for n, frame in enumerate(frames)]


def _title(words: dict[str, str], rng: np.random.Generator, kind_needed: bool) -> str:
    """A title; its code makes it the only one of its kind."""
    said = {name for name, share in IN_TITLE.items() if rng.random() < share} | {"line", "code"}
    if kind_needed:
        said.add("kind")
    title = phrase(pick(rng, TITLES), {name: said_word for name, said_word in words.items() if name in said})
    if rng.random() < MISSPELT:
        title = misspell(title, rng)
    return title[0].upper() + title[1:]


def _description(words: dict[str, str], rng: np.random.Generator, kind: int, kind_needed: bool) -> str:
    opening = OPENINGS[0] if kind_needed else pick(rng, OPENINGS)
    facts = pick(rng, TYPES[kind].features) + "."
    care = pick(rng, CARE[TYPES[kind].department])
    return phrase((*opening, facts, *LOOKS, "{measure}: {size}.", care), words)


def _price(values: np.ndarray, rng: np.random.Generator) -> float:
    """Euros: by type, brand and material (the first that a type names is the dearest), and a little luck."""
    kind = TYPES[values[KIND]]
    finer = 1.15 - 0.1 * kind.materials.index(MATERIALS[values[MATERIAL]])
    euros = kind.price * BRAND_PRICE[values[BRAND]] * finer * rng.lognormal(0, 0.15)
    return max(1, round(euros)) - 0.05
