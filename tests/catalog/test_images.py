import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from catalog.images import DRAFT, Limits, PictureError, decode, fit, is_flat, pixel_hash, read_size


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_decodes_every_format_to_rgb(kind: str) -> None:
    image = decode(encoded(NOISE, kind))
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_the_size_is_read_without_the_pixels() -> None:
    assert read_size(encoded(NOISE)) == (30, 20)
    assert read_size(png_claiming(7000, 7000)) == (7000, 7000)
    for data, message in ((png_claiming(8000, 8000), "the limit is 50,000,000"), (b"text", "not a JPEG")):
        with pytest.raises(PictureError, match=message):
            read_size(data)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16"])
def test_decodes_every_mode_to_rgb(mode: str) -> None:
    source = Image.new("I;16", (4, 4), 200) if mode == "I;16" else NOISE.convert(mode)
    assert decode(encoded(source)).mode == "RGB"


def test_greyscale_keeps_its_values() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert (np.asarray(decode(encoded(grey))) == np.arange(256).reshape(16, 16, 1)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled(kind: str) -> None:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert (np.asarray(decode(encoded(Image.fromarray(grey), kind)))[..., 0] == grey // 257).all()


def test_grey_of_an_unknown_scale_is_refused() -> None:
    grey = Image.fromarray(np.array([[0, 70_000]], np.int32))
    with pytest.raises(PictureError, match="grey values of more than 16 bits"):
        decode(encoded(grey, "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    data = (
        encoded(image.convert(mode))
        if mode != "P"
        else encoded(image.convert("P"), transparency=image.convert("P").getpixel((0, 0)))
    )
    assert decode(data).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparent_is_half_white() -> None:
    assert decode(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))).getpixel((0, 0)) == (127, 127, 127)


def test_orientation_of_the_camera_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    upright = decode(encoded(NOISE, exif=exif.tobytes()))
    assert upright.size == (20, 30)
    assert (np.asarray(upright) == np.rot90(np.asarray(NOISE), -1)).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(
    ("side", "message"),  # above our limit; above Pillow's own as well
    [(8_000, "8000 × 8000 pixels, the limit is 50,000,000"), (30_000, "too many pixels .*900000000")],
)
def test_a_bomb_is_refused_on_its_header(side: int, message: str) -> None:
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(PictureError, match=message):
        decode(png_claiming(side, side))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert time.monotonic() - began < 0.5


def test_limits_are_the_callers() -> None:
    data = encoded(NOISE)
    assert decode(data, Limits(max_bytes=len(data), max_pixels=600)).size == (30, 20)
    with pytest.raises(PictureError, match="30 × 20 pixels, the limit is 599"):
        decode(data, Limits(max_pixels=599))
    with pytest.raises(PictureError, match=f"{len(data):,} bytes, the limit is {len(data) - 1:,}"):
        decode(data, Limits(max_bytes=len(data) - 1))


@pytest.mark.parametrize(
    "data", [b"", b"no picture at all", encoded(NOISE, "PPM"), b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(PictureError, match="not a JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF picture"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_broken(kind: str) -> None:
    data = encoded(NOISE.resize((300, 300)), kind)
    with pytest.raises(PictureError, match="broken"):
        decode(data[: len(data) * 2 // 3])


@given(st.data())
def test_damage_never_escapes_as_another_error(data: st.DataObject) -> None:
    intact = bytearray(encoded(NOISE, data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))))
    for place in data.draw(st.lists(st.integers(0, len(intact) - 1), min_size=1, max_size=8)):
        intact[place] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(intact), Limits(max_pixels=10_000)).mode == "RGB"
    except PictureError as error:
        assert str(error)


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (1, 64), (96, 96)])
def test_fit_keeps_proportions_on_white(width: int, height: int) -> None:
    array = fit(Image.new("RGB", (width, height), "black"), 64)
    assert (array.shape, array.dtype) == ((64, 64, 3), np.uint8)
    dark = array[:, :, 0] < 128
    rows, columns = dark.any(axis=1).sum(), dark.any(axis=0).sum()
    scale = 64 / max(width, height)
    assert (rows, columns) == (pytest.approx(height * scale, abs=1), pytest.approx(width * scale, abs=1))
    assert array[~dark].size == 0 or array[~dark].max() == 255


SMOOTH = NOISE.resize((900, 600), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("rotation", [1, 6])
def test_a_large_jpeg_is_decoded_in_part_for_a_small_square(mode: str, rotation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = rotation
    data = encoded(SMOOTH.convert(mode), "JPEG", quality=95, exif=exif)
    whole, part = decode(data), decode(data, side=64)
    assert part.mode == "RGB" and part.size == tuple(side // 4 for side in whole.size)
    difference = np.abs(fit(whole, 64).astype(int) - fit(part, 64))
    assert difference.mean() < 1 and difference.max() < 12


@given(st.integers(1, 700), st.integers(1, 700), st.integers(8, 200))
def test_a_jpeg_in_part_is_larger_than_the_square(width: int, height: int, side: int) -> None:
    data = encoded(Image.new("RGB", (width, height)), "JPEG")
    longest = max(decode(data, side=side).size)
    assert longest == max(width, height) or DRAFT * side <= longest
    assert longest <= max(width, height)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_decoded_as_a_whole(kind: str) -> None:
    data = encoded(SMOOTH, kind)
    assert decode(data, side=16).tobytes() == decode(data).tobytes()


def test_a_small_jpeg_is_decoded_as_a_whole() -> None:
    data = encoded(NOISE, "JPEG")
    assert decode(data, side=16).tobytes() == decode(data).tobytes()


def test_the_limit_is_of_the_whole_jpeg() -> None:
    with pytest.raises(PictureError, match="900 × 600 pixels, the limit is 500,000"):
        decode(encoded(SMOOTH, "JPEG"), Limits(max_pixels=500_000), side=32)


def test_pixel_hash_is_of_pixels_and_size() -> None:
    same = {
        pixel_hash(decode(encoded(NOISE, kind, **options)))
        for kind, options in [("PNG", {}), ("PNG", {"compress_level": 0}), ("WEBP", {"lossless": True})]
    }
    assert same == {pixel_hash(NOISE)}
    assert pixel_hash(NOISE) != pixel_hash(NOISE.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert pixel_hash(Image.new("RGB", (2, 3))) != pixel_hash(Image.new("RGB", (3, 2)))


def test_flat_pictures() -> None:
    flat = Image.new("RGB", (9, 9), (200, 10, 10))
    assert is_flat(flat)
    flat.putpixel((4, 4), (208, 10, 10))
    assert is_flat(flat)
    flat.putpixel((4, 4), (200, 19, 10))
    assert not is_flat(flat)
    assert is_flat(Image.new("L", (3, 3), 7))


def test_the_fixture_draws_what_it_says(png: Callable[..., bytes]) -> None:
    assert decode(png(1)).size == (48, 40)
    assert png(1) != png(2)
