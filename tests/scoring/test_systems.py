from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.features import Items
from fusion.model import ModelConfig, ProductSearchModel
from scoring.systems import list_ablations


@pytest.fixture
def make_network() -> Callable[..., ProductSearchModel]:
    return lambda video: ProductSearchModel(ModelConfig(9, 4, 4, dim=8, hidden=8, video_encoder=video))


def test_ablations_are_of_modalities_that_some_product_has(
    make_network: Callable[..., ProductSearchModel], features: Path
) -> None:
    products = Items.load(features, "products")
    assert products.present.any(axis=0).all()
    assert list_ablations(make_network(None), products) == {"text-only": ["text"], "image-only": ["image"]}
    assert list_ablations(make_network(None), products.without("image")) == {"text-only": ["text"]}
    three = list_ablations(make_network("conv3d"), products)
    assert three["video-only"] == ["video"]
    assert three["no image"] == ["text", "video"]
    assert list(list_ablations(make_network("conv3d"), products.without("video"))) == [
        "text-only",
        "image-only",
    ]
