import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fusion.encoders.text import EMBEDDING_SCALE, BiLSTM
from fusion.encoders.vocabulary import PAD

IDS, WIDTH = 30, 16


def no_entities(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, 0)


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
    """Without entities; test_hub tests published encoders."""
    torch.manual_seed(0)
    return BiLSTM(IDS, WIDTH, 0).eval()


def test_padding_and_neighbours_have_no_influence(encoder: nn.Module, batch: Tensor) -> None:
    together, states = encoder(batch, no_entities(batch))
    assert together.shape == (len(batch), WIDTH)
    assert states.shape == (*batch.shape, encoder.width)
    padded = nn.functional.pad(batch, (0, 5))
    wider, more_states = encoder(padded, no_entities(padded))
    for row, tokens in enumerate(batch):
        if count := int((tokens != PAD).sum()):
            single, words = (
                output[0] for output in encoder(tokens[None, :count], no_entities(tokens[None, :count]))
            )
            for vectors, word_states in ((together, states), (wider, more_states)):
                torch.testing.assert_close(vectors[row], single, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(word_states[row, :count], words, atol=1e-5, rtol=1e-4)
    assert together.isfinite().all(), "a text without words must not make the batch nan"


def test_every_word_counts(encoder: nn.Module) -> None:
    text = torch.arange(2, 8)[None]
    for position in range(6):
        changed = text.clone()
        changed[0, position] = 20
        outputs = zip(encoder(changed, no_entities(text)), encoder(text, no_entities(text)), strict=True)
        assert all((new - original).abs().max() > 1e-4 for new, original in outputs)


def test_order_of_words_counts(encoder: nn.Module) -> None:
    text = torch.arange(2, 8)[None]
    vectors, flipped = (encoder(tokens, no_entities(tokens))[0] for tokens in (text, text.flip(1)))
    assert (vectors - flipped).abs().max() > 1e-4


def test_every_weight_learns_but_padding(batch: Tensor) -> None:
    entities = torch.rand(*batch.shape, 1)
    encoder = BiLSTM(IDS, WIDTH, 1).train()
    with_words = batch[:, 0] != PAD
    encoder(batch[with_words], entities[with_words])[0].square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    assert isinstance(encoder.embedding, nn.Embedding)
    assert (encoder.embedding.weight.grad[PAD] == 0).all()  # type: ignore[index]


@pytest.mark.parametrize("width", [8, 9, 10, 11, 12, 100])
def test_any_width(width: int) -> None:
    encoder = BiLSTM(IDS, width, 0)
    tokens = torch.ones(2, 3, dtype=torch.int64)
    pooled, states = encoder(tokens, no_entities(tokens))
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
    state = dict(encoder.forwards.state_dict())
    state |= {f"{name}_reverse": value for name, value in encoder.backwards.state_dict().items()}
    reference.load_state_dict(state)
    embedded = encoder.embedding(texts)
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    rows = list(zip(states, embedded, lengths.tolist(), strict=True))
    pooled = [torch.cat([s[:n].mean(0), s[:n].amax(0), e[:n].mean(0)]) for s, e, n in rows]
    expected = encoder.project(torch.stack(pooled))
    vectors, encoder_states = encoder(texts, no_entities(texts))
    mask = (texts != PAD)[:, : states.shape[1]]
    torch.testing.assert_close(encoder_states[mask], states[mask], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)


def test_entities_of_words_count(batch: Tensor) -> None:
    torch.manual_seed(0)
    encoder = BiLSTM(IDS, WIDTH, 2)
    entities = torch.rand(*batch.shape, 2)
    without = encoder(batch, torch.zeros_like(entities))
    assert all(torch.equal(*pair) for pair in zip(encoder(batch, entities), without, strict=True)), "at first"
    nn.init.normal_(encoder.entity_embeddings)
    assert ((encoder(batch, entities)[0] - without[0]).abs().amax(1) > 1e-4).all()


def test_a_piece_that_training_never_sees_disturbs_little() -> None:
    torch.manual_seed(0)
    embeddings = BiLSTM(1000, 64, 0).embedding.weight
    assert not embeddings[PAD].any()
    assert embeddings[1:].std().item() == pytest.approx(EMBEDDING_SCALE, rel=0.1)
