"""Product listings of the sample catalogue: text, pictures and clip.

The main picture shows type, colour and pattern. The text names type, brand and material, and rarely colour or pattern,
so that search needs both. Only the second picture, if there is one, shows the emblem on the back; only the clip, if
there is one, shows the motion. A label is printed on the product in the main picture, and stands nowhere else.
"""

from typing import Any

import numpy as np

from catalog.sample.language import join_phrase, misspell, pick, pick_word
from catalog.sample.pictures import Label, draw_clip, draw_picture, encode_webp
from catalog.sample.truth import (
    BACKS,
    BRAND,
    CLIPS,
    COLOUR,
    EMBLEM,
    KIND,
    LABEL,
    MATERIAL,
    MOTION,
    NO_EMBLEM,
    NO_LABEL,
    PATTERN,
    PLATES,
    PRODUCTS,
    STILL,
    draw_truth,
)
from catalog.sample.words import BRAND_PRICE, BRANDS, CARE, COLOURS, LINES, MATERIALS, PATTERNS, SIZES, TYPES

TITLES = (
    ("{brand}", "{line}", "{code}", "{pattern}", "{colour}", "{material}", "{kind}", "{size}"),
    ("{kind}", "{line}", "{code}", "{pattern}", "{colour}", "{material}", "by {brand}"),
    ("{brand}", "{kind}", "{line}", "{code}", "in {material}", "{colour}", "{pattern}", "{size}"),
)
OPENINGS = (
    ("{brand} {kind}, made of {material}.",),  # the first names everything
    ("{brand} makes it to last, of {material}.",),
    ("Your new {kind} for every day", "from {brand}."),
    ("Made of {material}.",),
)
LOOKS = ("In {colour}.", "The look is {pattern}.")

# Share of products whose title or column has a value.
TITLE_SHARES = {"kind": 0.9, "brand": 0.85, "material": 0.75, "colour": 0.6, "pattern": 0.6, "size": 0.2}
COLUMN_SHARES = {"category": 0.85, "brand": 0.93, "material": 0.9, "description": 0.98, "images": 0.98}
MENTION_SHARES = {"colour": 0.25, "pattern": 0.15}  # anywhere in the text
MISSPELLED_SHARE = 0.05

LETTERS, DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789"
CODE_COUNT = (len(LETTERS) * len(DIGITS)) ** 3  # maximal number of products
STRIDE = 7_368_787  # coprime to CODE_COUNT


def model_code(index: int) -> str:
    """Compute the model code of a product, such as "K4F2M7"; unique for indices below `CODE_COUNT`."""
    rest, characters = index * STRIDE % CODE_COUNT, []
    for alphabet in (LETTERS, DIGITS) * 3:
        rest, position = divmod(rest, len(alphabet))
        characters.append(alphabet[position])
    return "".join(characters)


def make_listing(seed: int, index: int) -> dict[str, Any]:
    """Generate the row of one product, as a function of seed and index."""
    rng = np.random.default_rng([seed, PRODUCTS, index])
    truth = draw_truth(seed, index)
    kind = TYPES[truth[KIND]]
    measure, sizes = SIZES[kind.department]
    size = pick(rng, sizes)
    columns = {name for name, share in COLUMN_SHARES.items() if rng.random() < share}
    words = _pick_words(truth, rng) | {
        "code": model_code(index),
        "measure": measure.capitalize() if measure.islower() else measure,
        "size": size,
    }
    for name, attribute in (("colour", COLOUR), ("pattern", PATTERN)):
        if rng.random() < MENTION_SHARES[name]:
            words[name] = pick_word(rng, attribute, truth[attribute])
    title = _make_title(words, rng, kind_needed=not columns & {"category", "description"})
    pattern = [("pattern", PATTERNS[truth[PATTERN]][0])] if "pattern" in words else []
    label = (
        None
        if truth[LABEL] == NO_LABEL
        else Label(truth[LABEL], np.random.default_rng([seed, PLATES, index]))
    )
    picture = draw_picture(truth[KIND], truth[COLOUR], truth[PATTERN], rng, label=label)
    product_id = f"p{index:08d}"
    row = {
        "title": title,
        "description": _make_description(words, rng, truth[KIND], kind_needed="category" not in columns),
        "category": f"{kind.department}/{kind.name}",
        "brand": words["brand"],
        "material": words["material"],
        "images": [
            {"bytes": encode_webp(picture), "path": f"{product_id}.webp"},
            *_make_back(seed, index, product_id),
        ],
    }
    return {name: value for name, value in row.items() if name == "title" or name in columns} | {
        "product_id": product_id,
        "color": COLOURS[truth[COLOUR]].words[0] if "colour" in words else None,
        "price": _draw_price(truth, rng),
        "currency": "EUR",
        "video": None if truth[MOTION] == STILL else _make_video(seed, index, product_id),
        "attributes": [(measure, size), ("model", words["code"]), *pattern],
    }


def _pick_words(truth: np.ndarray, rng: np.random.Generator) -> dict[str, str]:
    return {
        "kind": pick_word(rng, KIND, truth[KIND]),
        "brand": BRANDS[truth[BRAND]],
        "material": MATERIALS[truth[MATERIAL]],
        "line": pick(rng, LINES),
    }


def _make_back(seed: int, index: int, product_id: str) -> list[dict[str, Any]]:
    """Generate the picture of the back, if it has an emblem, with separate random numbers."""
    kind, colour, pattern, emblem = draw_truth(seed, index)[[KIND, COLOUR, PATTERN, EMBLEM]].tolist()
    if emblem == NO_EMBLEM:
        return []
    picture = draw_picture(kind, colour, pattern, np.random.default_rng([seed, BACKS, index]), emblem=emblem)
    return [{"bytes": encode_webp(picture), "path": f"{product_id}-back.webp"}]


def _make_video(seed: int, index: int, product_id: str) -> list[dict[str, Any]]:
    """Generate the frames of a clip, with separate random numbers: other columns do not depend on the motion."""
    kind, colour, pattern, motion = draw_truth(seed, index)[[KIND, COLOUR, PATTERN, MOTION]].tolist()
    frames = draw_clip(kind, colour, pattern, motion, np.random.default_rng([seed, CLIPS, index]))
    return [
        {"bytes": encode_webp(frame), "path": f"{product_id}-{number}.webp"}
        for number, frame in enumerate(frames)
    ]


def _make_title(words: dict[str, str], rng: np.random.Generator, kind_needed: bool) -> str:
    """Generate a title; its code makes it unique."""
    names = {name for name, share in TITLE_SHARES.items() if rng.random() < share} | {"line", "code"}
    if kind_needed:
        names.add("kind")
    title = join_phrase(pick(rng, TITLES), {name: word for name, word in words.items() if name in names})
    if rng.random() < MISSPELLED_SHARE:
        title = misspell(title, rng)
    return title[0].upper() + title[1:]


def _make_description(words: dict[str, str], rng: np.random.Generator, kind: int, kind_needed: bool) -> str:
    opening = OPENINGS[0] if kind_needed else pick(rng, OPENINGS)
    facts = pick(rng, TYPES[kind].features) + "."
    care = pick(rng, CARE[TYPES[kind].department])
    return join_phrase((*opening, facts, *LOOKS, "{measure}: {size}.", care), words)


def _draw_price(truth: np.ndarray, rng: np.random.Generator) -> float:
    """Draw a price in euros from type, brand, material (a type's first is the most expensive) and noise."""
    kind = TYPES[truth[KIND]]
    material_factor = 1.15 - 0.1 * kind.materials.index(MATERIALS[truth[MATERIAL]])
    euros = kind.price * BRAND_PRICE[truth[BRAND]] * material_factor * rng.lognormal(0, 0.15)
    return max(1, round(euros)) - 0.05
