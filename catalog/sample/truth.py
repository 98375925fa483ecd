"""Ground truth of the sample catalogue: the attributes of products, and their grades for a query.

The attributes depend only on the seed and the product's index. They are drawn in chunks and never stored, so memory
does not grow with the number of products.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from catalog.sample.words import (
    BRAND_SHARES,
    COLOURS,
    EMBLEMS,
    LABELS,
    MATERIALS,
    MOTIONS,
    PATTERN_SHARES,
    TYPES,
)
from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE

CHUNK_PRODUCTS = 4096  # drawn together; another value gives another catalogue

# Columns of a truth; values are indices into TYPES, COLOURS, PATTERNS, BRANDS, MATERIALS, MOTIONS, EMBLEMS, LABELS.
KIND, COLOUR, PATTERN, BRAND, MATERIAL, MOTION, EMBLEM, LABEL = range(8)

STILL = -1  # motion of a product without a clip
CLIP_SHARE = 0.25  # share of products with a clip
NO_EMBLEM = -1  # emblem of a product without one; it has no second picture
EMBLEM_SHARE = 0.35  # share of products with an emblem on the back, and a second picture that shows it
NO_LABEL = -1  # label of a product without one
# Pairs of type and colour with labels, by the split of their queries; and the share of their products that have a word
# printed on them. The others of a pair have another word or none: to see that there is a label is not enough.
LABEL_PAIRS, LABEL_SHARE = {"train": 7, "valid": 2, "test": 5}, 0.4

# Numbers of the random streams.
TRUTHS, PRODUCTS, QUERIES, JUDGEMENTS, SPLITTING, MOVEMENTS, CLIPS, BADGES, BACKS = range(9)
PRINTED_PAIRS, PRINTS, PLATES, PRINT_QUERIES = range(9, 13)

_KINDS = [kind.name for kind in TYPES]
_COMPLEMENTS = np.array([_KINDS.index(kind.complement) for kind in TYPES])
_DEPARTMENTS = np.unique([kind.department for kind in TYPES], return_inverse=True)[1]
_MATERIAL_COUNTS = np.array([len(kind.materials) for kind in TYPES])
_MATERIALS = np.array(
    [
        [MATERIALS.index(kind.materials[k % len(kind.materials)]) for k in range(_MATERIAL_COUNTS.max())]
        for kind in TYPES
    ]
)


class Need(NamedTuple):
    """What a query asks for: the values of `truth` (int array of eight) in the columns `pinned`.

    Type and colour are always pinned, so splits by (type, colour) share no exact match.
    """

    truth: np.ndarray
    pinned: tuple[int, ...]


def assign_splits(seed: int) -> np.ndarray:
    """Assign splits: str array of shape (types, colours); 55 % train, 15 % valid, 30 % test.

    A query fixes type and colour, so splits share no exact match and no text. The pairs are distributed in a Latin
    square: train has at least five colours of every type, and half of the types in every colour.
    """
    rng = np.random.default_rng([seed, SPLITTING])
    kinds, colours = rng.permutation(len(TYPES))[:, None], rng.permutation(len(COLOURS))[None, :]
    position = (colours + 3 * kinds) % 10
    train_end = np.where(kinds % 2, 5, 6)
    return np.select([position < train_end, position < 7], ["train", "valid"], "test")


@lru_cache(maxsize=4)
def draw_labelled_pairs(seed: int) -> np.ndarray:
    """Draw the types and colours whose products may have labels: bool array of shape (types, colours)."""
    rng = np.random.default_rng([seed, PRINTED_PAIRS])
    splits, labelled = assign_splits(seed), np.zeros((len(TYPES), len(COLOURS)), bool)
    for split, count in LABEL_PAIRS.items():
        labelled.flat[rng.choice(np.flatnonzero(splits == split), count, replace=False)] = True
    return labelled


@lru_cache(maxsize=4)
def draw_truths(seed: int, chunk: int) -> np.ndarray:
    """Draw the truths of one chunk of products: int8 array of shape (CHUNK_PRODUCTS, 8)."""
    rng = np.random.default_rng([seed, TRUTHS, chunk])
    kind = rng.integers(len(TYPES), size=CHUNK_PRODUCTS)
    colour = rng.integers(len(COLOURS), size=CHUNK_PRODUCTS)
    pattern = rng.choice(len(PATTERN_SHARES), size=CHUNK_PRODUCTS, p=PATTERN_SHARES)
    brand = rng.choice(len(BRAND_SHARES), size=CHUNK_PRODUCTS, p=BRAND_SHARES)
    material = _MATERIALS[kind, (rng.random(CHUNK_PRODUCTS) * _MATERIAL_COUNTS[kind]).astype(int)]
    rng = np.random.default_rng([seed, MOVEMENTS, chunk])
    motion = np.where(
        rng.random(CHUNK_PRODUCTS) < CLIP_SHARE, rng.integers(len(MOTIONS), size=CHUNK_PRODUCTS), STILL
    )
    rng = np.random.default_rng([seed, BADGES, chunk])
    emblem = np.where(
        rng.random(CHUNK_PRODUCTS) < EMBLEM_SHARE, rng.integers(len(EMBLEMS), size=CHUNK_PRODUCTS), NO_EMBLEM
    )
    rng = np.random.default_rng([seed, PRINTS, chunk])
    labelled = draw_labelled_pairs(seed)[kind, colour] & (rng.random(CHUNK_PRODUCTS) < LABEL_SHARE)
    label = np.where(labelled, rng.integers(len(LABELS), size=CHUNK_PRODUCTS), NO_LABEL)
    return np.stack([kind, colour, pattern, brand, material, motion, emblem, label], axis=1).astype(np.int8)


def draw_truth(seed: int, index: int) -> np.ndarray:
    """Draw the truth of one product: int8 array of eight."""
    return draw_truths(seed, index // CHUNK_PRODUCTS)[index % CHUNK_PRODUCTS]


def grade_products(candidates: np.ndarray, need: Need) -> np.ndarray:
    """Grade products for a query.

    Exact: all pinned attributes match. Substitute: the type matches, and all other pinned attributes but one.
    Complement: the type is used together with the query's type, and the colour matches. Others are irrelevant.

    Args:
        candidates: Truths, shape (N, 8).
        need: What the query asks for.

    Returns:
        int8 array of shape (N,).
    """
    truth, others = need.truth, [column for column in need.pinned if column != KIND]
    mismatches = (candidates[:, others] != truth[others]).sum(axis=1)
    same_kind = candidates[:, KIND] == truth[KIND]
    complements = (candidates[:, KIND] == _COMPLEMENTS[truth[KIND]]) & (
        candidates[:, COLOUR] == truth[COLOUR]
    )
    return np.select(
        [same_kind & (mismatches == 0), same_kind & (mismatches == 1), complements],
        [EXACT, SUBSTITUTE, COMPLEMENT],
        IRRELEVANT,
    ).astype(np.int8)


def find_look_alikes(candidates: np.ndarray, need: Need) -> np.ndarray:
    """Find products that look similar: the same type, or the same colour in another department.

    Returns:
        Boolean array of shape (N,).
    """
    kind = need.truth[KIND]
    other_department = _DEPARTMENTS[candidates[:, KIND]] != _DEPARTMENTS[kind]
    same_colour = candidates[:, COLOUR] == need.truth[COLOUR]
    return (candidates[:, KIND] == kind) | (other_department & same_colour)
