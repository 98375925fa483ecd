"""How the modalities of a product, or of a composed query, meet. One class with one decorator each."""

import torch
from torch import Tensor, nn

from fusion.registry import Registry

FUSIONS: Registry[type[nn.Module]] = Registry("fusion")


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


@FUSIONS("concat")
class Concat(nn.Module):
    """All modalities side by side → linear → ReLU → dropout → linear, plus the modalities themselves, gated.

    The sum lets a feature seen in one modality alone through unchanged, whatever the others; the gates, made of the
    same hidden units, close it where another modality overrules it ("the same in black").

    Args:
        modalities: Number of modalities, M.
        dim: Width of each, and of the result.
        hidden: Width in between.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.absent = _Absent(modalities, dim)
        self.hidden = nn.Sequential(nn.Linear(modalities * dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.mix, self.gate = nn.Linear(hidden, dim), nn.Linear(hidden, modalities * dim)

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        """Fuse.

        Args:
            parts: float of shape (B, M, dim).
            present: bool of shape (B, M); what is False has no influence.

        Returns:
            float of shape (B, dim).
        """
        filled = self.absent(parts, present)
        hidden = self.hidden(filled.flatten(1))
        return self.mix(hidden) + _sum(self.gate(hidden), filled, present)


@FUSIONS("gated")
class Gated(nn.Module):
    """A weighted sum of the modalities; a gate that sees all of them sets each feature's weight, 0 to 1.

    The multimodal form of Arevalo et al., 2017, "Gated Multimodal Units": one sigmoid for each modality, so that what
    one of them alone tells is not thinned by the others. Arguments and shapes as for `Concat`.
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.absent = _Absent(modalities, dim)
        self.transform = nn.ModuleList(nn.Linear(dim, dim) for _ in range(modalities))
        self.gate = nn.Sequential(
            nn.Linear(modalities * dim, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, modalities * dim),
        )

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        filled = self.absent(parts, present)
        changes = torch.stack([layer(filled[:, i]) for i, layer in enumerate(self.transform)], 1)
        return _sum(self.gate(filled.flatten(1)), filled + changes, present)
