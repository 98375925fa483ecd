"""Motions of products in clips: one path per motion, registered by name.

A path is an array of shape (FRAMES, 3, 3): an affine map of the outline's square onto itself for each frame.
"""

import math
from collections.abc import Callable

import numpy as np

FRAMES = 8  # of a clip
EDGE, FLAT = 0.1, 0.16  # minimal width of a turned product, minimal height of a folded one
TOP, MIDDLE, BOTTOM = -0.95, 0.0, 0.9  # y of the fixed point in the outline's square

Motion = Callable[[np.random.Generator], np.ndarray]
MOTION_PATHS: dict[str, Motion] = {}


def motion(name: str) -> Callable[[Motion], Motion]:
    """Register the path of a motion."""

    def register(path: Motion) -> Motion:
        MOTION_PATHS[name] = path
        return path

    return register


@motion("swinging")
def swinging(rng: np.random.Generator) -> np.ndarray:
    """It hangs at its top and tilts from side to side."""
    tilt = math.radians(rng.uniform(16, 28)) * np.sin(_draw_angles(rng, 0.9, 1.6))
    return _path_around(TOP, [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])


@motion("spinning")
def spinning(rng: np.random.Generator) -> np.ndarray:
    """It turns about its vertical axis: narrows, shows its mirror image, and widens."""
    width = np.cos(_draw_angles(rng, 0.7, 1.3))
    width = np.copysign(np.maximum(np.abs(width), EDGE), width)
    return _path_around(MIDDLE, [[width, np.zeros(FRAMES)], [np.zeros(FRAMES), np.ones(FRAMES)]])


@motion("unfolding")
def unfolding(rng: np.random.Generator) -> np.ndarray:
    """It starts flat on the ground and rises to its full height."""
    start, end = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
    progress = ((np.linspace(0, 1, FRAMES) - start) / (end - start)).clip(0, 1)
    height = FLAT + (1 - FLAT) * progress**2 * (3 - 2 * progress)
    return _path_around(BOTTOM, [[np.ones(FRAMES), np.zeros(FRAMES)], [np.zeros(FRAMES), height]])


@motion("folding away")
def folding_away(rng: np.random.Generator) -> np.ndarray:
    """Unfolding backwards: the same frames in reverse order."""
    return unfolding(rng)[::-1]


def _draw_angles(rng: np.random.Generator, slowest: float, fastest: float) -> np.ndarray:
    """Draw the angle at each frame in radians: a random start, and `slowest` to `fastest` turns per clip."""
    return 2 * math.pi * (rng.uniform() + rng.uniform(slowest, fastest) * np.linspace(0, 1, FRAMES))


def _path_around(y: float, linear: list[list[np.ndarray]]) -> np.ndarray:
    """Build the path with a linear part of shape (2, 2, FRAMES) that keeps the point (0, y) fixed."""
    path = np.tile(np.eye(3), (FRAMES, 1, 1))
    path[:, :2, :2] = np.moveaxis(np.array(linear), 2, 0)
    path[:, :2, 2] = np.array([0, y]) - path[:, :2, :2] @ np.array([0, y])
    return path
