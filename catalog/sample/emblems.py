"""Emblems on the backs of products: one outline per emblem, registered by name."""

import math
from collections.abc import Callable

from catalog.sample.canvas import Outline, Point, arc

EMBLEM_OUTLINES: dict[str, Outline] = {}


def emblem(name: str) -> Callable[[Callable[[], Outline]], Callable[[], Outline]]:
    """Register the outline of an emblem, in the square from -1 to 1."""

    def register(make_outline: Callable[[], Outline]) -> Callable[[], Outline]:
        EMBLEM_OUTLINES[name] = make_outline()
        return make_outline

    return register


@emblem("star")
def star() -> Outline:
    """Ten corners, the outer ones twice as far from the centre."""
    radii = [1.0, 0.42] * 5
    angles = [math.radians(36 * number - 90) for number in range(10)]
    return [(radius * math.cos(a), radius * math.sin(a)) for radius, a in zip(radii, angles, strict=True)]


@emblem("heart")
def heart() -> Outline:
    """Two half circles over a point."""
    left = arc(-0.48, -0.3, 0.5, 0.5, 150, 350)
    return [*left, *arc(0.48, -0.3, 0.5, 0.5, 190, 390), (0.0, 0.95)]


@emblem("crescent")
def crescent() -> Outline:
    """A circle without a second circle."""
    outer = arc(0, 0, 0.95, 0.95, 50, 310)
    return [*outer, *reversed(arc(0.42, 0, 0.76, 0.76, 75, 285))]


@emblem("diamond")
def diamond() -> Outline:
    return [(0.0, -1.0), (0.66, 0.0), (0.0, 1.0), (-0.66, 0.0)]


@emblem("lightning bolt")
def lightning_bolt() -> Outline:
    corners: list[Point] = [
        (0.35, -1.0),
        (-0.6, 0.15),
        (-0.08, 0.15),
        (-0.35, 1.0),
        (0.6, -0.2),
        (0.08, -0.2),
    ]
    return corners
