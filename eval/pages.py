"""What HTML pages have in common: how they are made of templates, and how numbers and pictures stand in them."""

from base64 import b64encode
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

# First bytes → type. WebP's marker stands behind the length of its RIFF container.
MAGIC = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
)


def pages(*folders: Path) -> Environment:
    """Templates of HTML pages, which may include this folder's page.css.

    Args:
        folders: That have them, beside this one.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, signed=_signed, interval=_interval, p_value=_p_value, data_uri=data_uri
    )
    return environment


def data_uri(picture: bytes | None) -> str | None:
    """A JPEG, PNG, GIF or WebP, told by its first bytes, as a data URI; None for anything else."""
    for start, magic, kind in MAGIC:
        if picture and picture[start : start + len(magic)] == magic:
            return f"data:{kind};base64,{b64encode(picture).decode()}"
    return None


def _number(value: float) -> str:
    return f"{value:.3f}"


def _interval(ends: tuple[float, float]) -> str:
    return "–" if np.isnan(ends).any() else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
