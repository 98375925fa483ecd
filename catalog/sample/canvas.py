"""Outlines, and the canvas that they are drawn on."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from catalog.sample.words import RGB, Colour

Point = tuple[float, float]
Outline = Sequence[Point]  # in the square from -1 to 1, x to the right and y down


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> list[Point]:
    """Points on an ellipse, from angle to angle in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 40))
    return list(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True))


def smooth(points: Outline, rounds: int = 3) -> list[Point]:
    """A closed outline with its corners cut (Chaikin 1974): the limit is a quadratic B-spline."""
    path = np.array(points)
    for _ in range(rounds):
        after = np.roll(path, -1, axis=0)
        path = np.stack([0.75 * path + 0.25 * after, 0.25 * path + 0.75 * after], axis=1).reshape(-1, 2)
    return [tuple(point) for point in path.tolist()]


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> list[Point]:
    """A rectangle, its corners rounded by `radius`."""
    if not radius:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    centres = [(right, bottom, -1, -1), (left, bottom, 1, -1), (left, top, 1, 1), (right, top, -1, 1)]
    return [
        point
        for turn, (x, y, dx, dy) in enumerate(centres)
        for point in arc(x + dx * radius, y + dy * radius, radius, radius, 90 * turn, 90 * turn + 90)[::4]
    ]


def mirror(half: Outline) -> list[Point]:
    """Close the right half of an outline, ordered from top to bottom, with its reflection."""
    return [*half, *((-x, y) for x, y in reversed(half))]


class Canvas:
    """Draws outlines of a product, filled with its cloth, on a background.

    Args:
        ground: The background, at the oversampled size.
        cloth: Colour and pattern of the product, of the same size.
        colour: The product's colour.
        pose: 2 × 3 affine map from the outline's square to pixels.
        rng: Draws the proportions.
    """

    def __init__(
        self,
        ground: Image.Image,
        cloth: Image.Image,
        colour: Colour,
        pose: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.image, self.cloth, self.pose, self.rng = ground, cloth, pose, rng
        self.brush = ImageDraw.Draw(ground, "RGBA")
        self.colour = colour.rgb
        self.scale = math.sqrt(abs(np.linalg.det(pose[:, :2])))
        dark = sum(colour.rgb) < 300
        self.ink: RGB = (
            blend(colour.rgb, (255, 255, 255), 0.42) if dark else blend(colour.rgb, (0, 0, 0), 0.5)
        )

    def vary(self, low: float, high: float) -> float:
        """Draw a proportion of this product."""
        return float(self.rng.uniform(low, high))

    def pixels(self, points: Outline) -> list[Point]:
        return [tuple(p) for p in (np.asarray(points) @ self.pose[:, :2].T + self.pose[:, 2]).tolist()]

    def fill(self, points: Outline, tone: float = 0.0) -> None:
        """Cover an area with the cloth; `tone` from -1 (black) to 1 (white) shades it."""
        pixels = self.pixels(points)
        left, top = (math.floor(min(axis)) for axis in zip(*pixels, strict=True))
        right, bottom = (math.ceil(max(axis)) + 1 for axis in zip(*pixels, strict=True))
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        self.image.paste(self.cloth.crop((left, top, right, bottom)), (left, top), mask)
        if tone:
            self.brush.polygon(pixels, fill=(*((255,) * 3 if tone > 0 else (0,) * 3), round(255 * abs(tone))))
        self.line([*points, points[0]], 0.022)

    def paint(self, points: Outline, colour: RGB, edge: bool = True) -> None:
        """Cover an area with one colour instead of the cloth."""
        self.brush.polygon(self.pixels(points), fill=colour)
        if edge:
            self.line([*points, points[0]], 0.016, blend(colour, (0, 0, 0), 0.4))

    def line(self, points: Outline, width: float = 0.02, colour: RGB | None = None) -> None:
        self.brush.line(
            self.pixels(points),
            fill=colour or self.ink,
            width=max(1, round(width * self.scale)),
            joint="curve",
        )

    def dot(self, x: float, y: float, radius: float, colour: RGB) -> None:
        self.paint(arc(x, y, radius, radius), colour)


def blend(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with a share of `b` from 0 to 1."""
    red, green, blue = (round((1 - share) * p + share * q) for p, q in zip(a, b, strict=True))
    return red, green, blue
