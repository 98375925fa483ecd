"""How products move in their clips: one path each, registered by the motion's name.

A path is an array of shape (FRAMES, 3, 3): for each frame an affine map of the outline's square onto itself.
"""

import math
from collections.abc import Callable

import numpy as np

FRAMES = 8  # of a clip
EDGE, FLAT = 0.1, 0.16  # what is turned to its edge, or folded flat, can still be seen: its width, its height
TOP, MIDDLE, BOTTOM = -0.95, 0.0, 0.9  # where a product is held: y in the outline's square

Motion = Callable[[np.random.Generator], np.ndarray]
MOVES: dict[str, Motion] = {}


def motion(name: str) -> Callable[[Motion], Motion]:
    """Register the path of a motion."""

    def register(path: Motion) -> Motion:
        MOVES[name] = path
        return path

    return register


@motion("swinging")
def swinging(rng: np.random.Generator) -> np.ndarray:
    """Hung at its top, it tilts to and fro."""
    tilt = math.radians(rng.uniform(16, 28)) * np.sin(_turns(rng, 0.9, 1.6))
    return _held(TOP, [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])


@motion("spinning")
def spinning(rng: np.random.Generator) -> np.ndarray:
    """About its vertical axis: it narrows, shows its mirror image, and widens again."""
    width = np.cos(_turns(rng, 0.7, 1.3))
    width = np.copysign(np.maximum(np.abs(width), EDGE), width)
    return _held(MIDDLE, [[width, np.zeros(FRAMES)], [np.zeros(FRAMES), np.ones(FRAMES)]])


@motion("unfolding")
def unfolding(rng: np.random.Generator) -> np.ndarray:
    """Flat on the ground, it rises to its full height."""
    start, end = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
    risen = ((np.linspace(0, 1, FRAMES) - start) / (end - start)).clip(0, 1)
    height = FLAT + (1 - FLAT) * risen**2 * (3 - 2 * risen)
    return _held(BOTTOM, [[np.ones(FRAMES), np.zeros(FRAMES)], [np.zeros(FRAMES), height]])


@motion("folding away")
def folding_away(rng: np.random.Generator) -> np.ndarray:
    """Unfolding, backwards: the frames are the same, their order alone tells."""
    return unfolding(rng)[::-1]


def _turns(rng: np.random.Generator, slowest: float, fastest: float) -> np.ndarray:
    """Angles in radians at each frame, of so many turns in a clip, from anywhere on the circle."""
    return 2 * math.pi * (rng.uniform() + rng.uniform(slowest, fastest) * np.linspace(0, 1, FRAMES))


def _held(y: float, linear: list[list[np.ndarray]]) -> np.ndarray:
    """The path whose linear part is given, shape (2, 2, FRAMES), and which leaves the point (0, y) where it is."""
    path = np.tile(np.eye(3), (FRAMES, 1, 1))
    path[:, :2, :2] = np.moveaxis(np.array(linear), 2, 0)
    path[:, :2, 2] = np.array([0, y]) - path[:, :2, :2] @ np.array([0, y])
    return path
