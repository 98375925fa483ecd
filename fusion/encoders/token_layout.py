"""How a published encoder lays out a text: special tokens, padding, mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusion.encoders.vocabulary import PAD, UNKNOWN


@dataclass(frozen=True)
class TokenLayout:
    """The special tokens and the padding that a published encoder expects; JSON.

    Attributes:
        before: The encoder's token ids before each text.
        after: The encoder's token ids after each text.
        unknown: The encoder's id of an unknown piece.
        padding: The encoder's id of padding.
        length: Each text is padded to so many tokens; None to pad to the longest text of the batch.
        left: Whether padding comes before the text.
        prompts: The encoder's token ids of a prompt before each text, after the ids of `before`; by role, "query" or
            "product".
        masked: Whether the encoder is given a mask of padding; without, it reads padding as in its training.
    """

    before: Sequence[int]
    after: Sequence[int]
    unknown: int
    padding: int
    length: int | None = None
    left: bool = False
    masked: bool = True
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def special_count(self) -> int:
        """Most special tokens of a text, those of a prompt included."""
        return len(self.before) + len(self.after) + max(map(len, self.prompts.values()), default=0)

    def arrange(self, tokens: Tensor, role: str = "product") -> tuple[Tensor, Tensor | None, Tensor]:
        """Turn texts of a `Vocabulary` into the input of the encoder.

        Args:
            tokens: int64 (B, T).
            role: "query" or "product", for the prompt.

        Returns:
            The encoder's token ids, int64 (B, L); its mask, int64 (B, L), None if it reads no mask; and the position of
            each token of the text among them, int64 (B, T), any where the text is shorter.
        """
        before = [*self.before, *self.prompts.get(role, ())]
        first, last, count = len(before), len(self.after), tokens.shape[1]
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        pieces = torch.where(tokens == UNKNOWN, self.unknown, tokens - 2).where(tokens != PAD, self.padding)
        size = self.length or first + count + last
        position = torch.arange(size, device=tokens.device)
        ids = pad(pieces, (first, size - first - count), value=self.padding)
        ids[:, :first] = ids.new_tensor(before)
        ids.scatter_(1, first + lengths + position[:last], ids.new_tensor(self.after).expand(len(ids), -1))
        end = first + lengths + last
        start = (size - end) * self.left
        shifted = ids.gather(1, (position - start) % size)
        mask = ((position >= start) & (position < start + end)).long()
        words = (start + first + position[:count]).clamp(max=size - 1)
        return shifted, mask if self.masked else None, words
