import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from catalog.sample.draw import picture
from catalog.sample.words import TYPES
from validation.near_duplicates import BITS, CELLS, NEAR, TINT, appearance, near


def drawn(seed: int) -> Image.Image:
    """A picture of the sample catalogue, 96 × 96 pixels."""
    return picture(seed % len(TYPES), seed % 7, seed % 5, np.random.default_rng(seed))


def apart(one: Image.Image, other: Image.Image) -> tuple[int, int]:
    """Bits that differ, and the largest difference in colour."""
    a, b = appearance(one), appearance(other)
    tints = np.subtract(*(np.frombuffer(told[BITS // 8 :], np.uint8).astype(int) for told in (a, b)))
    return _bits(a, b), int(np.abs(tints).max())


def _bits(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a[: BITS // 8]) ^ int.from_bytes(b[: BITS // 8])).bit_count()


def saved(image: Image.Image, kind: str, **how: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return Image.open(stream).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG": lambda image: saved(image, "JPEG", quality=60),
    "WebP": lambda image: saved(image, "WEBP", quality=60),
    "half the size": lambda image: image.resize((48, 48)),
    "another shape": lambda image: image.resize((120, 90)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_picture_in_another_form_is_near(change: str, seed: int) -> None:
    bits, tint = apart(drawn(seed), CHANGES[change](drawn(seed)))
    assert bits <= NEAR and tint <= TINT


def test_other_pictures_are_far() -> None:
    pictures = [drawn(seed) for seed in range(20)]
    assert min(apart(a, b)[0] for n, a in enumerate(pictures) for b in pictures[:n]) > 3 * NEAR


def test_mirrored_is_another_picture() -> None:
    assert apart(drawn(0), drawn(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0] > NEAR


def test_another_colour_is_another_picture() -> None:
    one = drawn(0)
    red, green, blue = one.split()
    other = Image.merge("RGB", (green, blue, red))
    assert apart(one, other)[1] > TINT
    assert near([appearance(one), appearance(other)], ["train", "test"], ["a", "b"]).tolist() == [-1, -1]


# Few centres, and a few bits and shades off them, so that all distances around the limits occur.
pictures = st.tuples(
    st.integers(0, 2),
    st.sets(st.integers(0, BITS - 1), max_size=NEAR),
    st.integers(0, 2 * TINT),
    st.sampled_from(["train", "test"]),
    st.sampled_from("abcd"),
)


@given(st.lists(pictures, max_size=12))
def test_near_is_what_comparing_all_pairs_finds(rows: list[tuple[int, set[int], int, str, str]]) -> None:
    seen = []
    for centre, bits, shade, *_ in rows:
        number = sum(1 << bit for bit in bits) ^ ((1 << 128 * centre) - 1)
        seen.append(number.to_bytes(BITS // 8) + bytes([128, 128 + shade] * CELLS**2))
    groups, same = ([row[at] for row in rows] for at in (3, 4))
    expected = []
    for i, own in enumerate(seen):
        others = [
            (_bits(own, other), j)
            for j, other in enumerate(seen)
            if groups[j] != groups[i] and same[j] != same[i] and abs(rows[i][2] - rows[j][2]) <= TINT
        ]
        best = min(others, default=(BITS, i))
        expected.append(best[1] if best[0] <= NEAR else -1)
    assert near(seen, groups, same).tolist() == expected


def test_more_rows_than_are_compared_at_a_time() -> None:
    random = np.random.default_rng(0)
    own = [random.bytes(BITS // 8 + 2 * CELLS**2) for _ in range(700)]
    found = near(own + own, ["train"] * 700 + ["test"] * 700, [str(n) for n in range(1400)])
    assert found.tolist() == [*range(700, 1400), *range(700)]
