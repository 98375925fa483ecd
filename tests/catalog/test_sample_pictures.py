from collections.abc import Callable

import numpy as np
import pytest

from catalog.images import decode, is_flat
from catalog.sample.motions import FRAMES, MOTION_PATHS
from catalog.sample.pictures import CLIP_SIDE, SIDE, WEAVES, Label, draw_clip, draw_picture, encode_webp
from catalog.sample.silhouettes import SILHOUETTES
from catalog.sample.words import COLOURS, MOTIONS, PATTERNS, TYPES

BLACK, WHITE = ([colour.words[0] for colour in COLOURS].index(name) for name in ("black", "white"))
PLAIN = 0
SWINGING, SPINNING, UNFOLDING, FOLDING_AWAY = range(4)


def shape(kind: int, seed: int) -> np.ndarray:
    """Where the product is: what changes with its colour, all else being equal; float array of 24 × 24."""
    black, white = (
        np.asarray(draw_picture(kind, colour, PLAIN, np.random.default_rng(seed)), dtype=float)
        for colour in (BLACK, WHITE)
    )
    return (np.abs(white - black).mean(axis=2) > 90).astype(float).reshape(24, 4, 24, 4).mean(axis=(1, 3))


def draw_frames(kind: int, colour: int, motion: int, seed: int) -> np.ndarray:
    """A clip of a plain product: float array of shape (FRAMES, CLIP_SIDE, CLIP_SIDE, 3)."""
    frames = draw_clip(kind, colour, PLAIN, motion, np.random.default_rng(seed))
    return np.stack([np.asarray(frame, dtype=float) for frame in frames])


def extent(kind: int, motion: int, seed: int) -> np.ndarray:
    """Where the product is in each frame: left, top, right and bottom pixel, shape (4, FRAMES)."""
    black, white = (draw_frames(kind, colour, motion, seed) for colour in (BLACK, WHITE))
    area = np.abs(white - black).mean(axis=3) > 60
    edges = []
    for axis in (1, 2):
        occupied = area.any(axis=axis)
        edges += [occupied.argmax(axis=1), CLIP_SIDE - occupied[:, ::-1].argmax(axis=1)]
    left, right, top, bottom = edges
    return np.stack([left, top, right, bottom])


def test_every_type_pattern_and_motion_has_a_drawing() -> None:
    assert list(SILHOUETTES) == [kind.name for kind in TYPES]
    assert list(WEAVES) == [words[0] for words in PATTERNS]
    assert list(MOTION_PATHS) == [words[0] for words in MOTIONS]


@pytest.mark.parametrize("kind", range(len(TYPES)), ids=lambda kind: TYPES[kind].name)
def test_the_colour_is_seen(kind: int) -> None:
    palette = np.array([colour.rgb for colour in COLOURS], dtype=float)
    area = shape(kind, seed=kind).repeat(4, axis=0).repeat(4, axis=1) == 1
    assert 0.06 < area.mean() < 0.7
    for colour in range(len(COLOURS)):
        picture = np.asarray(draw_picture(kind, colour, PLAIN, np.random.default_rng(kind)), dtype=float)[
            area
        ]
        distances = np.linalg.norm(palette - np.median(picture, axis=0), axis=1)
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
    pictures = [
        np.asarray(draw_picture(sofa, BLACK, pattern, np.random.default_rng(1)), dtype=float).mean(axis=2)
        for pattern in range(len(PATTERNS))
    ]
    for first in range(len(PATTERNS)):
        for second in range(first):
            assert (np.abs(pictures[first] - pictures[second]) > 60).mean() > 0.05, (first, second)


@pytest.mark.parametrize("weave", [weave for name, weave in WEAVES.items() if name != "plain"])
def test_patterns_leave_the_colour_on_top(weave: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    u, v = np.mgrid[-6:6:300j, -6:6:300j]
    share = weave(u, v)
    assert share.min() == 0
    assert 0.4 < share.max() <= 1
    assert 0.15 < share.mean() < 0.45


def test_a_label_covers_a_part_and_nothing_else_changes() -> None:
    plain, *labelled = (
        np.asarray(draw_picture(0, 0, PLAIN, np.random.default_rng(5), label=label), dtype=int)
        for label in (None, *(Label(word, np.random.default_rng(1)) for word in (0, 0, 1)))
    )
    assert (labelled[0] == labelled[1]).all() and (labelled[0] != labelled[2]).any()
    changed = (plain != labelled[0]).any(axis=2)
    assert 0.1 < changed.mean() < 0.3
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert np.ptp(rows) < 35 and np.ptp(columns) > 60, "a plate that is wide and not high"


def test_same_random_numbers_same_picture() -> None:
    first, second, other = (
        encode_webp(draw_picture(3, 4, 2, np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.parametrize("rough", [False, True])
def test_pictures_are_small_files_that_decode(rough: bool) -> None:
    rng = np.random.default_rng(0)
    for number in range(30):
        data = encode_webp(draw_picture(number % len(TYPES), number % 10, number % 5, rng, rough))
        image = decode(data)
        assert image.size == (SIDE, SIDE)
        assert not is_flat(image)
        assert len(data) < 6000


# Clips.

SEEN = range(0, len(TYPES), 3)


@pytest.mark.parametrize("kind", SEEN, ids=lambda kind: TYPES[kind].name)
def test_what_unfolds_rises_and_what_folds_away_sinks(kind: int) -> None:
    _, top, _, bottom = extent(kind, UNFOLDING, seed=kind)
    height = bottom - top
    assert height[-1] > 2 * height[0]
    assert (np.diff(height) >= -1).all()  # a pixel of noise
    _, top, _, bottom = extent(kind, FOLDING_AWAY, seed=kind)
    assert (np.abs(height[::-1] - (bottom - top)) <= 1).all()


@pytest.mark.parametrize("kind", SEEN, ids=lambda kind: TYPES[kind].name)
def test_what_spins_narrows_and_keeps_its_height(kind: int) -> None:
    left, top, right, bottom = extent(kind, SPINNING, seed=kind)
    width, height = right - left, bottom - top
    assert width.min() < 0.6 * width.max()
    assert height.min() > 0.75 * height.max()  # tilted, it does change a little


@pytest.mark.parametrize("kind", SEEN, ids=lambda kind: TYPES[kind].name)
def test_what_swings_goes_to_either_side_and_keeps_its_size(kind: int) -> None:
    left, top, right, bottom = extent(kind, SWINGING, seed=kind)
    middle, area = (left + right) / 2, (right - left) * (bottom - top)
    steps = np.diff(middle)
    assert steps.min() < -2 < 2 < steps.max()
    assert area.min() > 0.4 * area.max()


@pytest.mark.parametrize("seed", range(9))
def test_folding_away_is_unfolding_backwards_so_that_only_the_order_tells(seed: int) -> None:
    unfolding, folding = (draw_frames(seed, seed, motion, seed) for motion in (UNFOLDING, FOLDING_AWAY))
    noise = np.abs(folding[::-1] - unfolding).mean()
    assert noise < 5
    assert np.abs(folding - unfolding).mean() > 1.5 * noise
    forwards, backwards = (
        MOTION_PATHS[name](np.random.default_rng(seed)) for name in ("unfolding", "folding away")
    )
    assert (forwards == backwards[::-1]).all()


@pytest.mark.parametrize("name", MOTION_PATHS)
def test_motions_differ_from_clip_to_clip(name: str) -> None:
    paths = np.array([MOTION_PATHS[name](np.random.default_rng(seed)) for seed in range(40)])
    assert paths.shape == (40, FRAMES, 3, 3)
    assert len(np.unique(paths.round(6).reshape(40, -1), axis=0)) == 40
    assert (np.linalg.det(paths) != 0).all()  # never too thin to be drawn


def test_all_but_the_product_stands_still() -> None:
    for motion in range(len(MOTIONS)):
        corner = draw_frames(5, BLACK, motion, seed=2)[:, :4, :4]
        assert np.ptp(corner.mean(axis=(1, 2)), axis=0).max() < 5
        assert np.ptp(corner, axis=0).min() > 0  # there is noise


def test_nothing_is_left_of_the_ground_that_a_product_is_cut_from() -> None:
    green = [colour.words[0] for colour in COLOURS].index("green")
    for kind in range(len(TYPES)):
        red, green_channel, blue = np.moveaxis(draw_frames(kind, green, SWINGING, seed=kind), 3, 0)
        assert (np.minimum(red, blue) - green_channel).max() < 70


def test_frames_show_the_colour() -> None:
    palette = np.array([colour.rgb for colour in COLOURS], dtype=float)
    sofa = [kind.name for kind in TYPES].index("sofa")
    for colour in range(len(COLOURS)):
        full = draw_frames(sofa, colour, UNFOLDING, seed=4)[-1]
        left, top, right, bottom = extent(sofa, UNFOLDING, seed=4)[:, -1]
        picture = full[top:bottom, left:right].reshape(-1, 3)
        assert np.linalg.norm(palette - np.median(picture, axis=0), axis=1).argmin() == colour


def test_clips_are_small_frames_that_decode_and_the_same_for_the_same_random_numbers() -> None:
    for number in range(20):
        kind, motion = number % len(TYPES), number % len(MOTIONS)
        first, second = (
            [encode_webp(f) for f in draw_clip(kind, 3, 2, motion, np.random.default_rng(number))]
            for _ in range(2)
        )
        assert first == second
        assert len(set(first)) == FRAMES
        for data in first:
            image = decode(data)
            assert image.size == (CLIP_SIDE, CLIP_SIDE)
            assert not is_flat(image)
            assert len(data) < 1500
