"""Clips of every kind become evenly spaced frames, within limits."""

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catalog.clips import (
    CANDIDATES,
    FRAME_MS,
    FRAMES,
    SIDE,
    ClipLimits,
    Frame,
    animate,
    read_frames,
    sample_evenly,
)
from catalog.images import PictureError, decode
from catalog.schema import DataError

KINDS = ("GIF", "WEBP", "MP4", "WebM")
Draw = Callable[..., bytes]


def greys(frames: list[bytes]) -> list[float]:
    """The mean of each frame; the fixture draws 0, 10, 20, …"""
    return [float(np.asarray(decode(frame)).mean()) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, draw_clip: Draw) -> None:
    frames = read_frames(draw_clip(kind, 6))
    assert greys(frames) == pytest.approx([0, 10, 20, 30, 40, 50], abs=4)
    assert all(Image.open(io.BytesIO(frame)).format == "WEBP" for frame in frames)
    assert {decode(frame).size for frame in frames} == {(64, 48)}


@pytest.mark.parametrize(("codec", "kind"), [("mpeg4", "MP4"), ("libvpx", "WebM")])
def test_other_codecs(codec: str, kind: str, draw_clip: Draw) -> None:
    assert len(read_frames(draw_clip(kind, 6, codec=codec))) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_long_clips_are_sampled_evenly(kind: str, draw_clip: Draw) -> None:
    assert greys(read_frames(draw_clip(kind, 24))) == pytest.approx(
        [10 * number for number in np.linspace(0, 23, FRAMES).round()], abs=4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_scaled_down(kind: str, draw_clip: Draw) -> None:
    frames = read_frames(draw_clip(kind, 2, 640, 480))
    assert {decode(frame).size for frame in frames} == {(SIDE, SIDE * 3 // 4)}


def test_a_phone_held_upright(draw_clip: Draw) -> None:
    assert decode(read_frames(draw_clip("MP4", rotation=90))[0]).size == (48, 64)


def test_transparent_frames_lie_on_white() -> None:
    frames = [Image.new("RGBA", (8, 8), (0, 0, 0, alpha)) for alpha in (0, 255)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert greys(read_frames(stream.getvalue())) == pytest.approx([255, 0], abs=2)


def number_frames(count: int) -> Iterator[Frame]:
    for number in range(count):
        yield partial(Image.new, "I", (1, 1), number)


@given(st.integers(0, 5000))
def test_any_number_of_frames(count: int) -> None:
    numbers = [frame.getpixel((0, 0)) for frame in sample_evenly(number_frames(count))]
    assert len(numbers) == min(count, FRAMES)
    assert numbers[:1] == [0][:count]
    if count > FRAMES:
        distances = np.diff(numbers)
        assert distances.min() > 0 and distances.max() - distances.min() <= max(1, count / (CANDIDATES / 2))
        assert count - numbers[-1] <= max(1, count / (CANDIDATES / 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ClipLimits(max_bytes=100), "bytes, the limit is 100"),
        (ClipLimits(max_pixels=1000), "64 × 48 pixels, the limit is 1,000|more than 1,000 pixels"),
        (ClipLimits(max_frames=5), "more than 5 frames"),
        (ClipLimits(max_decoded=5 * 64 * 48), "too long: more than 15,360 pixels in all frames"),
    ],
)
def test_limits(kind: str, limits: ClipLimits, reason: str, draw_clip: Draw) -> None:
    with pytest.raises(PictureError, match=reason):
        read_frames(draw_clip(kind, 6), limits)


def test_huge_frames_are_refused_before_they_are_decoded(draw_clip: Draw) -> None:
    with pytest.raises(PictureError, match="4096 × 4096 pixels, the limit is 10,000,000"):
        read_frames(draw_clip("MP4", 2, 4096, 4096))


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_is_no_clip(kind: str, draw_clip: Draw) -> None:
    with pytest.raises(PictureError, match=r"too few frames \(1\); a clip has 2 or more"):
        read_frames(draw_clip(kind, 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a GIF, WebP, MP4 or WebM clip"),
        (b"<html>not found</html>", "not a GIF"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not a GIF"),
        (b"\0\0\0\x18ftypisom#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "broken|without video"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "broken|without video"),
    ],
)
def test_what_is_no_clip(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        read_frames(content)


def test_other_codecs_are_refused(draw_clip: Draw) -> None:
    with pytest.raises(
        PictureError, match="MP4 with codec mjpeg; supported are h264, hevc, mpeg4, vp8, vp9, av1"
    ):
        read_frames(draw_clip("MP4", codec="mjpeg"))


def test_without_pyav(draw_clip: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = draw_clip("GIF")
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(read_frames(clip)) == 6
    with pytest.raises(DataError, match=r"a clip is MP4, which needs PyAV: pip install 'vitrine\[video\]'"):
        read_frames(b"\0\0\0\x18ftypisom")


@pytest.mark.parametrize("frames", [2, 7, 60])
def test_an_animation_stops_within_five_seconds(frames: int, png: Callable[..., bytes]) -> None:
    content = animate([png(seed, 300, 200) for seed in range(frames)], 100)
    with Image.open(io.BytesIO(content or b"")) as picture:
        assert 2 <= getattr(picture, "n_frames", 0) <= frames and max(picture.size) == 100
        loops, count = picture.info["loop"], getattr(picture, "n_frames", 0)
    assert loops >= 1, "0 is for ever"
    assert 2500 < loops * count * FRAME_MS <= 5000


def test_an_animation_leaves_out_what_cannot_be_decoded(png: Callable[..., bytes]) -> None:
    content = animate([b"broken", png(1), b""], 100)
    with Image.open(io.BytesIO(content or b"")) as picture:
        assert getattr(picture, "n_frames", 1) == 1
    assert animate([b"broken"], 100) is None and animate([], 100) is None
