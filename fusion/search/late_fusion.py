"""Late fusion: the weights of the single-modality product embeddings, added to the fused embedding.

The weights are tuned on the validation queries after training. Tuned on the training queries they would overfit: there,
each modality looks more informative than it is on new queries.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from catalog.progress import show_progress
from fusion.features import Items
from fusion.model import ProductSearchModel, blend

WEIGHTS = (0.25, 0.5, 1.0, 2.0)  # to try for each modality


@torch.inference_mode()
def tune_late_fusion(
    model: ProductSearchModel, products: Items, validate: Callable[[ProductSearchModel, np.ndarray], float]
) -> float:
    """Tune `ProductSearchModel.late_fusion_weights`, modality by modality; a weight stays 0 if none scores better.

    Args:
        model: Trained, in evaluation mode.
        products: The catalogue.
        validate: As for `fusion.training.loop.fit_model`.

    Returns:
        The validation score with the tuned weights.
    """
    views, present = (
        embed_views(model, products),
        torch.from_numpy(products.present)[:, model.config.modality_columns],
    )

    def score(weights: Tensor) -> float:
        vectors = blend(views[:, 0], views[:, 1:], weights * present) * present.any(1, keepdim=True)
        return validate(model, vectors.numpy())

    best_weights = torch.zeros(len(model.late_fusion_weights))
    best_score = score(best_weights)
    trials = list(product(range(len(best_weights)), WEIGHTS))
    for modality, weight in show_progress(trials, desc="late fusion", unit="trial"):
        trial_weights = best_weights.clone()
        trial_weights[modality] = weight
        trial_score = score(trial_weights)
        if trial_score > best_score:
            best_score, best_weights = trial_score, trial_weights
    model.late_fusion_weights.copy_(best_weights)
    return best_score


@torch.inference_mode()
def embed_views(model: ProductSearchModel, products: Items) -> Tensor:
    """Embed each product with all modalities, then with each modality only: float (N, 1 + M, dim)."""
    lost = torch.zeros_like(model.late_fusion_weights, dtype=torch.bool)
    batches = show_progress(products.batches(lost.device), "modality embeddings", unit="batch")
    return torch.cat([model.encode_views(batch, lost).cpu() for batch in batches])
