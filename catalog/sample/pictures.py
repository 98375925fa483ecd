"""Pictures and clips of the sample catalogue: a type in a colour, a pattern, a pose, an emblem and a motion."""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from catalog.sample.canvas import RGB, Canvas, arc
from catalog.sample.emblems import EMBLEM_OUTLINES
from catalog.sample.motions import MOTION_PATHS
from catalog.sample.silhouettes import SILHOUETTES
from catalog.sample.words import COLOURS, EMBLEMS, LABELS, MOTIONS, PATTERNS, TYPES, Colour

SIDE, CLIP_SIDE = 96, 48  # pixels of a finished picture, of a clip's frame
OVERSAMPLING = 4  # drawn larger by this factor, then reduced, for smooth edges
KEY: RGB = (255, 0, 255)  # background of a product that is cut out; no product has this colour
PAPER, INK = (250, 250, 246), (52, 40, 60)  # of emblems and labels
PLATE_WIDTH = 0.8  # of a picture; six letters are then some 20 pixels high
MARGIN = 0.62  # size of a product that is cut out; leaves space for parts outside of its square


class Label(NamedTuple):
    """A word printed on a product.

    Attributes:
        word: Index into `words.LABELS`.
        rng: Draws where it is. Other random numbers are those of a product without a label.
    """

    word: int
    rng: np.random.Generator


# Patterns: share of the accent colour at a point of the cloth; u and v are counted in repeats.

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]


def plain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros_like(u)


def striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u % 1 < 0.38).astype(np.float32)


def checked(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.46 * (u % 1 < 0.45) + 0.46 * (v % 1 < 0.45)


def dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    du, dv = _motif(u, v)
    return (du**2 + dv**2 < 0.075).astype(np.float32)


def floral(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    du, dv = _motif(u * 0.58, v * 0.58)
    radius = np.hypot(du, dv)
    petals = 0.22 + 0.22 * np.abs(np.cos(2.5 * np.arctan2(dv, du)))
    return ((radius < petals) & (radius > 0.11)).astype(np.float32)


def _motif(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from the nearest motif; every second row is shifted by half a repeat."""
    row = np.floor(v)
    return (u + 0.5 * (row % 2)) % 1 - 0.5, v - row - 0.5


WEAVES: dict[str, Pattern] = {
    pattern.__name__: pattern for pattern in (plain, striped, dotted, checked, floral)
}


def draw_picture(
    kind: int,
    colour: int,
    pattern: int,
    rng: np.random.Generator,
    rough: bool = False,
    emblem: int | None = None,
    label: Label | None = None,
) -> Image.Image:
    """Draw one product: an RGB picture of 96 × 96 pixels.

    Args:
        kind: Index into `words.TYPES`.
        colour: Index into `words.COLOURS`.
        pattern: Index into `words.PATTERNS`.
        rng: Draws pose, proportions, background and noise.
        rough: A shopper's photo: more tilt, smaller in the frame, darker surroundings, more noise.
        emblem: Index into `words.EMBLEMS`: the back of the product, which has an emblem.
        label: A word that is printed on it.
    """
    look = COLOURS[colour]
    angle = math.radians(rng.uniform(-24, 24) if rough else rng.uniform(-9, 9))
    size = rng.uniform(0.66, 0.9) if rough else rng.uniform(0.78, 0.96)
    canvas = Canvas(
        _draw_background(rng, rough),
        _draw_cloth(look, PATTERNS[pattern][0], angle, rng),
        look,
        _draw_pose(angle, size, rng),
        rng,
    )
    SILHOUETTES[TYPES[kind].name](canvas)
    if emblem is not None:
        canvas.paint(arc(0, 0, 0.6, 0.6), PAPER)
        canvas.paint([(0.46 * x, 0.46 * y) for x, y in EMBLEM_OUTLINES[EMBLEMS[emblem][0]]], INK)
    if label is not None:
        _print_label(canvas.image, label)
    return _photograph(canvas.image.reduce(OVERSAMPLING), rng, rough)


def draw_clip(
    kind: int, colour: int, pattern: int, motion: int, rng: np.random.Generator
) -> list[Image.Image]:
    """Draw one moving product: RGB frames of 48 × 48 pixels.

    Args:
        kind: Index into `words.TYPES`.
        colour: Index into `words.COLOURS`.
        pattern: Index into `words.PATTERNS`.
        motion: Index into `words.MOTIONS`.
        rng: Draws pose, proportions and background once, then the path of the motion and the noise of each frame.
    """
    angle, size = math.radians(rng.uniform(-9, 9)), rng.uniform(0.72, 0.88)
    ground = _draw_background(rng, rough=False).reduce(SIDE // CLIP_SIDE)
    pose = np.vstack([_draw_pose(angle, size, rng) * CLIP_SIDE / SIDE, [0, 0, 1]])
    shape, place = _cut_out(kind, colour, pattern, rng)
    light = _draw_light(CLIP_SIDE, rng)
    frames = []
    for step in MOTION_PATHS[MOTIONS[motion][0]](rng):
        inverse = place @ np.linalg.inv(pose @ step)  # maps pixels of the frame to pixels of the shape
        moved = shape.transform(ground.size, Image.Transform.AFFINE, inverse[:2].ravel().tolist())
        frame = ground.copy()
        frame.paste(moved, mask=moved)
        frames.append(_add_noise(np.asarray(frame.reduce(OVERSAMPLING)) * light, rng, rough=False))
    return frames


def encode_webp(image: Image.Image) -> bytes:
    """Encode as WebP: about 2.5 kB for 96 × 96 pixels, 0.5 kB for 48 × 48."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80, method=2)
    return stream.getvalue()


def _draw_pose(angle: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a 2 × 3 affine map from the outline's square to oversampled pixels."""
    flip = -1 if rng.random() < 0.5 else 1
    stretch = np.diag([flip * rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1)])
    shear = np.array([[1, rng.uniform(-0.07, 0.07)], [0, 1]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    half = SIDE * OVERSAMPLING / 2
    shift = half * (1 + rng.uniform(-0.5, 0.5, size=2) * (1 - size))
    return np.column_stack([half * size * (turn @ shear @ stretch), shift])


def _draw_cloth(colour: Colour, pattern: str, angle: float, rng: np.random.Generator) -> Image.Image:
    """Draw the product's surface at the oversampled size; the pattern turns with the product."""
    shade = np.array(colour.rgb) + rng.uniform(-10, 10, size=3)
    repeats, phase = rng.uniform(3.6, 4.8), rng.uniform(0, 1, size=2)
    turn = angle + (math.pi / 2 if rng.random() < 0.4 else 0)
    x = np.linspace(-1, 1, SIDE * OVERSAMPLING // 2, dtype=np.float32)  # half resolution is sufficient
    u = repeats * (math.cos(turn) * x + math.sin(turn) * x[:, None]) + phase[0]
    v = repeats * (math.cos(turn) * x[:, None] - math.sin(turn) * x) + phase[1]
    share = Image.fromarray((255 * WEAVES[pattern](u, v)).astype(np.uint8))
    ramps = np.linspace(shade, colour.accent, 256).clip(0, 255).round().astype(int).T
    return _enlarge(Image.merge("RGB", [share.point(ramp.tolist()) for ramp in ramps]))


def _draw_background(rng: np.random.Generator, rough: bool) -> Image.Image:
    """Draw a tinted gradient with a soft shadow under the product, at the oversampled size."""
    x = np.linspace(-1, 1, SIDE, dtype=np.float32)
    level = rng.uniform(120, 205) if rough else rng.uniform(175, 226)
    tint = level + rng.uniform(-18, 18, size=3)
    across, down = rng.uniform(-22, 22, size=2)
    shadow = np.exp(-(((x - 0.8) / 0.16) ** 2))[:, None] * np.exp(-((x / 0.7) ** 2))
    light = across * x + down * x[:, None] - 26 * shadow
    return _enlarge(Image.fromarray(np.clip(tint + light[..., None], 0, 255).astype(np.uint8)))


def _print_label(image: Image.Image, label: Label) -> None:
    """Paste a plate with the word in capitals, nearly level, at the height of the product or a little lower."""
    word, rng = LABELS[label.word].upper(), label.rng
    font = ImageFont.load_default(image.width / 5)  # part of Pillow, so the same on any machine
    left, top, right, bottom = font.getbbox(word)
    plate = Image.new("RGB", (round(right - left + 24), round(bottom - top + 24)), PAPER)
    ImageDraw.Draw(plate).text((12 - left, 12 - top), word, INK, font)
    width = PLATE_WIDTH * image.width * rng.uniform(0.92, 1)
    plate = plate.resize((round(width), round(width * plate.height / plate.width)))
    turn = rng.uniform(-5, 5)
    edges = Image.new("L", plate.size, 255).rotate(turn, Image.Resampling.BICUBIC, expand=True)
    plate = plate.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    x, y = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.8)
    image.paste(
        plate, (round(x * (image.width - plate.width)), round(y * (image.height - plate.height))), edges
    )


def _enlarge(image: Image.Image) -> Image.Image:
    return image.resize((SIDE * OVERSAMPLING,) * 2, Image.Resampling.NEAREST)


def _cut_out(
    kind: int, colour: int, pattern: int, rng: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    """Draw an upright product on a transparent background (RGBA), and its 3 × 3 map from the outline's square."""
    side = SIDE * OVERSAMPLING
    image = Image.new("RGB", (side, side), KEY)
    middle, zoom = side / 2, MARGIN * side / 2
    place = np.array([[zoom, 0, middle], [0, zoom, middle], [0, 0, 1]])
    cloth = _draw_cloth(COLOURS[colour], PATTERNS[pattern][0], 0, rng)
    SILHOUETTES[TYPES[kind].name](Canvas(image, cloth, COLOURS[colour], place[:2], rng))
    image.putalpha(Image.fromarray((np.asarray(image) != KEY).any(axis=2)).convert("L"))
    return image, place


def _photograph(image: Image.Image, rng: np.random.Generator, rough: bool) -> Image.Image:
    """Add uneven light, exposure and sensor noise."""
    return _add_noise(np.asarray(image) * _draw_light(SIDE, rng), rng, rough)


def _draw_light(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the brightness of each pixel: float32 of shape (side, side, 1), about 1."""
    x = np.linspace(-1, 1, side, dtype=np.float32)
    light = (
        rng.uniform(0.93, 1.05)
        + rng.uniform(-0.09, 0.09) * x[None, :]
        + rng.uniform(-0.06, 0.06) * x[:, None]
    )
    return light[..., None]


def _add_noise(pixels: np.ndarray, rng: np.random.Generator, rough: bool) -> Image.Image:
    """Add sensor noise to pixels from 0 to 255, float of shape (height, width, 3), and make a picture of them."""
    noise = rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32) * rng.uniform(2, 6 if rough else 4)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
