"""How the modalities of a product, or of a composed query, meet. One class with one decorator each."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion.plugin_registry import Registry

HEADS = 4


class Parts(NamedTuple):
    """What the encoders say of B items, modality by modality, before they meet.

    Attributes:
        pooled: float (B, M, dim), one vector a modality, of root mean square 1.
        present: bool (B, M); what is False has no influence.
        states: For each modality float (B, S, dim // 2), of its words or regions; none where no fusion attends to them.
        inside: For each modality bool (B, S), False where a state is padding.
    """

    pooled: Tensor
    present: Tensor
    states: tuple[Tensor, ...] = ()
    inside: tuple[Tensor, ...] = ()

    def only(self, seen: Tensor) -> "Parts":
        """Without the modalities where `seen`, bool (M,) or (B, M), is False."""
        return self._replace(present=self.present & seen)

    def rows(self, index: Tensor) -> "Parts":
        """The items at `index`."""
        return Parts(
            self.pooled[index],
            self.present[index],
            tuple(states[index] for states in self.states),
            tuple(inside[index] for inside in self.inside),
        )

    def together(self) -> tuple[Tensor, Tensor, Tensor]:
        """The states of all modalities in a row.

        Returns:
            States (B, S, dim // 2), zero where not there; the modality of each, int64 (S,); which are there, (B, S).
        """
        sizes = torch.tensor([states.shape[1] for states in self.states], device=self.present.device)
        owner = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        visible = torch.cat(self.inside, 1) & self.present[:, owner]
        return torch.where(visible[..., None], torch.cat(self.states, 1), 0.0), owner, visible


class Fusion(nn.Module):
    """What the classes below have in common.

    Args:
        modalities: Number of modalities, M.
        dim: Width of each, and of the result.
        hidden: Width in between.
        dropout: Share of hidden units dropped in training.
    """

    attends = False  # whether `forward` reads `Parts.states`

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()

    def forward(self, parts: Parts) -> Tensor:
        """Fuse: B items to float (B, dim)."""
        raise NotImplementedError


FUSIONS: Registry[type[Fusion]] = Registry("fusion")


class _Absent(nn.Module):
    """Puts a learned vector where a modality is missing, so that zero never means anything."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(0.02 * torch.randn(modalities, dim))

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        return torch.where(present[..., None], parts, self.vectors)


def _sum(gates: Tensor, values: Tensor, present: Tensor) -> Tensor:
    """The modalities that are there, each feature times the sigmoid of its gate: (B, M, dim) to (B, dim)."""
    return (gates.view_as(values).sigmoid() * values * present[..., None]).sum(1)


def _gate(modalities: int, dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """From all modalities side by side to a weight for each feature of each, before its sigmoid."""
    return nn.Sequential(
        nn.Linear(modalities * dim, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, modalities * dim),
    )


@FUSIONS("concat")
class Concat(Fusion):
    """All modalities side by side → linear → ReLU → dropout → linear, plus the modalities themselves, gated.

    The sum lets a feature seen in one modality alone through unchanged, whatever the others; the gates, made of the
    same hidden units, close it where another modality overrules it ("the same in black").
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.absent = _Absent(modalities, dim)
        self.hidden = nn.Sequential(nn.Linear(modalities * dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.mix, self.gate = nn.Linear(hidden, dim), nn.Linear(hidden, modalities * dim)

    def forward(self, parts: Parts) -> Tensor:
        filled = self.absent(parts.pooled, parts.present)
        hidden = self.hidden(filled.flatten(1))
        return self.mix(hidden) + _sum(self.gate(hidden), filled, parts.present)


@FUSIONS("gated")
class Gated(Fusion):
    """Each modality through a layer of its own, then a weighted sum; every weight depends on all modalities.

    The multimodal form of Arevalo et al., 2017, "Gated Multimodal Units": one sigmoid for each modality, so that what
    one of them alone tells is not thinned by the others.
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.absent = _Absent(modalities, dim)
        self.transform = nn.ModuleList(nn.Linear(dim, dim) for _ in range(modalities))
        self.gate = _gate(modalities, dim, hidden, dropout)

    def forward(self, parts: Parts) -> Tensor:
        filled = self.absent(parts.pooled, parts.present)
        changes = torch.stack([layer(filled[:, i]) for i, layer in enumerate(self.transform)], 1)
        return _sum(self.gate(filled.flatten(1)), filled + changes, parts.present)


class _Look(nn.Module):
    """Attention of several heads to states, or to nothing: where none is visible, zeros are found.

    The states are keys and values as they are, since the layer that narrowed them is linear and trained for this alone;
    projected once more, as in Vaswani et al., 2017, they would take most of a step's time.

    Args:
        query: Width of what looks.
        states: Of the states, W.
    """

    def __init__(self, query: int, states: int) -> None:
        super().__init__()
        self.ask = nn.Linear(query, states)

    def forward(self, queries: Tensor, states: Tensor, visible: Tensor) -> Tensor:
        """What Q queries find among S states: float (B, Q, W).

        Args:
            queries: float (B, Q, query).
            states: float (B, S, W).
            visible: bool (B, Q or 1, S).
        """
        keys = _split(nn.functional.pad(states, (0, 0, 0, 1)))
        mask = nn.functional.pad(visible, (0, 1), value=True)[:, None]
        found = nn.functional.scaled_dot_product_attention(_split(self.ask(queries)), keys, keys, mask)
        return found.transpose(1, 2).flatten(2)


def _split(states: Tensor) -> Tensor:
    """(B, S, W) to (B, HEADS, S, W / HEADS)."""
    return states.unflatten(2, (HEADS, -1)).transpose(1, 2)


@FUSIONS("attention")
class Attention(Fusion):
    """Each modality's vector looks for what it needs among the words and regions of all; then a gated sum.

    Cross-attention pooling: the vectors are the queries, the states keys and values (Vaswani et al., 2017).
    """

    attends = True

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.absent = _Absent(modalities, dim)
        self.look, self.widen = _Look(dim, dim // 2), nn.Linear(dim // 2, dim)
        self.gate = _gate(modalities, dim, hidden, dropout)

    def forward(self, parts: Parts) -> Tensor:
        filled = self.absent(parts.pooled, parts.present)
        states, _, visible = parts.together()
        values = filled + self.widen(self.look(filled, states, visible[:, None]))
        return _sum(self.gate(values.flatten(1)), values, parts.present)


@FUSIONS("coattention")
class CoAttention(Fusion):
    """Words look at regions and regions at words; what they find is averaged, added to each modality, then a gated sum.

    The parallel co-attention of Lu et al., 2016, with the scaled products of Lu et al., 2019 (ViLBERT) for its scores.
    """

    attends = True

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.absent = _Absent(modalities, dim)
        self.look, self.widen = _Look(dim // 2, dim // 2), nn.Linear(dim // 2, dim)
        self.gate = _gate(modalities, dim, hidden, dropout)

    def forward(self, parts: Parts) -> Tensor:
        states, owner, visible = parts.together()
        found = self.look(states, states, visible[:, None] & (owner[:, None] != owner))
        belongs = nn.functional.one_hot(owner, parts.pooled.shape[1]) * visible[..., None]
        mean = torch.einsum("bsm,bsd->bmd", belongs.to(found.dtype), found)
        mean = mean / belongs.sum(1).clamp(min=1)[..., None]
        filled = self.absent(parts.pooled, parts.present)
        values = filled + self.widen(mean)
        return _sum(self.gate(values.flatten(1)), values, parts.present)
