"""Late fusion: how much a product's view through each modality alone counts beside the whole one.

Training cannot choose this: on queries that it has seen each modality looks more telling than it will be on new ones.
So it is chosen on the validation queries, once the model is trained.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fusion.features import Items
from fusion.model import ProductSearchModel, blend

WEIGHTS = (0.25, 0.5, 1.0, 2.0)


@torch.inference_mode()
def weigh(
    model: ProductSearchModel, products: Items, validate: Callable[[ProductSearchModel, np.ndarray], float]
) -> float:
    """Set `ProductSearchModel.late`, modality by modality, to what scores best; 0 where nothing scores better.

    Args:
        model: Trained, in evaluation mode.
        products: The catalogue.
        validate: As for `fusion.training.loop.fit`.

    Returns:
        The score.
    """
    views, present = _views(model, products), torch.from_numpy(products.present)[:, : len(model.late)]

    def score(weights: Tensor) -> float:
        vectors = blend(views[:, 0], views[:, 1:], weights * present) * present.any(1, keepdim=True)
        return validate(model, vectors.numpy())

    chosen = torch.zeros(len(model.late))
    best = score(chosen)
    trials = list(product(range(len(chosen)), WEIGHTS))
    for modality, weight in tqdm(trials, desc="late fusion", unit="trial"):
        tried = chosen.clone()
        tried[modality] = weight
        found = score(tried)
        if found > best:
            best, chosen = found, tried
    model.late.copy_(chosen)
    return best


def _views(model: ProductSearchModel, products: Items) -> Tensor:
    """Each product whole and through each modality alone, float (N, 1 + M, dim)."""
    lost = torch.zeros_like(model.late, dtype=torch.bool)
    return torch.cat([model.views(batch, lost).cpu() for batch in products.batches(lost.device)])
