"""Decode, check and resize: the only place that opens a picture; clips are opened in `catalog.clips`."""

import hashlib
import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


class Limits(NamedTuple):
    """What a picture may cost before it is refused, checked on the header, before any pixel is decoded."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000


class PictureError(Exception):
    """A picture that cannot be used, and why, in a few words."""


def decode(data: bytes, limits: Limits = Limits()) -> Image.Image:  # noqa: B008 - immutable
    """Decode one picture to upright RGB; transparency is laid on white, an animation gives its first frame.

    Raises:
        PictureError: too large, not one of `FORMATS`, truncated or otherwise broken.
    """
    if len(data) > limits.max_bytes:
        raise PictureError(f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the limit below is ours
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > limits.max_pixels:
            raise PictureError(f"{width} × {height} pixels, the limit is {limits.max_pixels:,}")
        return to_rgb(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, which lies above ours
        raise PictureError(f"too many pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"not a {', '.join(FORMATS)} picture") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise PictureError(f"broken ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture, or the current frame of an animation, as RGB; transparency is laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Scale to fit and centre on a white square.

    Returns:
        uint8 array of shape (size, size, 3), RGB.
    """
    return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color="white"))


def is_flat(image: Image.Image, tolerance: int = 8) -> bool:
    """Whether every channel varies by at most `tolerance` of 255: one flat colour, nothing to see."""
    return bool((np.ptp(np.asarray(image.getextrema()), axis=-1) <= tolerance).all())


def pixels_of(data: bytes) -> str | None:
    """The `pixel_hash` of a picture as it is stored; None where it cannot be used."""
    try:
        return pixel_hash(decode(data))
    except PictureError:
        return None


def pixel_hash(image: Image.Image) -> str:
    """A hash of size and pixels: equal for the same picture in other files or encodings without loss."""
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
