from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fusion.encoders.vocabulary import PAD, UNKNOWN
from fusion.entities import OUTSIDE, UNKNOWABLE, Entities, Labeller, f1, spans
from fusion.facets import WORDS, Facets

LABELS = st.lists(st.integers(0, 3), max_size=12)
quick = settings(deadline=None, max_examples=100)
NAVY, BLUE, RED, SHIRT, ORANGE, BIG, OTHER = range(2, 9)


@pytest.fixture
def facets() -> Facets:
    """Colours "navy blue", "red" and "orange", the brand "orange", sizes "big" and "red big"."""
    columns = ("category", "brand", "color", "material", "attributes.Shoe Size", "attributes.sizing")
    names = ([[SHIRT]], [[ORANGE]], [[NAVY, BLUE], [RED], [ORANGE]], [], [[BIG], [RED, BIG]], [[BIG]])
    padded = tuple(
        np.array([name + [PAD] * (WORDS - len(name)) for name in ([], *values)], np.int32) for values in names
    )
    nothing = np.zeros((0, len(columns)), np.int32)
    return replace(Facets.none(0), columns=columns, values=nothing, names=padded)


def test_types_are_what_the_catalogue_states(facets: Facets) -> None:
    entities = Entities(facets)
    assert entities.types == ("brand", "color", "size", "product type"), "nobody states a material"
    assert Entities(Facets.none(3)).types == ()


@pytest.mark.parametrize(
    ("tokens", "stated", "expected"),
    [
        ([OTHER, NAVY, BLUE, SHIRT], {"category": 1, "color": 1}, [0, 2, 2, 4]),
        (
            [NAVY, OTHER, BLUE],
            {"color": 1},
            [UNKNOWABLE, OUTSIDE, UNKNOWABLE],
        ),  # not the name, though its words
        ([RED, NAVY, BLUE, PAD], {"color": 1}, [UNKNOWABLE, 2, 2, UNKNOWABLE]),  # another product's colour
        ([ORANGE, OTHER], {"brand": 1}, [1, 0]),
        ([ORANGE, OTHER], {"brand": 1, "color": 3}, [UNKNOWABLE, 0]),  # it may be either
        ([RED, BIG, UNKNOWN], {"attributes.Shoe Size": 2}, [3, 3, 0]),
        ([BIG], {"attributes.sizing": 1}, [UNKNOWABLE]),  # no size by its name
        ([NAVY, BLUE, NAVY, BLUE], {"color": 1}, [2, 2, 2, 2]),
        ([OTHER, SHIRT], {}, [0, UNKNOWABLE]),
    ],
)
def test_words_are_labelled_by_what_the_columns_state(
    facets: Facets, tokens: list[int], stated: dict[str, int], expected: list[int]
) -> None:
    values = np.array([[stated.get(column, 0) for column in facets.columns]], np.int32)
    (found,) = Entities(facets).label(np.array([tokens], np.int32), values)
    assert found.tolist() == expected


def test_a_catalogue_without_columns_tells_nothing() -> None:
    tokens = np.array([[RED, BIG]], np.int32)
    facets = Facets.none(1)
    assert (Entities(facets).label(tokens, facets.values) == UNKNOWABLE).all()


def test_a_word_is_known_by_its_neighbours() -> None:
    """What follows the word 20 is a colour, what follows 21 is none, also where nobody has seen it before."""
    rng = np.random.default_rng(0)
    first = rng.integers(20, 22, 400)
    second = np.where(first == 20, rng.integers(2, 12, 400), rng.integers(25, 30, 400))
    tokens = np.stack([first, second, np.full(400, 15)], 1)
    labels = np.stack([first * 0, first == 20, first * 0], 1)
    texts, truth = (torch.from_numpy(array).long() for array in (tokens, labels))
    torch.manual_seed(0)
    labeller = Labeller(40, 1)
    optimizer = torch.optim.Adam(labeller.parameters(), 1e-2)
    for _ in range(30):
        hidden = torch.where((torch.rand(40) < 0.2)[texts], UNKNOWN, texts)
        optimizer.zero_grad()
        labeller.loss(hidden, truth).mean().backward()
        optimizer.step()
    unseen = torch.tensor([[20, 35, 15], [21, 35, 15]])
    assert labeller(unseen).argmax(2).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_padding_and_neighbours_have_no_influence() -> None:
    torch.manual_seed(0)
    labeller = Labeller(40, 3)
    nn.init.normal_(labeller.near.bias)
    text = torch.randint(2, 40, (1, 6))
    padded = torch.cat([nn.functional.pad(text, (0, 5)), torch.randint(2, 40, (1, 11))])
    torch.testing.assert_close(labeller(padded)[0, :6], labeller(text)[0])


def test_unknowable_words_teach_nothing() -> None:
    labeller, text = Labeller(40, 1), torch.randint(2, 40, (2, 6))
    labels = torch.tensor([[UNKNOWABLE] * 6, [1, 0, UNKNOWABLE, 0, 0, UNKNOWABLE]])
    loss = labeller.loss(text, labels)
    assert loss.shape == (2,)
    assert loss[0] == 0
    logits = labeller(text)[1].log_softmax(1)
    expected = -(logits[0, 1] + logits[[1, 3, 4], 0].sum())
    torch.testing.assert_close(loss[1], expected)


@quick
@given(LABELS)
def test_spans_are_the_runs(labels: list[int]) -> None:
    found = spans(labels)
    rebuilt = [OUTSIDE] * len(labels)
    for kind, start, end in found:
        assert start == 0 or labels[start - 1] != kind
        assert end == len(labels) or labels[end] != kind
        rebuilt[start:end] = [kind] * (end - start)
    assert rebuilt == labels


@quick
@given(LABELS.filter(bool), st.integers(1, 3))
def test_f1_of_the_truth_is_one(labels: list[int], kind: int) -> None:
    truth = np.array([labels])
    value = f1(truth, truth, kind)
    assert value == 1 if kind in labels else np.isnan(value)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([1, 1, 0, 1], [1, 1, 0, 0], 2 / 3),
        ([1, 1, 0, 0], [1, 0, 0, 0], 0),  # it ends too early
        ([1, 0, UNKNOWABLE, 0], [1, 0, 1, 0], 1),  # nobody can tell whether the second is one
        ([1, 0, 0, 0], [1, 0, 1, 0], 2 / 3),
        ([2, 0, 0, 0], [1, 0, 0, 0], 0),
    ],
)
def test_f1(truth: list[int], found: list[int], expected: float) -> None:
    assert f1(np.array([truth]), np.array([found]), 1) == pytest.approx(expected)
