import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from catalog.sample.pictures import draw_picture
from catalog.sample.words import TYPES
from validation.near_duplicates import (
    CELLS,
    HASH_BITS,
    MAX_COLOUR_DIFFERENCE,
    MAX_HASH_DISTANCE,
    find_near_duplicates,
    picture_signature,
)


def drawn(seed: int) -> Image.Image:
    """A picture of the sample catalogue, 96 × 96 pixels."""
    return draw_picture(seed % len(TYPES), seed % 7, seed % 5, np.random.default_rng(seed))


def difference(picture: Image.Image, other: Image.Image) -> tuple[int, int]:
    """Bits that differ, and the largest difference in colour."""
    a, b = picture_signature(picture), picture_signature(other)
    colours = np.subtract(
        *(np.frombuffer(signature[HASH_BITS // 8 :], np.uint8).astype(int) for signature in (a, b))
    )
    return _bits(a, b), int(np.abs(colours).max())


def _bits(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a[: HASH_BITS // 8]) ^ int.from_bytes(b[: HASH_BITS // 8])).bit_count()


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
    bits, colour = difference(drawn(seed), CHANGES[change](drawn(seed)))
    assert bits <= MAX_HASH_DISTANCE and colour <= MAX_COLOUR_DIFFERENCE


def test_other_pictures_are_far() -> None:
    pictures = [drawn(seed) for seed in range(20)]
    assert (
        min(difference(a, b)[0] for n, a in enumerate(pictures) for b in pictures[:n]) > 3 * MAX_HASH_DISTANCE
    )


def test_mirrored_is_another_picture() -> None:
    assert difference(drawn(0), drawn(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0] > MAX_HASH_DISTANCE


def test_another_colour_is_another_picture() -> None:
    original = drawn(0)
    red, green, blue = original.split()
    other = Image.merge("RGB", (green, blue, red))
    assert difference(original, other)[1] > MAX_COLOUR_DIFFERENCE
    assert find_near_duplicates(
        [picture_signature(original), picture_signature(other)], ["train", "test"], ["a", "b"]
    ).tolist() == [-1, -1]


# Few centres, and a few bits and shades off them, so that all distances around the limits occur.
pictures = st.tuples(
    st.integers(0, 2),
    st.sets(st.integers(0, HASH_BITS - 1), max_size=MAX_HASH_DISTANCE),
    st.integers(0, 2 * MAX_COLOUR_DIFFERENCE),
    st.sampled_from(["train", "test"]),
    st.sampled_from("abcd"),
)


@given(st.lists(pictures, max_size=12))
def test_near_is_what_comparing_all_pairs_finds(rows: list[tuple[int, set[int], int, str, str]]) -> None:
    signatures = []
    for centre, bits, shade, *_ in rows:
        number = sum(1 << bit for bit in bits) ^ ((1 << 128 * centre) - 1)
        signatures.append(number.to_bytes(HASH_BITS // 8) + bytes([128, 128 + shade] * CELLS**2))
    groups, same = ([row[at] for row in rows] for at in (3, 4))
    expected = []
    for i, signature in enumerate(signatures):
        others = [
            (_bits(signature, other), j)
            for j, other in enumerate(signatures)
            if groups[j] != groups[i]
            and same[j] != same[i]
            and abs(rows[i][2] - rows[j][2]) <= MAX_COLOUR_DIFFERENCE
        ]
        best = min(others, default=(HASH_BITS, i))
        expected.append(best[1] if best[0] <= MAX_HASH_DISTANCE else -1)
    assert find_near_duplicates(signatures, groups, same).tolist() == expected


def test_more_rows_than_are_compared_at_a_time() -> None:
    random = np.random.default_rng(0)
    signatures = [random.bytes(HASH_BITS // 8 + 2 * CELLS**2) for _ in range(700)]
    nearest = find_near_duplicates(
        signatures + signatures, ["train"] * 700 + ["test"] * 700, [str(n) for n in range(1400)]
    )
    assert nearest.tolist() == [*range(700, 1400), *range(700)]
