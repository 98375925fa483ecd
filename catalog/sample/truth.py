"""What is true of the products of the sample catalogue, and which of them answer a need.

The truth of any product is drawn from the seed and its index alone, in chunks: it is never stored, so a catalogue of
a million products needs no more memory than one of a thousand.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from catalog.sample.words import BRAND_SHARES, COLOURS, MATERIALS, MOTIONS, PATTERN_SHARES, TYPES
from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE

CHUNK = 4096  # products drawn together; another value draws another catalogue

# Columns of a truth: each holds an index into TYPES, COLOURS, PATTERNS, BRANDS, MATERIALS, MOTIONS.
KIND, COLOUR, PATTERN, BRAND, MATERIAL, MOTION = range(6)

STILL = -1  # the motion of a product that has no clip
CLIPPED = 0.25  # share of products that have one

# One stream of random numbers per purpose.
TRUTHS, PRODUCTS, QUERIES, JUDGEMENTS, SPLITTING, MOVEMENTS, CLIPS = range(7)

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
    """What a query asks for: the values of `truth` (int array of six) in the columns `pinned`.

    Type and colour are always pinned, so a split by (type, colour) keeps the exact matches of its queries to itself.
    """

    truth: np.ndarray
    pinned: tuple[int, ...]


@lru_cache(maxsize=4)
def truths(seed: int, chunk: int) -> np.ndarray:
    """The truths of products chunk × CHUNK and following: int8 array of shape (CHUNK, 6)."""
    rng = np.random.default_rng([seed, TRUTHS, chunk])
    kind = rng.integers(len(TYPES), size=CHUNK)
    colour = rng.integers(len(COLOURS), size=CHUNK)
    pattern = rng.choice(len(PATTERN_SHARES), size=CHUNK, p=PATTERN_SHARES)
    brand = rng.choice(len(BRAND_SHARES), size=CHUNK, p=BRAND_SHARES)
    material = _MATERIALS[kind, (rng.random(CHUNK) * _MATERIAL_COUNTS[kind]).astype(int)]
    rng = np.random.default_rng([seed, MOVEMENTS, chunk])
    motion = np.where(rng.random(CHUNK) < CLIPPED, rng.integers(len(MOTIONS), size=CHUNK), STILL)
    return np.stack([kind, colour, pattern, brand, material, motion], axis=1).astype(np.int8)


def truth(seed: int, index: int) -> np.ndarray:
    """The truth of one product: int8 array of six."""
    return truths(seed, index // CHUNK)[index % CHUNK]


def grades(candidates: np.ndarray, need: Need) -> np.ndarray:
    """How well products answer a need.

    Exact: the type and all that is pinned. Substitute: the type, and all but one. Complement: a type used together
    with the wanted one, in the wanted colour. All else is irrelevant.

    Args:
        candidates: Truths, shape (N, 6).

    Returns:
        int8 array of shape (N,).
    """
    wanted, others = need.truth, [column for column in need.pinned if column != KIND]
    misses = (candidates[:, others] != wanted[others]).sum(axis=1)
    fits = candidates[:, KIND] == wanted[KIND]
    goes_with = (candidates[:, KIND] == _COMPLEMENTS[wanted[KIND]]) & (
        candidates[:, COLOUR] == wanted[COLOUR]
    )
    return np.select(
        [fits & (misses == 0), fits & (misses == 1), goes_with], [EXACT, SUBSTITUTE, COMPLEMENT], IRRELEVANT
    ).astype(np.int8)


def resembles(candidates: np.ndarray, need: Need) -> np.ndarray:
    """Which products look like an answer at first glance: the type, or the colour in another department.

    Returns:
        Boolean array of shape (N,).
    """
    kind = need.truth[KIND]
    elsewhere = _DEPARTMENTS[candidates[:, KIND]] != _DEPARTMENTS[kind]
    return (candidates[:, KIND] == kind) | (elsewhere & (candidates[:, COLOUR] == need.truth[COLOUR]))
