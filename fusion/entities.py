"""Named entities: brand, colour, material, size and product type, recognised in titles and queries.

The labels come from the catalogue's columns ("distant supervision", Mintz et al., 2009): where a product's text
contains the value of a column, these words are an entity.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from fusion.encoders.vocabulary import NO_TOKENS, PAD, word_ends, word_starts
from fusion.facets import Facets

ENDINGS = {  # for each type, how the names of its columns end
    "brand": ("brand",),
    "color": ("color", "colour"),
    "material": ("material",),
    "size": ("size",),
    "product type": ("category",),
}
OUTSIDE, UNLABELLED = 0, -1


class Entities:
    """Labels the words of product texts with the values of the products' columns.

    Args:
        facets: The values of the columns.
        continuations: As `fusion.encoders.vocabulary.Vocabulary.continuations`.

    Attributes:
        types: The types of `ENDINGS` for which the catalogue has a column, E of them.
    """

    def __init__(self, facets: Facets, continuations: np.ndarray = NO_TOKENS) -> None:
        columns = {
            column: number
            for number, column in enumerate(facets.columns)
            if len(facets.names[number]) > 1  # row 0 stands for "no value"
        }
        type_columns = {
            entity_type: [number for column, number in columns.items() if column.casefold().endswith(endings)]
            for entity_type, endings in ENDINGS.items()
        }
        self._columns = {name: numbers for name, numbers in type_columns.items() if numbers}
        self._facets = facets
        self._continuations = continuations
        names = [facets.names[number] for numbers in type_columns.values() for number in numbers]
        words = [name[word_starts(name, continuations) & word_ends(name, continuations)] for name in names]
        self._words = np.unique(np.concatenate([np.array([PAD], np.int32), *words]))
        self.types = tuple(self._columns)

    def label(self, tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Label each word with the type of its entity.

        Args:
            tokens: int32 (N, T).
            values: int32 (N, F), the values of each product's columns, as `Facets.values`.

        Returns:
            int64 (N, T): n for the n-th of `types`, counted from 1; `OUTSIDE`; or `UNLABELLED`. Unlabelled are padding,
            words that match two types, and words of another product's values: a text may mention a value that the
            product's own columns leave empty. Such words of several pieces are `OUTSIDE`.
        """
        if not self.types:
            return np.full(tokens.shape, UNLABELLED)
        ends = word_ends(tokens, self._continuations)
        matches = np.stack(
            [
                np.any(
                    [_locate_names(tokens, self._facets.names[c][values[:, c]], ends) for c in columns],
                    axis=0,
                )
                for columns in self._columns.values()
            ]
        )
        claims = matches.sum(0)
        unclear = (claims > 1) | ((claims == 0) & np.isin(tokens, self._words))
        return np.where(unclear, UNLABELLED, np.where(claims == 1, matches.argmax(0) + 1, OUTSIDE))


def _locate_names(tokens: np.ndarray, names: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where each text contains its name as whole words.

    Args:
        tokens: int32 (N, T).
        names: int32 (N, W), padded.
        ends: bool (N, T), where a word of the text ends.

    Returns:
        bool (N, T).
    """
    width, lengths = names.shape[1], (names != PAD).sum(1)
    padded = np.pad(tokens, ((0, 0), (0, width - 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    starts = ((windows == names[:, None]) | (names == PAD)[:, None]).all(2) & (lengths > 0)[:, None]
    last = np.arange(tokens.shape[1]) + lengths[:, None] - 1
    starts &= np.take_along_axis(ends, last.clip(0, tokens.shape[1] - 1), 1)
    inside = np.zeros_like(starts)
    for offset in range(min(width, tokens.shape[1])):
        inside[:, offset:] |= starts[:, : starts.shape[1] - offset] & (offset < lengths)[:, None]
    return inside


class Labeller(nn.Module):
    """Embedding → two convolutions over neighbouring words → the type of entity of each word.

    Args:
        vocabulary: Number of token ids.
        types: Number of types, E.
    """

    WIDTH, REACH = 64, 5

    def __init__(self, vocabulary: int, types: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, self.WIDTH, padding_idx=PAD)
        self.near = nn.Conv1d(self.WIDTH, self.WIDTH, self.REACH, padding="same")
        self.far = nn.Conv1d(self.WIDTH, 1 + types, self.REACH, padding="same")

    def forward(self, tokens: Tensor) -> Tensor:
        """Label padded texts.

        Args:
            tokens: int64 (B, T).

        Returns:
            Logits, float (B, T, 1 + E); the first is of `OUTSIDE`.
        """
        mask = (tokens != PAD)[:, None]  # so that the states after a text's end do not depend on the batch
        states = gelu(self.near(self.embedding(tokens).transpose(1, 2))) * mask
        return self.far(states).transpose(1, 2)

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each text, summed over its labelled words: float (B,).

        Args:
            tokens: int64 (B, T).
            labels: int64 (B, T), as `Entities.label` returns them.
        """
        logits = self(tokens).transpose(1, 2)
        return cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none").sum(1)


def spans(labels: Sequence[int]) -> set[tuple[int, int, int]]:
    """Entities of a text: (type, first word, word after the last) of each run of words with one label."""
    edges = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    runs = pairwise(edges)
    return {(labels[start], start, end) for start, end in runs if end > start and labels[start] > OUTSIDE}


def f1(truth: np.ndarray, predicted: np.ndarray, entity_type: int) -> float:
    """F1 of one type of entity, correct if start and end are. Ignores predictions with an unlabelled word.

    Args:
        truth: int (N, T), as `Entities.label` returns it.
        predicted: int (N, T), likewise.
        entity_type: Its number, from 1.

    Returns:
        From 0 to 1; nan if there is no such entity in either.
    """
    correct_count = true_count = predicted_count = 0
    for true_labels, predicted_labels in zip(truth.tolist(), predicted.tolist(), strict=True):
        true_spans = {span for span in spans(true_labels) if span[0] == entity_type}
        predicted_spans = {
            (label, start, end)
            for label, start, end in spans(predicted_labels)
            if label == entity_type and UNLABELLED not in true_labels[start:end]
        }
        correct_count += len(true_spans & predicted_spans)
        true_count += len(true_spans)
        predicted_count += len(predicted_spans)
    total_count = true_count + predicted_count
    return 2 * correct_count / total_count if total_count else float("nan")
