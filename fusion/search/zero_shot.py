"""Zero-shot baselines: published encoders without training, the towers of a dual encoder or a joint encoder."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from catalog.progress import show_progress
from fusion.encoders.text import TextEncoderInit, Transformer
from fusion.features import Items
from fusion.featurizer import SETTINGS


def load_text_tower(features: Path) -> Transformer | None:
    """Load the text tower, in evaluation mode; None if the features are not from both towers of the same model.

    Args:
        features: Output folder of the featurize stage.
    """
    *_, image_settings = json.loads((features / SETTINGS).read_text())["encoder"]
    start = TextEncoderInit.load(features)
    model = start.settings.get("model")
    if not model or image_settings.get("model") != model:
        return None
    tower = Transformer(0, 1, 0, **start.settings)
    tower.load_published(start.state)
    return tower.eval()


@torch.inference_mode()
def embed_zero_shot(tower: Transformer, items: Items, role: str) -> np.ndarray:
    """Embed items in the dual encoder's own space: the mean direction of text and picture, or the only direction.

    Args:
        tower: Its text tower.
        items: Their image features are those of its image tower.
        role: "query" or "product".

    Returns:
        Unit vectors, float32 (N, P); zero for an item that has neither.
    """
    embeddings = [torch.empty(0, items.images.shape[1])]
    for batch in show_progress(items.batches(), "zero-shot embeddings", unit="batch"):
        both = torch.stack([tower.encode(batch["tokens"], role)[0], batch["images"][:, 0]], 1)
        embeddings.append(normalize((normalize(both, dim=2) * batch["present"][:, :2, None]).sum(1)))
    return torch.cat(embeddings).numpy()


def has_joint_encoder(features: Path) -> bool:
    """Whether features are also from a joint encoder.

    Args:
        features: Output folder of the featurize stage.
    """
    return json.loads((features / SETTINGS).read_text())["joint"] is not None


def read_joint_vectors(items: Items, _role: str) -> np.ndarray:
    """Read the vectors of the joint encoder, which `featurize` computed with the prompt of each role.

    Args:
        items: With a joint encoder.

    Returns:
        Unit vectors, float32 (N, J); zero for an item that has neither text nor picture.
    """
    return normalize(torch.from_numpy(items.joint.astype(np.float32))).numpy()
