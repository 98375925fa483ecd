"""Register a fusion of your own and train a model with it: python examples/new_fusion.py

To use it in params.yaml as well (`train.fusion: mean`), put the class into a file in plugins/.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from train_and_search import search, train_model

from components.params import TrainParams
from fusion.fusions import FUSIONS, Fusion, ModalityFeatures


@FUSIONS("mean")
class Mean(Fusion):
    """The mean of the modalities that an item has, through one linear layer."""

    def __init__(self, modalities: int, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(modalities, dim, hidden, dropout)
        self.layer = nn.Linear(dim, dim)

    def forward(self, features: ModalityFeatures) -> Tensor:
        """Fuse float (B, M, dim) to float (B, dim)."""
        pooled = torch.where(
            features.present[..., None], features.pooled, 0.0
        )  # missing modalities may hold anything
        return self.layer(pooled.sum(1) / features.present.sum(1, keepdim=True).clamp(min=1))


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        train_model(Path(name), TrainParams(fusion="mean", epochs=3, dim=64, hidden=64))
        for title, score in search(Path(name), "red dotted mug"):
            print(f"{score:.3f}  {title}")
