import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusion.encoders.gallery import GalleryAttention

DIM = 16


def make_attention(seed: int = 0) -> GalleryAttention:
    attention = GalleryAttention(DIM)
    torch.nn.init.normal_(attention.queries, generator=torch.Generator().manual_seed(seed))
    return attention


def draw_pictures(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed))


def test_one_picture_gives_exactly_its_vector() -> None:
    pictures = draw_pictures(5, 1)
    for exists in (True, False):  # items without a picture keep a finite vector, which the model masks
        pooled = make_attention()(pictures, torch.full((5, 1), exists))
        assert torch.equal(pooled, pictures[:, 0])


def test_it_starts_with_the_mean() -> None:
    pictures = draw_pictures(2, 3)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    pooled = GalleryAttention(DIM)(pictures, mask)
    torch.testing.assert_close(pooled, torch.stack([pictures[0].mean(0), pictures[1, :2].mean(0)]))


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.permutations(range(4)))
def test_neither_padding_nor_order_changes_the_result(count: int, padding: int, order: list[int]) -> None:
    attention, pictures = make_attention(), draw_pictures(1, 4)
    expected = attention(pictures[:, :count], torch.ones(1, count, dtype=torch.bool))
    padded = torch.cat([pictures[:, :count], draw_pictures(1, padding, seed=2)], 1)
    mask = torch.arange(count + padding)[None] < count
    torch.testing.assert_close(attention(padded, mask), expected)
    shuffled = pictures[:, [number for number in order if number < count]]
    torch.testing.assert_close(attention(shuffled, mask[:, :count]), expected)


def test_each_head_can_choose_another_picture() -> None:
    attention, pictures = GalleryAttention(DIM), draw_pictures(1, 2)
    with torch.no_grad():
        attention.queries[:4] = 1e4 * (pictures[0, 0] - pictures[0, 1])
        attention.queries[4:] = 1e4 * (pictures[0, 1] - pictures[0, 0])
    pooled = attention(pictures, torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(pooled[0, :8], pictures[0, 0, :8])
    assert torch.equal(pooled[0, 8:], pictures[0, 1, 8:])
