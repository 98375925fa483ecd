from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fusion.encoders.vocabulary import PAD, UNKNOWN
from fusion.entities import OUTSIDE, UNLABELLED, Entities, Labeller, f1, spans
from fusion.facets import NAME_TOKENS, Facets

LABELS = st.lists(st.integers(0, 3), max_size=12)
quick = settings(deadline=None, max_examples=100)
NAVY, BLUE, RED, SHIRT, ORANGE, BIG, OTHER = range(2, 9)


@pytest.fixture
def facets() -> Facets:
    """Colours "navy blue", "red" and "orange", the brand "orange", sizes "big" and "red big"."""
    columns = ("category", "brand", "color", "material", "attributes.Shoe Size", "attributes.sizing")
    names = ([[SHIRT]], [[ORANGE]], [[NAVY, BLUE], [RED], [ORANGE]], [], [[BIG], [RED, BIG]], [[BIG]])
    padded = tuple(
        np.array([name + [PAD] * (NAME_TOKENS - len(name)) for name in ([], *values)], np.int32)
        for values in names
    )
    no_values = np.zeros((0, len(columns)), np.int32)
    return replace(Facets.empty(0), columns=columns, values=no_values, names=padded)


def test_types_are_those_of_the_catalogue(facets: Facets) -> None:
    entities = Entities(facets)
    assert entities.types == ("brand", "color", "size", "product type"), "no product has a material"
    assert Entities(Facets.empty(3)).types == ()


@pytest.mark.parametrize(
    ("tokens", "product_values", "expected"),
    [
        ([OTHER, NAVY, BLUE, SHIRT], {"category": 1, "color": 1}, [0, 2, 2, 4]),
        (
            [NAVY, OTHER, BLUE],
            {"color": 1},
            [UNLABELLED, OUTSIDE, UNLABELLED],
        ),  # not the name, though its words
        ([RED, NAVY, BLUE, PAD], {"color": 1}, [UNLABELLED, 2, 2, UNLABELLED]),  # another product's colour
        ([ORANGE, OTHER], {"brand": 1}, [1, 0]),
        ([ORANGE, OTHER], {"brand": 1, "color": 3}, [UNLABELLED, 0]),  # it may be either
        ([RED, BIG, UNKNOWN], {"attributes.Shoe Size": 2}, [3, 3, 0]),
        ([BIG], {"attributes.sizing": 1}, [UNLABELLED]),  # no size by its name
        ([NAVY, BLUE, NAVY, BLUE], {"color": 1}, [2, 2, 2, 2]),
        ([OTHER, SHIRT], {}, [0, UNLABELLED]),
    ],
)
def test_words_are_labelled_by_the_columns(
    facets: Facets, tokens: list[int], product_values: dict[str, int], expected: list[int]
) -> None:
    values = np.array([[product_values.get(column, 0) for column in facets.columns]], np.int32)
    (labels,) = Entities(facets).label(np.array([tokens], np.int32), values)
    assert labels.tolist() == expected


def test_a_name_is_whole_words(facets: Facets) -> None:
    """`OTHER` continues a word: "red|dish" is not red, and the piece "big" of "big|gest" is no size."""
    values = np.zeros((4, len(facets.columns)), np.int32)
    values[:, facets.columns.index("color")] = [2, 2, 1, 1]  # red, navy blue
    tokens = np.array(
        [[RED, OTHER, SHIRT], [OTHER, RED, SHIRT], [NAVY, BLUE, OTHER], [NAVY, BLUE, PAD]], np.int32
    )
    labels = Entities(facets, np.array([OTHER], np.int32)).label(tokens, values)
    outside = OUTSIDE
    assert labels[:, 0].tolist() == [UNLABELLED, outside, UNLABELLED, 2]
    assert labels[:, 1].tolist() == [outside, 2, UNLABELLED, 2]


def test_pieces_of_other_names_are_no_words(facets: Facets) -> None:
    """The colour "orange" is two pieces here, so its first piece says nothing about other texts."""
    names = list(facets.names)
    names[facets.columns.index("color")] = names[facets.columns.index("color")].copy()
    names[facets.columns.index("color")][3, :2] = [9, OTHER]
    entities = Entities(replace(facets, names=tuple(names)), np.array([OTHER], np.int32))
    values = np.zeros((2, len(facets.columns)), np.int32)
    values[0, facets.columns.index("color")] = 3
    labels = entities.label(np.array([[9, OTHER, 12], [9, 10, 12]], np.int32), values)
    assert labels.tolist() == [[2, 2, OUTSIDE], [OUTSIDE] * 3]


def test_a_catalogue_without_columns_has_no_labels() -> None:
    tokens = np.array([[RED, BIG]], np.int32)
    facets = Facets.empty(1)
    assert (Entities(facets).label(tokens, facets.values) == UNLABELLED).all()


def test_a_word_is_known_by_its_neighbours() -> None:
    """A word after 20 is a colour, a word after 21 is not, even if the word is new."""
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


def test_unlabelled_words_have_no_loss() -> None:
    labeller, text = Labeller(40, 1), torch.randint(2, 40, (2, 6))
    labels = torch.tensor([[UNLABELLED] * 6, [1, 0, UNLABELLED, 0, 0, UNLABELLED]])
    loss = labeller.loss(text, labels)
    assert loss.shape == (2,)
    assert loss[0] == 0
    logits = labeller(text)[1].log_softmax(1)
    expected = -(logits[0, 1] + logits[[1, 3, 4], 0].sum())
    torch.testing.assert_close(loss[1], expected)


@quick
@given(LABELS)
def test_spans_are_the_runs(labels: list[int]) -> None:
    entities = spans(labels)
    rebuilt = [OUTSIDE] * len(labels)
    for kind, start, end in entities:
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
    ("truth", "predicted", "expected"),
    [
        ([1, 1, 0, 1], [1, 1, 0, 0], 2 / 3),
        ([1, 1, 0, 0], [1, 0, 0, 0], 0),  # it ends too early
        ([1, 0, UNLABELLED, 0], [1, 0, 1, 0], 1),  # the second is unlabelled
        ([1, 0, 0, 0], [1, 0, 1, 0], 2 / 3),
        ([2, 0, 0, 0], [1, 0, 0, 0], 0),
    ],
)
def test_f1(truth: list[int], predicted: list[int], expected: float) -> None:
    assert f1(np.array([truth]), np.array([predicted]), 1) == pytest.approx(expected)
