"""Fusions: how the modalities of a product or a composed query become one vector.

Each is a class with the decorator `FUSIONS`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion.plugin_registry import PluginRegistry

HEADS = 4


class ModalityFeatures(NamedTuple):
    """The encoders' output for B items, modality by modality, before fusion.

    Attributes:
        pooled: float (B, M, dim), one vector a modality, of root mean square 1.
        present: bool (B, M); a modality where it is False has no influence.
        states: For each modality float (B, S, dim // 2), of its words or regions; empty if no fusion attends to them.
        state_masks: For each modality bool (B, S), False where a state is padding.
    """

    pooled: Tensor
    present: Tensor
    states: tuple[Tensor, ...] = ()
    state_masks: tuple[Tensor, ...] = ()

    def restrict(self, visible: Tensor) -> "ModalityFeatures":
        """Without the modalities where `visible`, bool (M,) or (B, M), is False."""
        return self._replace(present=self.present & visible)

    def select(self, rows: Tensor) -> "ModalityFeatures":
        """The items at `rows`."""
        return ModalityFeatures(
            self.pooled[rows],
            self.present[rows],
            tuple(states[rows] for states in self.states),
            tuple(mask[rows] for mask in self.state_masks),
        )

    def concatenate_states(self) -> tuple[Tensor, Tensor, Tensor]:
        """The states of all modalities, one after the other.

        Returns:
            States (B, S, dim // 2), zero where absent; the modality of each, int64 (S,); which are present, (B, S).
        """
        sizes = torch.tensor([states.shape[1] for states in self.states], device=self.present.device)
        modality = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        visible = torch.cat(self.state_masks, 1) & self.present[:, modality]
        return torch.where(visible[..., None], torch.cat(self.states, 1), 0.0), modality, visible


class Fusion(nn.Module):
    """Base class of all fusions.

    Args:
        modalities: Number of modalities, M.
        dim: Width of each modality, and of the result.
        hidden: Width of the hidden layer.
        dropout: Share of hidden units dropped in training.
    """

    attends = False  # whether `forward` reads `ModalityFeatures.states`

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()

    def forward(self, features: ModalityFeatures) -> Tensor:
        """Fuse: B items to float (B, dim)."""
        raise NotImplementedError


FUSIONS: PluginRegistry[type[Fusion]] = PluginRegistry("fusion")


class _Imputer(nn.Module):
    """Puts a learned vector where a modality is missing, so that zero has no meaning of its own."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(0.02 * torch.randn(modalities, dim))

    def forward(self, pooled: Tensor, present: Tensor) -> Tensor:
        return torch.where(present[..., None], pooled, self.vectors)


def _gated_sum(gates: Tensor, values: Tensor, present: Tensor) -> Tensor:
    """Sum of the present modalities, each feature times the sigmoid of its gate: (B, M, dim) to (B, dim)."""
    return (gates.view_as(values).sigmoid() * values * present[..., None]).sum(1)


def _gate_network(modalities: int, dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """From all modalities, concatenated, to a weight for each feature of each modality, before its sigmoid."""
    return nn.Sequential(
        nn.Linear(modalities * dim, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, modalities * dim),
    )


@FUSIONS("concat")
class Concat(Fusion):
    """Concatenated modalities → linear → ReLU → dropout → linear, plus a gated sum of the modalities.

    The sum passes a feature of a single modality through unchanged. The gates, computed from the same hidden units,
    close it where another modality overrules it ("the same in black").
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.imputer = _Imputer(modalities, dim)
        self.hidden = nn.Sequential(nn.Linear(modalities * dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.mix, self.gate = nn.Linear(hidden, dim), nn.Linear(hidden, modalities * dim)

    def forward(self, features: ModalityFeatures) -> Tensor:
        filled = self.imputer(features.pooled, features.present)
        hidden = self.hidden(filled.flatten(1))
        return self.mix(hidden) + _gated_sum(self.gate(hidden), filled, features.present)


@FUSIONS("gated")
class Gated(Fusion):
    """A linear layer for each modality, then a weighted sum; every weight depends on all modalities.

    The multimodal form of Arevalo et al., 2017, "Gated Multimodal Units". Each modality has a sigmoid gate of its own,
    so the gates need not sum to 1.
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.imputer = _Imputer(modalities, dim)
        self.transform = nn.ModuleList(nn.Linear(dim, dim) for _ in range(modalities))
        self.gate = _gate_network(modalities, dim, hidden, dropout)

    def forward(self, features: ModalityFeatures) -> Tensor:
        filled = self.imputer(features.pooled, features.present)
        changes = torch.stack([layer(filled[:, i]) for i, layer in enumerate(self.transform)], 1)
        return _gated_sum(self.gate(filled.flatten(1)), filled + changes, features.present)


class CrossAttention(nn.Module):
    """Multi-head attention of queries to states. Where no state is visible, the result is zero.

    The states are used as keys and values directly: the linear layer that narrowed them is trained only for this.
    Another projection, as in Vaswani et al., 2017, would take most of a step's time.

    Args:
        query_width: Width of the queries.
        state_width: Width of the states, W.
    """

    def __init__(self, query_width: int, state_width: int) -> None:
        super().__init__()
        self.query_projection = nn.Linear(query_width, state_width)

    def forward(self, queries: Tensor, states: Tensor, visible: Tensor) -> Tensor:
        """Attend from Q queries to S states: float (B, Q, W).

        Args:
            queries: float (B, Q, query_width).
            states: float (B, S, W).
            visible: bool (B, Q or 1, S).
        """
        keys = _split_heads(nn.functional.pad(states, (0, 0, 0, 1)))
        mask = nn.functional.pad(visible, (0, 1), value=True)[:, None]
        heads = _split_heads(self.query_projection(queries))
        attended = nn.functional.scaled_dot_product_attention(heads, keys, keys, mask)
        return attended.transpose(1, 2).flatten(2)


def _split_heads(states: Tensor) -> Tensor:
    """(B, S, W) to (B, HEADS, S, W / HEADS)."""
    return states.unflatten(2, (HEADS, -1)).transpose(1, 2)


@FUSIONS("attention")
class Attention(Fusion):
    """Each modality's vector attends to the words and regions of all modalities; then a gated sum.

    Cross-attention pooling: the vectors are the queries, the states keys and values (Vaswani et al., 2017).
    """

    attends = True

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.imputer = _Imputer(modalities, dim)
        self.cross_attention, self.expand = CrossAttention(dim, dim // 2), nn.Linear(dim // 2, dim)
        self.gate = _gate_network(modalities, dim, hidden, dropout)

    def forward(self, features: ModalityFeatures) -> Tensor:
        filled = self.imputer(features.pooled, features.present)
        states, _, visible = features.concatenate_states()
        values = filled + self.expand(self.cross_attention(filled, states, visible[:, None]))
        return _gated_sum(self.gate(values.flatten(1)), values, features.present)


@FUSIONS("coattention")
class CoAttention(Fusion):
    """Words attend to regions and regions to words; each modality's mean is added to its vector; then a gated sum.

    The parallel co-attention of Lu et al., 2016, with the scaled products of Lu et al., 2019 (ViLBERT) for its scores.
    """

    attends = True

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.imputer = _Imputer(modalities, dim)
        self.cross_attention, self.expand = CrossAttention(dim // 2, dim // 2), nn.Linear(dim // 2, dim)
        self.gate = _gate_network(modalities, dim, hidden, dropout)

    def forward(self, features: ModalityFeatures) -> Tensor:
        states, modality, visible = features.concatenate_states()
        other_modalities = visible[:, None] & (modality[:, None] != modality)
        attended = self.cross_attention(states, states, other_modalities)
        belongs = nn.functional.one_hot(modality, features.pooled.shape[1]) * visible[..., None]
        mean = torch.einsum("bsm,bsd->bmd", belongs.to(attended.dtype), attended)
        mean = mean / belongs.sum(1).clamp(min=1)[..., None]
        filled = self.imputer(features.pooled, features.present)
        values = filled + self.expand(mean)
        return _gated_sum(self.gate(values.flatten(1)), values, features.present)
