"""Text encoders, registered with a decorator."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catalog.schema import DataError
from fusion.encoders import hub
from fusion.encoders.families import FAMILIES, TEXT_FAMILIES
from fusion.encoders.families.base import TextTower
from fusion.encoders.token_layout import TokenLayout
from fusion.encoders.vocabulary import FIRST, PAD, Vocabulary
from fusion.plugin_registry import PluginRegistry


class TextEncoder(nn.Module):
    """Base class of all text encoders.

    Args:
        vocabulary: Number of token ids, padding and unknown included.
        dim: Width of the output.
        entity_types: Number of types of entity that a token may be part of, E.
        settings: Further settings of the encoder, as JSON.

    Attributes:
        width: Width of the states of tokens, W.
    """

    width: int

    def __init__(self, vocabulary: int, dim: int, entity_types: int, **settings: Any) -> None:
        super().__init__()

    @property
    def trunks(self) -> list[nn.Module]:
        """The published part: no module or one."""
        return []

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Load published weights; does nothing without a published part."""

    def forward(self, tokens: Tensor, entities: Tensor, role: str = "product") -> tuple[Tensor, Tensor]:
        """Encode padded texts.

        Args:
            tokens: int64 of shape (B, T); rows without a token give meaningless vectors, to be masked.
            entities: float of shape (B, T, E), the probability that each token is part of each type of entity.
            role: "query" or "product"; published encoders may have a prompt for each.

        Returns:
            float of shape (B, dim), and the state of each token, float of shape (B, T, W).
        """
        raise NotImplementedError


TEXT_WEIGHTS = "text_encoder.safetensors"  # of a published text encoder
EMBEDDING_SCALE = 0.1  # standard deviation of the initial embeddings

ENCODERS: PluginRegistry[type[TextEncoder]] = PluginRegistry("text encoder")


def encoders_without_weights() -> list[str]:
    """The names of `ENCODERS` that are trained from random weights, so they need no path."""
    return [name for name, encoder in ENCODERS.entries.items() if encoder is not Transformer]


@ENCODERS("bilstm")
class BiLSTM(TextEncoder):
    """Embedding → LSTM in both directions → mean and maximum over the tokens → linear.

    The two directions are two plain LSTMs, the second over each text's words in reverse order. The states equal those
    of a packed bidirectional LSTM, in a third of the time on a CPU: its fused kernel does not support packed sequences.
    Each LSTM has a quarter of the output's width.
    """

    def __init__(self, vocabulary: int, dim: int, entity_types: int) -> None:
        super().__init__(vocabulary, dim, entity_types)
        self.width = 2 * (dim // 4)
        self.embedding = nn.Embedding(vocabulary, dim // 2, padding_idx=PAD)
        with torch.no_grad():  # small, so that pieces which training seldom sees disturb a text little
            self.embedding.weight.mul_(EMBEDDING_SCALE)
        self.entity_embeddings = nn.Parameter(torch.zeros(entity_types, dim // 2))  # no effect at first
        self.forwards = nn.LSTM(dim // 2, dim // 4, batch_first=True)
        self.backwards = nn.LSTM(dim // 2, dim // 4, batch_first=True)
        self.project = nn.Linear(2 * self.width + dim // 2, dim)

    def forward(self, tokens: Tensor, entities: Tensor, role: str = "product") -> tuple[Tensor, Tensor]:
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        position = torch.arange(tokens.shape[1], device=tokens.device)
        mask = (position < lengths)[..., None]
        reverse = torch.where(position < lengths, lengths - 1 - position, position)
        embedded = self.embedding(tokens) + entities @ self.entity_embeddings
        with torch.autocast("cpu", enabled=False):  # not every CPU has a kernel for an LSTM in bfloat16
            forward_states = self.forwards(embedded)[0]
            backward_states = _reorder(self.backwards(_reorder(embedded, reverse))[0], reverse)
        states = torch.cat([forward_states, backward_states], 2)
        mean = (states * mask).sum(1) / lengths
        maximum = states.masked_fill(~mask, -torch.inf).amax(1)
        mean_embedding = (embedded * mask).sum(1) / lengths
        return self.project(torch.cat([mean, maximum, mean_embedding], 1)), states


@ENCODERS("transformer")
class Transformer(TextEncoder):
    """A published encoder → linear. The probabilities of entities are concatenated to the encoder's states.

    Args:
        vocabulary: Unused: the encoder's vocabulary is part of `config`.
        dim: Width of the output.
        entity_types: See `TextEncoder`.
        family: A name of `FAMILIES`.
        config: See `fusion.encoders.families.base.TextTower`.
        layout: The fields of a `TokenLayout`.
        widths: Of the encoder's text vectors, P, and of its states, H.
        model: See `fusion.encoders.families.base.TextTower`.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        entity_types: int,
        *,
        family: str,
        config: dict[str, Any],
        layout: dict[str, Any],
        widths: Sequence[int],
        model: str,
    ) -> None:
        super().__init__(vocabulary, dim, entity_types)
        self.layout, self.model = TokenLayout(**layout), model
        self.trunk = FAMILIES[family].build_text(config)
        pooled, self.width = (width + entity_types for width in widths)
        self.project = nn.Linear(pooled, dim)

    @property
    def trunks(self) -> list[nn.Module]:
        return [self.trunk]

    def load_published(self, state: dict[str, Tensor]) -> None:
        self.trunk.load_state_dict(state)

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder uses no dropout."""
        super().train(mode)
        self.trunk.train(mode and any(weight.requires_grad for weight in self.trunk.parameters()))
        return self

    def forward(self, tokens: Tensor, entities: Tensor, role: str = "product") -> tuple[Tensor, Tensor]:
        lengths = (tokens != PAD).sum(1).clamp(min=1)[:, None]
        pooled, states = self.encode(tokens, role)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths
        mean = (entities * mask[..., None]).sum(1) / lengths
        return self.project(torch.cat([pooled, mean], 1)), torch.cat([states, entities], 2)

    def encode(self, tokens: Tensor, role: str = "product") -> tuple[Tensor, Tensor]:
        """Encode texts with the published encoder only.

        Args:
            tokens: int64 (B, T).
            role: See `TextEncoder.forward`.

        Returns:
            Text vectors as its library computes them, float (B, P), and the states of the tokens, float (B, T, H).
        """
        ids, mask, words = self.layout.arrange(tokens, role)
        pooled, states = self.trunk(ids, mask)
        return pooled, states.gather(1, words[..., None].expand(-1, -1, states.shape[2]))


@dataclass(frozen=True)
class TextEncoderInit:
    """The initial state of a text encoder before training.

    Attributes:
        encoder: A name of `ENCODERS`.
        settings: Settings that only this encoder has; JSON.
        state: Published weights; empty if there are none.
        vocabulary: The encoder's vocabulary; None to learn it from the training texts.
        prompts: See `fusion.encoders.families.base.TextTower`; not saved here, but with the featurizer.
    """

    encoder: str
    settings: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_name(cls, name: str, max_tokens: int) -> Self:
        """Look up a name: one of `encoders_without_weights`, or one of `TEXT_FAMILIES` with a path, as "auto:PATH".

        Raises:
            DataError: if the name is unknown, or the weights cannot be loaded; it says how to get them.
        """
        without_weights = encoders_without_weights()
        if name in without_weights:
            return cls(name)
        kind, _, path = name.partition(":")
        if kind not in TEXT_FAMILIES:
            known = ", ".join((*TEXT_FAMILIES, *without_weights))
            raise DataError(f"featurize.text_encoder: unknown text encoder '{kind}'; known are {known}")
        files = FAMILIES[kind].text_files
        with hub.explain_load_errors(
            "featurize.text_encoder", path or kind, ", ".join(files), f"text_encoder: {kind}:FOLDER"
        ):
            hub.require_files(path, files)
            return cls._from_tower(kind, FAMILIES[kind].load_text(path), max_tokens)

    @classmethod
    def _from_tower(cls, kind: str, tower: TextTower, max_tokens: int) -> Self:
        longest = tower.longest - tower.layout.special_count
        if max_tokens > longest:
            raise ValueError(f"it reads {longest} tokens at most; set featurize.max_tokens to that or less")
        ids, mask, _ = tower.layout.arrange(torch.full((1, 1), FIRST))
        with torch.inference_mode():
            pooled, states = tower.network(ids, mask)
        settings = {
            "family": kind,
            "config": tower.config,
            "layout": asdict(tower.layout),
            "widths": [pooled.shape[1], states.shape[2]],
            "model": tower.model,
        }
        state, vocabulary = tower.network.state_dict(), Vocabulary(tower.tokenizer)
        return cls("transformer", settings, state, vocabulary, dict(tower.prompts))

    def save(self, folder: Path) -> None:
        """Write text_encoder.json and `TEXT_WEIGHTS`, without the vocabulary."""
        content = {"encoder": self.encoder, "settings": self.settings}
        (folder / "text_encoder.json").write_text(json.dumps(content, indent=2) + "\n")
        state = {name: value.contiguous() for name, value in self.state.items()}
        save_file(state, folder / TEXT_WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`."""
        content = json.loads((folder / "text_encoder.json").read_text())
        return cls(**content, state=load_file(folder / TEXT_WEIGHTS))


def _reorder(states: Tensor, order: Tensor) -> Tensor:
    """Reorder states (B, T, D) along T by the indices (B, T)."""
    return states.gather(1, order[..., None].expand(-1, -1, states.shape[2]))
