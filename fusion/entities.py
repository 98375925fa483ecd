"""Named entities: brand, colour, material, size and product type, recognised in titles and queries.

Learned from the catalogue's own columns ("distant supervision", Mintz et al., 2009): where a product's text names what
a column states about it, these words are an entity.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from fusion.encoders.vocabulary import PAD
from fusion.facets import Facets

ENDINGS = {  # of the names of the columns that state each
    "brand": ("brand",),
    "color": ("color", "colour"),
    "material": ("material",),
    "size": ("size",),
    "product type": ("category",),
}
OUTSIDE, UNKNOWABLE = 0, -1


class Entities:
    """What the columns tell of the words of a text.

    Args:
        facets: What the columns state.

    Attributes:
        types: Those of `ENDINGS` for which the catalogue has a column, E of them.
    """

    def __init__(self, facets: Facets) -> None:
        stated = {
            column: number
            for number, column in enumerate(facets.columns)
            if len(facets.names[number]) > 1  # the first is no value's
        }
        columns = {
            kind: [number for column, number in stated.items() if column.casefold().endswith(endings)]
            for kind, endings in ENDINGS.items()
        }
        self._columns = {kind: numbers for kind, numbers in columns.items() if numbers}
        self._facets = facets
        names = [facets.names[number].ravel() for numbers in columns.values() for number in numbers]
        self._words = np.unique(np.concatenate([np.array([PAD], np.int32), *names]))
        self.types = tuple(self._columns)

    def label(self, tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Which entity each word is part of, as far as the columns tell.

        Args:
            tokens: int32 (N, T).
            values: int32 (N, F), what is stated of each, as `Facets.values`.

        Returns:
            int64 (N, T): n for the n-th of `types`, counted from 1; `OUTSIDE`; or `UNKNOWABLE` for padding, for a word
            claimed by two types, and for one that values are called by, though not what is stated here: a text may say
            what its columns leave open.
        """
        if not self.types:
            return np.full(tokens.shape, UNKNOWABLE)
        found = np.stack(
            [
                np.any([_named(tokens, self._facets.names[c][values[:, c]]) for c in columns], axis=0)
                for columns in self._columns.values()
            ]
        )
        claims = found.sum(0)
        unclear = (claims > 1) | ((claims == 0) & np.isin(tokens, self._words))
        return np.where(unclear, UNKNOWABLE, np.where(claims == 1, found.argmax(0) + 1, OUTSIDE))


def _named(tokens: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Where in each text its name stands, bool (N, T); of tokens (N, T) and names (N, W), padded."""
    width, lengths = names.shape[1], (names != PAD).sum(1)
    padded = np.pad(tokens, ((0, 0), (0, width - 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    starts = ((windows == names[:, None]) | (names == PAD)[:, None]).all(2) & (lengths > 0)[:, None]
    inside = np.zeros_like(starts)
    for place in range(min(width, tokens.shape[1])):
        inside[:, place:] |= starts[:, : starts.shape[1] - place] & (place < lengths)[:, None]
    return inside


class Labeller(nn.Module):
    """Embedding → two convolutions over the words around each → the kind of entity that it is part of.

    Args:
        vocabulary: Number of token ids.
        types: Number of kinds, E.
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
            Logits, float (B, T, 1 + E), the first of `OUTSIDE`.
        """
        inside = (tokens != PAD)[:, None]  # what is beyond a text's end must not depend on the batch
        states = gelu(self.near(self.embedding(tokens).transpose(1, 2))) * inside
        return self.far(states).transpose(1, 2)

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each text's words, summed over those whose label is known: float (B,).

        Args:
            tokens: int64 (B, T).
            labels: int64 (B, T), as `Entities.label` returns them.
        """
        logits = self(tokens).transpose(1, 2)
        return cross_entropy(logits, labels, ignore_index=UNKNOWABLE, reduction="none").sum(1)


def spans(labels: Sequence[int]) -> set[tuple[int, int, int]]:
    """Entities of a text: (kind, first word, word after the last) of each run of words of one kind."""
    edges = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    runs = pairwise(edges)
    return {(labels[start], start, end) for start, end in runs if end > start and labels[start] > OUTSIDE}


def f1(truth: np.ndarray, found: np.ndarray, kind: int) -> float:
    """F1 of one kind of entity, each right if it begins and ends right. What touches an unknowable word is left out.

    Args:
        truth: int (N, T), as `Entities.label` returns it.
        found: int (N, T), likewise.
        kind: From 1.

    Returns:
        From 0 to 1; nan where there is none to find, and none was found.
    """
    hits = wanted = given = 0
    for told, said in zip(truth.tolist(), found.tolist(), strict=True):
        sure = {span for span in spans(told) if span[0] == kind}
        seen = {
            (what, start, end)
            for what, start, end in spans(said)
            if what == kind and UNKNOWABLE not in told[start:end]
        }
        hits, wanted, given = hits + len(sure & seen), wanted + len(sure), given + len(seen)
    return 2 * hits / (wanted + given) if wanted + given else float("nan")
