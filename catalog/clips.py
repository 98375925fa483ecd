"""Clips: animated GIF and WebP, MP4 and WebM, as evenly spaced frames, and back as pictures that move."""

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

FRAMES = 16  # of a clip, at most; `featurize.clip_frames` takes 8 of them, and may take all
SIDE = 224  # pixels of a frame's longer side, at most; video encoders take 112
CANDIDATES = 8 * FRAMES  # frames in memory before every second is dropped
CONTAINERS = {
    "MP4": "mp4",
    "WebM": "matroska",
}  # FFmpeg's readers; it must not guess: a playlist names other files
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "libvpx", "libvpx-vp9", "libdav1d", "libaom-av1")
# Of an animation on a page: what moves by itself must stop within five seconds (WCAG 2.2.2).
FRAME_MS, ANIMATION_MS = 120, 4500
ANIMATION_FRAMES = ANIMATION_MS // FRAME_MS
DECODERS = BoundedSemaphore(4)  # clips at a time: a decoder of 4K video holds up to 200 MB

Frame = Callable[[], Image.Image]  # makes the picture; to be called before the next frame is taken


class ClipLimits(NamedTuple):
    """What a clip may cost before it is refused. The file's own figures are not trusted."""

    max_bytes: int = Limits().max_bytes
    max_pixels: int = 10_000_000  # of a frame: 4K video has 8.8 million
    max_frames: int = 10_000
    max_decoded: int = 4_000_000_000  # pixels of all frames: a minute of 1920 × 1080 at 30 frames per second


class _Budget:
    """Counts what a clip costs."""

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
    """Decode a clip and keep 2 to `FRAMES` of its frames, evenly spaced.

    Args:
        data: An animated GIF or WebP; MP4 or WebM with H.264, HEVC, MPEG-4, VP8, VP9 or AV1.
        limits: What it may cost.

    Returns:
        Upright RGB frames as WebP, at most `SIDE` pixels wide and high.

    Raises:
        PictureError: none of these, too large or too long, broken, or fewer than 2 frames.
        DataError: for MP4 and WebM where PyAV is not installed.
    """
    if len(data) > limits.max_bytes:
        raise PictureError(f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    name = _container(data)
    budget = _Budget(limits)
    with DECODERS:
        frames = _animation_frames(data, budget) if name is None else _video_frames(data, name, budget)
        try:
            chosen = take_evenly(frames)
        except (PictureError, DataError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, av.error.FFmpegError …
            raise PictureError(f"broken ({getattr(error, 'strerror', None) or error})") from error
    if len(chosen) < 2:
        raise PictureError(f"frames in it: {len(chosen)}; a clip has 2 or more")
    return [_encode(frame) for frame in chosen]


def take_evenly(frames: Iterable[Frame]) -> list[Image.Image]:
    """At most `FRAMES` of any number of frames, evenly spaced, the first always; in one pass.

    Every frame is a candidate at first, then every second, every fourth, and so on: never more than `CANDIDATES`
    pictures are in memory.
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
    return [candidates[place] for place in np.linspace(0, len(candidates) - 1, count).round().astype(int)]


def animate(frames: Sequence[bytes], side: int, most: int = ANIMATION_FRAMES) -> bytes | None:
    """Stored frames as an animated WebP to show; it stops within five seconds. A single frame gives a picture.

    Args:
        frames: As `catalog.schema` stores them; those that cannot be decoded are left out, `validate` lists them.
        side: Pixels of the longer side, at most.
        most: Frames, evenly spaced.

    Returns:
        None where no frame is left.
    """
    pictures: list[Image.Image] = []
    for frame in frames[:: -(-len(frames) // most) or 1]:
        with suppress(PictureError):
            picture = decode(frame)
            picture.thumbnail((side, side))
            pictures.append(picture)
    if not pictures:
        return None
    loops = ANIMATION_MS // (FRAME_MS * len(pictures))
    moving = {"save_all": True, "append_images": pictures[1:], "duration": FRAME_MS, "loop": loops}
    stream = io.BytesIO()
    pictures[0].save(stream, "WEBP", quality=85, **(moving if len(pictures) > 1 else {}))
    return stream.getvalue()


def _container(data: bytes) -> str | None:
    """Which of `CONTAINERS` the first bytes tell; None for what Pillow is to read."""
    if data[4:8] == b"ftyp":
        return "MP4"
    return "WebM" if data.startswith(b"\x1a\x45\xdf\xa3") else None


def _animation_frames(data: bytes, budget: _Budget) -> Iterator[Frame]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning; the limits are ours
        try:
            image = Image.open(io.BytesIO(data), formats=("GIF", "WEBP"))
        except Image.UnidentifiedImageError as error:
            raise PictureError(f"not a GIF, WebP, {' or '.join(CONTAINERS)} clip") from error
    with image:
        while True:
            budget.add_frame(*image.size)
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


def _video_frames(data: bytes, name: str, budget: _Budget) -> Iterator[Frame]:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"a clip is {name}, which needs PyAV: pip install 'vitrine[video]'; the same command then goes on"
        ) from error
    most = budget.limits.max_pixels
    options = {"max_pixels": str(most)}  # also holds while FFmpeg probes the stream
    with av.open(
        io.BytesIO(data), "r", format=CONTAINERS[name], options=options, metadata_errors="replace"
    ) as container:
        if not container.streams.video:
            raise PictureError(f"{name} without video")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None or codec.name not in CODECS:
            kind = "an unknown codec" if codec is None else f"codec {codec.name}"
            raise PictureError(f"{name} with {kind}, none of {', '.join(CODECS[:6])}")
        budget.check_size(codec.width, codec.height)
        if not codec.width * codec.height:
            raise PictureError(f"no size, or more than {most:,} pixels")
        codec.options, codec.thread_count = options, 1
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise PictureError(f"broken (frame {budget.frames})")
            budget.add_frame(frame.width, frame.height)
            yield partial(_shrink_frame, frame)


def _shrink_frame(frame: "av.VideoFrame") -> Image.Image:
    scale = min(1.0, SIDE / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    picture: Image.Image = frame.to_image(width=width, height=height, interpolation="AREA")
    return picture.rotate(frame.rotation, expand=True)  # as the phone was held


def _encode(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80)
    return stream.getvalue()
