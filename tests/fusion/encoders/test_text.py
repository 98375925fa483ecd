import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fusion.encoders.text import BiLSTM
from fusion.encoders.vocabulary import PAD

IDS, WIDTH = 30, 16
NONE = torch.zeros(1, 12, 0)  # kinds of entities


@pytest.fixture
def batch() -> Tensor:
    """Texts of 0 to 7 words, one of them as wide as the batch."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((9, 7), np.int64)
    for row, count in enumerate([3, 7, 1, 0, 5, 2, 7, 4, 1]):
        tokens[row, :count] = rng.integers(1, IDS, count)
    return torch.from_numpy(tokens)


@pytest.fixture
def encoder() -> nn.Module:
    """Without knowledge of entities; of published encoders see test_hub."""
    torch.manual_seed(0)
    return BiLSTM(IDS, WIDTH, 0).eval()


def test_padding_and_neighbours_have_no_influence(encoder: nn.Module, batch: Tensor) -> None:
    together, states = encoder(batch, NONE)
    assert together.shape == (len(batch), WIDTH)
    assert states.shape == (*batch.shape, encoder.width)
    wider, more_states = encoder(nn.functional.pad(batch, (0, 5)), NONE)
    for row, tokens in enumerate(batch):
        if count := int((tokens != PAD).sum()):
            alone, words = (found[0] for found in encoder(tokens[None, :count], NONE))
            for seen in ((together, states), (wider, more_states)):
                torch.testing.assert_close(seen[0][row], alone, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(seen[1][row, :count], words, atol=1e-5, rtol=1e-4)
    assert together.isfinite().all(), "a text without words is masked later, and must not spoil the batch"


def test_every_word_counts(encoder: nn.Module) -> None:
    text = torch.arange(2, 8)[None]
    for place in range(6):
        changed = text.clone()
        changed[0, place] = 20
        found = zip(encoder(changed, NONE), encoder(text, NONE), strict=True)
        assert all((one - other).abs().max() > 1e-4 for one, other in found)


def test_order_of_words_counts(encoder: nn.Module) -> None:
    text = torch.arange(2, 8)[None]
    assert (encoder(text, NONE)[0] - encoder(text.flip(1), NONE)[0]).abs().max() > 1e-4


def test_every_weight_learns_but_padding(batch: Tensor) -> None:
    kinds = torch.rand(*batch.shape, 1)
    encoder = BiLSTM(IDS, WIDTH, 1).train()
    with_words = batch[:, 0] != PAD
    encoder(batch[with_words], kinds[with_words])[0].square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    assert isinstance(encoder.embedding, nn.Embedding)
    assert (encoder.embedding.weight.grad[PAD] == 0).all()  # type: ignore[index]


@pytest.mark.parametrize("width", [8, 9, 10, 11, 12, 100])
def test_any_width(width: int) -> None:
    encoder = BiLSTM(IDS, width, 0)
    pooled, states = encoder(torch.ones(2, 3, dtype=torch.int64), NONE)
    assert pooled.shape == (2, width)
    assert states.shape == (2, 3, encoder.width)


def test_is_a_packed_bidirectional_lstm(batch: Tensor) -> None:
    torch.manual_seed(0)
    encoder = BiLSTM(IDS, WIDTH, 0).eval()
    texts = batch[batch[:, 0] != PAD]
    lengths = (texts != PAD).sum(1)
    reference = nn.LSTM(
        encoder.forwards.input_size, encoder.forwards.hidden_size, batch_first=True, bidirectional=True
    )
    own = dict(encoder.forwards.state_dict())
    own |= {f"{name}_reverse": value for name, value in encoder.backwards.state_dict().items()}
    reference.load_state_dict(own)
    embedded = encoder.embedding(texts)
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    rows = list(zip(states, embedded, lengths.tolist(), strict=True))
    pooled = [torch.cat([s[:n].mean(0), s[:n].amax(0), e[:n].mean(0)]) for s, e, n in rows]
    expected = encoder.project(torch.stack(pooled))
    found, own_states = encoder(texts, NONE)
    inside = (texts != PAD)[:, : states.shape[1]]
    torch.testing.assert_close(own_states[inside], states[inside], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_kind_of_entity_a_word_is_counts(batch: Tensor) -> None:
    torch.manual_seed(0)
    encoder = BiLSTM(IDS, WIDTH, 2)
    kinds = torch.rand(*batch.shape, 2)
    nothing = encoder(batch, torch.zeros_like(kinds))
    assert all(torch.equal(*pair) for pair in zip(encoder(batch, kinds), nothing, strict=True)), "at first"
    nn.init.normal_(encoder.kinds)
    assert ((encoder(batch, kinds)[0] - nothing[0]).abs().amax(1) > 1e-4).all()
