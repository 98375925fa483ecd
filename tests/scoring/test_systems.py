from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion.features import Items
from fusion.model import ModelConfig, ProductSearchModel
from fusion.search.hybrid import Hybrid
from scoring.systems import CANDIDATE, HYBRID, RankedSystems, list_ablations, read_served


@pytest.fixture
def make_network() -> Callable[..., ProductSearchModel]:
    def make(video: str | None, joint: int = 0) -> ProductSearchModel:
        return ProductSearchModel(ModelConfig(9, 4, 4, joint, dim=8, hidden=8, video_encoder=video))

    return make


def test_ablations_are_of_modalities_that_some_product_has(
    make_network: Callable[..., ProductSearchModel], features: Path
) -> None:
    def list_modalities(video: str | None, items: Items, joint: int = 0) -> dict[str, list[str]]:
        ablations = list_ablations(make_network(video, joint), items)
        return {system: list(ablation.modalities) for system, ablation in ablations.items()}

    products = Items.load(features, "products").without_galleries()
    assert products.present.any(axis=0).tolist() == [True, True, True, False]
    assert list_modalities(None, products) == {"text-only": ["text"], "image-only": ["image"]}
    assert list_modalities(None, products.without("image")) == {"text-only": ["text"]}
    three = list_modalities("conv3d", products)
    assert three["video-only"] == ["video"]
    assert three["no image"] == ["text", "video"]
    assert list(list_modalities("conv3d", products.without("video"))) == ["text-only", "image-only"]
    joined = replace(products, joint=np.ones((len(products), 4), np.float16))
    with_joint = list_modalities(None, joined, 4)
    assert with_joint["joint-only"] == ["joint"]
    assert with_joint["no joint"] == ["text", "image"]
    assert list(list_modalities(None, products, 4)) == ["text-only", "image-only"]


def test_a_catalogue_with_galleries_is_ranked_by_its_main_pictures_too(
    make_network: Callable[..., ProductSearchModel], features: Path
) -> None:
    products = Items.load(features, "products")
    ablation = list_ablations(make_network("conv3d"), products)["no gallery"]
    assert list(ablation.modalities) == ["text", "image", "video"]
    assert ablation.products.picture_counts.max() == 1 < products.picture_counts.max()


def test_the_hybrid_is_served_where_the_model_has_not_all_the_weight() -> None:
    def served(weight: float) -> str:
        return RankedSystems({}, Hybrid(weight)).served

    assert [served(weight) for weight in (0.0, 0.95, 1.0)] == [HYBRID, HYBRID, CANDIDATE]
    assert RankedSystems({}, None).served == CANDIDATE


def test_an_evaluation_that_does_not_say_what_is_served_is_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "made_from.json").write_text('{"data": "x"}')
    assert read_served(tmp_path) == CANDIDATE
    (tmp_path / "made_from.json").write_text('{"served": "hybrid"}')
    assert read_served(tmp_path) == HYBRID
