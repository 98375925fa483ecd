import torch

from fusion.encoders.token_layout import TokenLayout
from fusion.encoders.vocabulary import PAD, UNKNOWN

TOKENS = torch.tensor([[12, 13, 14], [15, UNKNOWN, PAD]])  # pieces 10, 11, 12; 13, unknown
OPTIONS = {"before": [1], "after": [2, 3], "unknown": 7, "padding": 0}


def test_padding_to_the_longest_text() -> None:
    ids, mask, words = TokenLayout(**OPTIONS).arrange(TOKENS)
    assert ids.tolist() == [[1, 10, 11, 12, 2, 3], [1, 13, 7, 2, 3, 0]]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
    assert ids.gather(1, words)[0].tolist() == [10, 11, 12]
    assert ids.gather(1, words)[1, :2].tolist() == [13, 7]


def test_padding_on_the_left_to_a_length() -> None:
    ids, mask, words = TokenLayout(**OPTIONS, length=8, left=True).arrange(TOKENS)
    assert ids.tolist() == [[0, 0, 1, 10, 11, 12, 2, 3], [0, 0, 0, 1, 13, 7, 2, 3]]
    assert mask is not None
    assert mask.tolist() == [[0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert ids.gather(1, words)[0].tolist() == [10, 11, 12]
    assert ids.gather(1, words)[1, :2].tolist() == [13, 7]


def test_no_mask() -> None:
    assert TokenLayout(**OPTIONS, masked=False).arrange(TOKENS)[1] is None


def test_a_text_without_tokens() -> None:
    ids, _, _ = TokenLayout(**OPTIONS, left=True).arrange(torch.zeros(1, 3, dtype=torch.int64))
    assert ids.shape == (1, 6)


def test_a_prompt_for_each_role() -> None:
    layout = TokenLayout(**OPTIONS, prompts={"query": [8, 9]})
    ids, _, words = layout.arrange(TOKENS, "query")
    assert ids.tolist() == [[1, 8, 9, 10, 11, 12, 2, 3], [1, 8, 9, 13, 7, 2, 3, 0]]
    assert ids.gather(1, words)[0].tolist() == [10, 11, 12]
    assert layout.arrange(TOKENS, "product")[0].tolist() == [[1, 10, 11, 12, 2, 3], [1, 13, 7, 2, 3, 0]]
    assert layout.special_count == 5
