"""A saved, untrained model with a real image encoder."""

from pathlib import Path

import pytest
import torch

from fusion.encoders.image import ImageEncoder
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import Vocabulary
from fusion.featurizer import Featurizer
from fusion.model import ModelConfig, ProductSearchModel


@pytest.fixture(scope="session")
def encoder() -> ImageEncoder:
    """An image encoder whose weights come with a package."""
    return ImageEncoder.pretrained("efficientnet_lite0", grid=2)


@pytest.fixture(scope="session")
def saved(encoder: ImageEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder of the train stage, with an untrained model; read-only for tests."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(["shirt", "red", "blue", "green", "black", "navy", "or"])
    folder = tmp_path_factory.mktemp("model")
    Featurizer(vocabulary, encoder, ClipReader("conv3d", 4, {}), image_size=32, max_tokens=8).save(folder)
    ProductSearchModel(
        ModelConfig(len(vocabulary), encoder.width, encoder.region_width, dim=32, hidden=64)
    ).save(folder)
    return folder
