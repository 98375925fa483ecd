"""Text: words, vocabulary, and the encoders that read them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from fusion.registry import Registry

PAD, UNKNOWN = 0, 1
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, case folded."""
    return _WORD.findall(text.casefold())


class Vocabulary:
    """Words and their ids: 0 is padding, 1 any unknown word, the rest by falling frequency.

    Args:
        known: Words in order of id, from 2 on.
    """

    def __init__(self, known: list[str]) -> None:
        self.known = known
        self.ids = {word: i for i, word in enumerate(known, start=2)}

    def __len__(self) -> int:
        return len(self.known) + 2

    @classmethod
    def build(cls, texts: Iterable[str], size: int, min_count: int) -> Self:
        """The `size` most frequent words that occur at least `min_count` times; ties in order of the alphabet."""
        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, count in ranked[:size] if count >= min_count])

    def encode(self, texts: Iterable[str], length: int) -> np.ndarray:
        """Token ids of each text, cut or padded to `length`.

        Returns:
            int32 array of shape (texts, length); a row of zeros is a text without words.
        """
        rows = [[self.ids.get(word, UNKNOWN) for word in words(text)[:length]] for text in texts]
        out = np.full((len(rows), length), PAD, np.int32)
        for row, tokens in zip(out, rows, strict=True):
            row[: len(tokens)] = tokens
        return out

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.known, ensure_ascii=False, indent=0))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(json.loads(path.read_text()))


class TextEncoder(nn.Module):
    """What text encoders have in common.

    Args:
        vocabulary: Number of token ids, padding and unknown included.
        dim: Width of the output.

    Attributes:
        width: Of the states of single words, W.
    """

    width: int

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode padded texts.

        Args:
            tokens: int64 of shape (B, T); rows without a word give meaningless vectors, to be masked.

        Returns:
            float of shape (B, dim), and the state of each word, float of shape (B, longest text's words, W).
        """
        raise NotImplementedError


ENCODERS: Registry[type[TextEncoder]] = Registry("text encoder")


@ENCODERS("bilstm")
class BiLSTM(TextEncoder):
    """Embedding → LSTM in both directions → mean and maximum over the words → linear.

    The two directions are two plain LSTMs, the second over each text's own words reversed: the states that a packed
    bidirectional LSTM has, at a third of its time on a CPU, whose fused kernel takes no packed sequences. Each has a
    quarter of the output's width.
    """

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__(vocabulary, dim)
        self.width = 2 * (dim // 4)
        self.embedding = nn.Embedding(vocabulary, dim // 2, padding_idx=PAD)
        self.forwards = nn.LSTM(dim // 2, dim // 4, batch_first=True)
        self.backwards = nn.LSTM(dim // 2, dim // 4, batch_first=True)
        self.project = nn.Linear(2 * self.width + dim // 2, dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        tokens = tokens[:, : int(lengths.max())]
        position = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (position < lengths)[..., None]
        turned = torch.where(position < lengths, lengths - 1 - position, position)
        embedded = self.embedding(tokens)
        states = torch.cat(
            [self.forwards(embedded)[0], _reorder(self.backwards(_reorder(embedded, turned))[0], turned)], 2
        )
        mean = (states * inside).sum(1) / lengths
        peak = states.masked_fill(~inside, -torch.inf).amax(1)
        bag = (embedded * inside).sum(1) / lengths
        return self.project(torch.cat([mean, peak, bag], 1)), states


def _reorder(states: Tensor, order: Tensor) -> Tensor:
    """(B, T, D) along T, by (B, T)."""
    return states.gather(1, order[..., None].expand(-1, -1, states.shape[2]))
