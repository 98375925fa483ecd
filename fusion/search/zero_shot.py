"""Zero-shot CLIP baseline: its published text and image towers, without training."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from catalog.progress import show_progress
from fusion.encoders.text import TextEncoderInit, Transformer
from fusion.features import Items


def load_text_tower(features: Path) -> Transformer | None:
    """Load CLIP's text tower, in evaluation mode; None if the features are not from both towers of a CLIP model.

    Args:
        features: Output folder of the featurize stage.
    """
    image, *_ = json.loads((features / "featurizer.json").read_text())["encoder"]
    if image != "clip":
        return None
    start = TextEncoderInit.load(features)
    if start.encoder != "transformer":
        return None
    tower = Transformer(0, 1, 0, **start.settings)
    tower.load_published(start.state)
    return tower.eval() if tower.pools else None


@torch.inference_mode()
def embed_zero_shot(tower: Transformer, items: Items) -> np.ndarray:
    """Embed items in CLIP's own space: the mean direction of text and picture, or the direction of the only one.

    Args:
        tower: CLIP's text tower.
        items: Their image features are CLIP's.

    Returns:
        Unit vectors, float32 (N, P); zero for an item that has neither.
    """
    embeddings = [torch.empty(0, items.images.shape[1])]
    for batch in show_progress(items.batches(), "CLIP embeddings", unit="batch"):
        both = torch.stack([tower.encode(batch["tokens"])[0], batch["images"][:, 0]], 1)
        embeddings.append(normalize((normalize(both, dim=2) * batch["present"][:, :2, None]).sum(1)))
    return torch.cat(embeddings).numpy()
