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


@FUSIONS("concat")
class Concat(nn.Module):
    """All modalities side by side → linear → ReLU → dropout → linear.

    Args:
        modalities: Number of modalities, M.
        dim: Width of each, and of the result.
        hidden: Width in between.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.absent = _Absent(modalities, dim)
        self.mix = nn.Sequential(
            nn.Linear(modalities * dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        """Fuse.

        Args:
            parts: float of shape (B, M, dim).
            present: bool of shape (B, M); what is False has no influence.

        Returns:
            float of shape (B, dim).
        """
        return self.mix(self.absent(parts, present).flatten(1))


@FUSIONS("gated")
class Gated(nn.Module):
    """A weighted sum of the modalities; a gate that sees all of them sets each feature's weights.

    Per feature, the weights of the modalities that are present sum to one (Arevalo et al., 2017, "Gated Multimodal
    Units", with a softmax in place of the two-modality sigmoid). Arguments and shapes as for `Concat`.
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
        values = torch.stack([layer(filled[:, i]) for i, layer in enumerate(self.transform)], 1)
        logits = self.gate(filled.flatten(1)).view_as(values)
        logits = logits.masked_fill(~present[..., None] & present.any(1)[:, None, None], -torch.inf)
        return (logits.softmax(1) * values).sum(1)
