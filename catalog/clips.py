"""Decodes clips (animated GIF and WebP, MP4, WebM) to evenly spaced frames, and encodes frames as animations."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from catalog.images import Limits, PictureError, decode, to_rgb
from catalog.schema import DataError

if TYPE_CHECKING:
    import av

FRAMES = 16  # of a clip, at most; `featurize.clip_frames` selects 8 of them by default
SIDE = 224  # pixels of a frame's longer side, at most; video encoders take 112
CANDIDATES = 8 * FRAMES  # frames in memory; then every second one is dropped
# FFmpeg's demuxers. It must not guess the format: a playlist could make it open other files.
CONTAINERS = {"MP4": "mp4", "WebM": "matroska"}
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "libvpx", "libvpx-vp9", "libdav1d", "libaom-av1")
# An animation on a page must stop within five seconds (WCAG 2.2.2).
FRAME_MS, ANIMATION_MS = 120, 4500
ANIMATION_FRAMES = ANIMATION_MS // FRAME_MS
DECODERS = BoundedSemaphore(4)  # parallel decoders: each needs up to 200 MB for 4K video

Frame = Callable[[], Image.Image]  # returns the picture; call it before the next frame is decoded


class ClipLimits(NamedTuple):
    """Limits of a clip, checked while decoding: the file's own metadata is not trusted."""

    max_bytes: int = Limits().max_bytes
    max_pixels: int = 10_000_000  # of a frame: 4K video has 8.8 million
    max_frames: int = 10_000
    max_decoded: int = (
        4_000_000_000  # pixels of all frames: about a minute of 1920 × 1080 at 30 frames per second
    )


class _LimitChecker:
    """Counts the decoded frames and pixels of a clip, and checks its limits."""

    def __init__(self, limits: ClipLimits) -> None:
        self.limits = limits
        self.frames, self.pixels = 0, 0

    def check_size(self, width: int, height: int) -> None:
        if width * height > self.limits.max_pixels:
            raise PictureError(f"{width} × {height} pixels, the limit is {self.limits.max_pixels:,}")

    def add_frame(self, width: int, height: int) -> None:
        self.check_size(width, height)
        self.frames += 1
        self.pixels += width * height
        if self.frames > self.limits.max_frames:
            raise PictureError(f"more than {self.limits.max_frames:,} frames")
        if self.pixels > self.limits.max_decoded:
            raise PictureError(f"too long: more than {self.limits.max_decoded:,} pixels in all frames")


def read_frames(data: bytes, limits: ClipLimits = ClipLimits()) -> list[bytes]:  # noqa: B008 - immutable
    """Decode a clip to 2 to `FRAMES` evenly spaced frames.

    Args:
        data: An animated GIF or WebP; MP4 or WebM with H.264, HEVC, MPEG-4, VP8, VP9 or AV1.
        limits: Its maximal size and length.

    Returns:
        Upright RGB frames as WebP, at most `SIDE` pixels wide and high.

    Raises:
        PictureError: if it has another format, is too large, too long or broken, or has fewer than 2 frames.
        DataError: if it is MP4 or WebM, and PyAV is not installed.
    """
    if len(data) > limits.max_bytes:
        raise PictureError(f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    name = _detect_container(data)
    checker = _LimitChecker(limits)
    with DECODERS:
        frames = _animation_frames(data, checker) if name is None else _video_frames(data, name, checker)
        try:
            selected = sample_evenly(frames)
        except (PictureError, DataError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, av.error.FFmpegError …
            raise PictureError(f"broken ({getattr(error, 'strerror', None) or error})") from error
    if len(selected) < 2:
        raise PictureError(f"too few frames ({len(selected)}); a clip has 2 or more")
    return [_encode(frame) for frame in selected]


def sample_evenly(frames: Iterable[Frame]) -> list[Image.Image]:
    """Select at most `FRAMES` evenly spaced frames, always with the first, in one pass.

    At most `CANDIDATES` pictures are in memory: at first every frame is a candidate, later every second, then every
    fourth, and so on.
    """
    candidates: list[Image.Image] = []
    stride = 1
    for number, frame in enumerate(frames):
        if number % stride:
            continue
        if len(candidates) == CANDIDATES:
            candidates = candidates[::2]
            stride *= 2
            if number % stride:
                continue
        candidates.append(frame())
    count = min(FRAMES, len(candidates))
    return [candidates[index] for index in np.linspace(0, len(candidates) - 1, count).round().astype(int)]


def animate(frames: Sequence[bytes], side: int, max_frames: int = ANIMATION_FRAMES) -> bytes | None:
    """Encode stored frames as an animated WebP that stops within five seconds; a single frame gives a picture.

    Args:
        frames: Encoded frames; those that cannot be decoded are skipped, as `validate` already lists them.
        side: Pixels of the longer side, at most.
        max_frames: Number of evenly spaced frames, at most.

    Returns:
        None if no frame can be decoded.
    """
    pictures: list[Image.Image] = []
    for frame in frames[:: -(-len(frames) // max_frames) or 1]:
        with suppress(PictureError):
            picture = decode(frame)
            picture.thumbnail((side, side))
            pictures.append(picture)
    if not pictures:
        return None
    loops = ANIMATION_MS // (FRAME_MS * len(pictures))
    animation = {"save_all": True, "append_images": pictures[1:], "duration": FRAME_MS, "loop": loops}
    stream = io.BytesIO()
    pictures[0].save(stream, "WEBP", quality=85, **(animation if len(pictures) > 1 else {}))
    return stream.getvalue()


def _detect_container(data: bytes) -> str | None:
    """Detect the container by the first bytes; None for files that Pillow reads."""
    if data[4:8] == b"ftyp":
        return "MP4"
    return "WebM" if data.startswith(b"\x1a\x45\xdf\xa3") else None


def _animation_frames(data: bytes, checker: _LimitChecker) -> Iterator[Frame]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning; we check the limits
        try:
            image = Image.open(io.BytesIO(data), formats=("GIF", "WEBP"))
        except Image.UnidentifiedImageError as error:
            raise PictureError(f"not a GIF, WebP, {' or '.join(CONTAINERS)} clip") from error
    with image:
        while True:
            checker.add_frame(*image.size)
            image.load()
            yield partial(_shrink_image, image)
            try:
                image.seek(image.tell() + 1)
            except EOFError:
                return


def _shrink_image(image: ImageFile.ImageFile) -> Image.Image:
    picture = to_rgb(image)
    picture.thumbnail((SIDE, SIDE))
    return picture


def _video_frames(data: bytes, name: str, checker: _LimitChecker) -> Iterator[Frame]:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"a clip is {name}, which needs PyAV: pip install 'vitrine[video]', then run the same command again"
        ) from error
    max_pixels = checker.limits.max_pixels
    options = {"max_pixels": str(max_pixels)}  # applies also while FFmpeg probes the stream
    with av.open(
        io.BytesIO(data), "r", format=CONTAINERS[name], options=options, metadata_errors="replace"
    ) as container:
        if not container.streams.video:
            raise PictureError(f"{name} without video")
        stream = container.streams.video[0]
        codec = _check_codec(stream.codec_context, name, checker)
        codec.options, codec.thread_count = options, 1
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise PictureError(f"broken (frame {checker.frames})")
            checker.add_frame(frame.width, frame.height)
            yield partial(_shrink_frame, frame)


def _check_codec(
    codec: "av.VideoCodecContext | None", name: str, checker: _LimitChecker
) -> "av.VideoCodecContext":
    if codec is None or codec.name not in CODECS:
        kind = "an unknown codec" if codec is None else f"codec {codec.name}"
        raise PictureError(f"{name} with {kind}; supported are {', '.join(CODECS[:6])}")
    checker.check_size(codec.width, codec.height)
    if not codec.width * codec.height:
        raise PictureError(f"no size, or more than {checker.limits.max_pixels:,} pixels")
    return codec


def _shrink_frame(frame: "av.VideoFrame") -> Image.Image:
    scale = min(1.0, SIDE / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    picture: Image.Image = frame.to_image(width=width, height=height, interpolation="AREA")
    return picture.rotate(frame.rotation, expand=True)  # as the phone was held


def _encode(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80)
    return stream.getvalue()
