"""Decode, check and resize pictures; the only module that opens them. Clips: `catalog.clips`."""

import hashlib
import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

register_heif_opener()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
# What is left for the filter of `fit`; with 3, Pillow calls its result almost indistinguishable from one of all pixels:
# https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.resize, reducing_gap.
DRAFT = 3
WHITE_16_BIT = 2**16 - 1


class Limits(NamedTuple):
    """Limits of a picture, checked before any pixel is decoded."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000


class PictureError(Exception):
    """A picture that cannot be used; the message is the reason, in a few words."""


def decode(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    side: int | None = None,
) -> Image.Image:
    """Decode one picture to upright RGB, on white where it is transparent; of an animation, the first frame.

    Args:
        data: The encoded picture.
        limits: Its largest size.
        side: Pixels; where the picture is only to be scaled to fit this square. A large JPEG is then decoded to a
            half, a quarter or an eighth of its size, still at least `DRAFT` times the square's, which is faster.

    Raises:
        PictureError: too large, not one of `FORMATS`, truncated or otherwise broken.
    """
    with _explain_errors():
        image = _open(data, limits)
        if side is not None:
            scale = min(1, DRAFT * side / max(image.size))
            image.draft(None, (math.ceil(scale * image.width), math.ceil(scale * image.height)))
        return to_rgb(ImageOps.exif_transpose(image))


def read_size(data: bytes, limits: Limits = Limits()) -> tuple[int, int]:  # noqa: B008 - immutable
    """Read width and height of a picture as stored, before it is turned upright. No pixel is decoded.

    Raises:
        PictureError: as `decode`; pixels may still be broken.
    """
    with _explain_errors():
        return _open(data, limits).size


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Open a picture within the limits, without decoding its pixels."""
    if len(data) > limits.max_bytes:
        raise PictureError(f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning; we check the size below
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > limits.max_pixels:
        raise PictureError(f"{width} × {height} pixels, the limit is {limits.max_pixels:,}")
    return image


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Turn any error of a decoder into a `PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's limit; it is above ours
        raise PictureError(f"too many pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"not a {', '.join(FORMATS)} picture") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise PictureError(f"broken ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture, or the current frame of an animation, to RGB on a white background."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8; Pillow's own conversion cuts it at 255.

    Raises:
        ValueError: for grey of 32 bits with values that 16 bits cannot have: its scale is unknown.
    """
    grey = np.asarray(image)
    if not ((grey >= 0) & (grey <= WHITE_16_BIT)).all():
        raise ValueError("grey values of more than 16 bits")
    return Image.fromarray((grey * (255 / WHITE_16_BIT)).round().astype(np.uint8))


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Scale a picture to fit a white square, and centre it.

    Returns:
        uint8 array of shape (size, size, 3), RGB.
    """
    return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color="white"))


def is_flat(image: Image.Image, tolerance: int = 8) -> bool:
    """Whether the picture is one flat colour: each channel varies by at most `tolerance` of 255."""
    return bool((np.ptp(np.asarray(image.getextrema()), axis=-1) <= tolerance).all())


def decode_and_hash(data: bytes) -> str | None:
    """Compute the `pixel_hash` of an encoded picture; None if it cannot be decoded."""
    try:
        return pixel_hash(decode(data))
    except PictureError:
        return None


def pixel_hash(image: Image.Image) -> str:
    """Hash size and pixels: equal for the same picture in other lossless encodings."""
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
