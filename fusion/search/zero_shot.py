"""A CLIP whose two towers are both encoders here, as it was published: what training has to beat."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from fusion.encoders.text import Start, Transformer
from fusion.features import Items


def dual(features: Path) -> Transformer | None:
    """The text tower that the features' pictures are comparable with, in evaluation mode; None if there is none.

    Args:
        features: What `featurize` wrote.
    """
    image, *_ = json.loads((features / "featurizer.json").read_text())["encoder"]
    if image != "clip":
        return None
    start = Start.load(features)
    if start.encoder != "transformer":
        return None
    tower = Transformer(0, 1, 0, **start.settings)
    tower.start(start.state)
    return tower.eval() if tower.pools else None


@torch.inference_mode()
def zero_shot(tower: Transformer, items: Items) -> np.ndarray:
    """Items in CLIP's own space: between their text's direction and their picture's, or the one they have.

    Args:
        tower: Of texts.
        items: Of which the pictures' features are CLIP's.

    Returns:
        Unit vectors, float32 (N, P); zero for an item that has neither.
    """
    found = [torch.empty(0, items.images.shape[1])]
    for batch in items.batches():
        both = torch.stack([tower.encode(batch["tokens"])[0], batch["images"]], 1)
        found.append(normalize((normalize(both, dim=2) * batch["present"][:, :2, None]).sum(1)))
    return torch.cat(found).numpy()
