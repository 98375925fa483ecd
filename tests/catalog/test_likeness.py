import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from catalog.likeness import BITS, NEAR, near, perceptual_hash
from catalog.sample.draw import picture
from catalog.sample.words import TYPES


def drawn(seed: int) -> Image.Image:
    """A picture of the sample catalogue, 96 × 96 pixels."""
    return picture(seed % len(TYPES), seed % 7, seed % 5, np.random.default_rng(seed))


def apart(one: Image.Image, other: Image.Image) -> int:
    """Bits that differ."""
    return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()


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
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_picture_in_another_form_is_near(change: str, seed: int) -> None:
    assert apart(drawn(seed), CHANGES[change](drawn(seed))) <= NEAR


def test_other_pictures_are_far() -> None:
    pictures = [drawn(seed) for seed in range(20)]
    assert min(apart(a, b) for n, a in enumerate(pictures) for b in pictures[:n]) > 3 * NEAR


def test_mirrored_is_another_picture() -> None:
    assert apart(drawn(0), drawn(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > NEAR


# Few centres, and a few bits off them, so that all distances around the limit occur.
hashes = st.lists(
    st.tuples(st.integers(0, 2), st.sets(st.integers(0, BITS - 1), max_size=NEAR)), max_size=12
).flatmap(
    lambda drawn: st.tuples(
        st.just([f"{sum(1 << bit for bit in bits) ^ ((1 << 128 * n) - 1):064x}" for n, bits in drawn]),
        st.lists(st.sampled_from(["train", "test"]), min_size=len(drawn), max_size=len(drawn)),
        st.lists(st.sampled_from("abcd"), min_size=len(drawn), max_size=len(drawn)),
    )
)


@given(hashes)
def test_near_is_what_comparing_all_pairs_finds(rows: tuple[list[str], list[str], list[str]]) -> None:
    numbers = [int(one, 16) for one in rows[0]]
    expected = []
    for i, (number, group, same) in enumerate(zip(numbers, *rows[1:], strict=True)):
        others = [
            ((number ^ numbers[j]).bit_count(), j)
            for j in range(len(numbers))
            if rows[1][j] != group and rows[2][j] != same
        ]
        best = min(others, default=(BITS, i))
        expected.append(best[1] if best[0] <= NEAR else -1)
    assert near(*rows).tolist() == expected


def test_more_rows_than_are_compared_at_a_time() -> None:
    random = np.random.default_rng(0)
    own = [random.bytes(BITS // 8).hex() for _ in range(700)]
    found = near(own + own, ["train"] * 700 + ["test"] * 700, [str(n) for n in range(1400)])
    assert found.tolist() == [*range(700, 1400), *range(700)]
