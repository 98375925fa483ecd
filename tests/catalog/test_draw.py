from collections.abc import Callable

import numpy as np
import pytest

from catalog.images import decode, is_flat
from catalog.sample.draw import SIDE, WEAVES, encode, picture
from catalog.sample.silhouettes import SILHOUETTES
from catalog.sample.words import COLOURS, PATTERNS, TYPES

BLACK, WHITE = ([colour.words[0] for colour in COLOURS].index(name) for name in ("black", "white"))
PLAIN = 0


def shape(kind: int, seed: int) -> np.ndarray:
    """Where the product is: what changes with its colour, all else being equal; float array of 24 × 24."""
    black, white = (
        np.asarray(picture(kind, colour, PLAIN, np.random.default_rng(seed)), dtype=float)
        for colour in (BLACK, WHITE)
    )
    return (np.abs(white - black).mean(axis=2) > 90).astype(float).reshape(24, 4, 24, 4).mean(axis=(1, 3))


def test_every_type_and_pattern_has_a_drawing() -> None:
    assert list(SILHOUETTES) == [kind.name for kind in TYPES]
    assert list(WEAVES) == [words[0] for words in PATTERNS]


@pytest.mark.parametrize("kind", range(len(TYPES)), ids=lambda kind: TYPES[kind].name)
def test_the_colour_is_seen(kind: int) -> None:
    palette = np.array([colour.rgb for colour in COLOURS], dtype=float)
    area = shape(kind, seed=kind).repeat(4, axis=0).repeat(4, axis=1) == 1
    assert 0.06 < area.mean() < 0.7
    for colour in range(len(COLOURS)):
        shown = np.asarray(picture(kind, colour, PLAIN, np.random.default_rng(kind)), dtype=float)[area]
        distances = np.linalg.norm(palette - np.median(shown, axis=0), axis=1)
        assert distances.argmin() == colour


def test_types_are_told_apart_by_shape() -> None:
    kinds = np.arange(len(TYPES)).repeat(6)
    shapes = np.array([shape(kind, seed) for seed, kind in enumerate(kinds.tolist())])
    mirrored = np.concatenate([shapes, shapes[:, :, ::-1]])  # a product may be shown from either side
    distances = np.abs(shapes[:, None] - mirrored[None]).sum(axis=(2, 3))
    itself = np.eye(len(kinds), dtype=bool)
    distances[np.hstack([itself, itself])] = np.inf
    assert (np.tile(kinds, 2)[distances.argmin(axis=1)] == kinds).mean() > 0.9


def test_patterns_are_seen() -> None:
    sofa = [kind.name for kind in TYPES].index("sofa")
    shown = [
        np.asarray(picture(sofa, BLACK, pattern, np.random.default_rng(1)), dtype=float).mean(axis=2)
        for pattern in range(len(PATTERNS))
    ]
    for first in range(len(PATTERNS)):
        for second in range(first):
            assert (np.abs(shown[first] - shown[second]) > 60).mean() > 0.05, (first, second)


@pytest.mark.parametrize("weave", [weave for name, weave in WEAVES.items() if name != "plain"])
def test_patterns_leave_the_colour_on_top(weave: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    u, v = np.mgrid[-6:6:300j, -6:6:300j]
    share = weave(u, v)
    assert share.min() == 0
    assert 0.4 < share.max() <= 1
    assert 0.15 < share.mean() < 0.45


def test_same_random_numbers_same_picture() -> None:
    one, two, other = (encode(picture(3, 4, 2, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize("rough", [False, True])
def test_pictures_are_small_files_that_decode(rough: bool) -> None:
    rng = np.random.default_rng(0)
    for number in range(30):
        data = encode(picture(number % len(TYPES), number % 10, number % 5, rng, rough))
        image = decode(data)
        assert image.size == (SIDE, SIDE)
        assert not is_flat(image)
        assert len(data) < 6000
