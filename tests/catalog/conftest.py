"""Fixtures of the catalogue's tests."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from catalog import download
from catalog.sample import write_sample

VIDEO = {"MP4": ("mp4", "libx264"), "WebM": ("webm", "libvpx-vp9")}  # container, codec


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed downloads at once."""
    monkeypatch.setattr(download, "BACKOFF", 0)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample catalogue: 300 products, 60 queries, seed 3."""
    out = tmp_path_factory.mktemp("sample") / "data"
    write_sample(out, products=300, seed=3, queries=60, workers=1)
    return out


@pytest.fixture(scope="session")
def draw_clip() -> Callable[..., bytes]:
    """Encode a clip whose frames are grey, frame n of value 10 × n: draw_clip(kind, frames, width, height, codec).

    Kinds are GIF, WEBP, MP4, WebM; a video's `rotation` is in degrees, counter-clockwise.
    """

    def draw(
        kind: str,
        frames: int = 6,
        width: int = 64,
        height: int = 48,
        codec: str | None = None,
        rotation: float = 0,
    ) -> bytes:
        greys = [np.full((height, width, 3), 10 * number % 256, np.uint8) for number in range(frames)]
        stream = io.BytesIO()
        if kind not in VIDEO:
            first, *rest = map(Image.fromarray, greys)
            first.save(stream, kind, save_all=True, append_images=rest)
            return stream.getvalue()
        container, usual = VIDEO[kind]
        with av.open(stream, "w", format=container) as clip:
            track = clip.add_stream(codec or usual, rate=Fraction(30))
            track.width, track.height = width, height
            track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if rotation:
                track.set_display_rotation(rotation)
            for grey in greys:
                clip.mux(track.encode(av.VideoFrame.from_ndarray(grey)))
            clip.mux(track.encode())
        return stream.getvalue()

    return draw
