from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.features import MODALITIES, Items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel, embed

MakeModel = Callable[..., ProductSearchModel]
every_fusion = pytest.mark.parametrize("fusion", list(FUSIONS.entries))


@pytest.fixture
def make_model(make_model: MakeModel) -> MakeModel:
    return partial(make_model, video_encoder="conv3d", joint_features=12)


@every_fusion
def test_survives_saving(make_model: MakeModel, items: Items, tmp_path: Path, fusion: str) -> None:
    model = make_model(fusion=fusion)
    model.save(tmp_path)
    loaded = ProductSearchModel.load(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    for role in ("query", "product"):
        assert np.array_equal(embed(loaded, items, role), embed(model, items, role))


@every_fusion
@pytest.mark.parametrize("role", ["query", "product"])
def test_unit_vectors_or_zero(make_model: MakeModel, items: Items, role: str, fusion: str) -> None:
    vectors = embed(make_model(fusion=fusion), items, role)
    assert vectors.shape == (20, 32)
    assert vectors.dtype == np.float32
    expected = items.present.any(1)  # items without a modality are zero
    assert 0 < expected.sum() < 20
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), expected, atol=1e-5)


@every_fusion
@pytest.mark.parametrize("modality", MODALITIES)
def test_other_modalities_have_no_influence(
    make_model: MakeModel, items: Items, modality: str, fusion: str
) -> None:
    model = make_model(fusion=fusion)
    blind = items
    for name in MODALITIES:
        blind = blind if name == modality else blind.without(name)
    vectors, expected = embed(model, items, "product", [modality]), embed(model, blind, "product")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    has_modality = items.present[:, MODALITIES.index(modality)]
    assert (vectors[~has_modality] == 0).all()
    assert (np.abs(vectors[has_modality]).max(1) > 0).all()


@every_fusion
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_have_no_influence(make_model: MakeModel, items: Items, batch_size: int, fusion: str) -> None:
    model = make_model(fusion=fusion)
    for role in ("query", "product"):
        expected, batched = embed(model, items, role), embed(model, items, role, batch_size=batch_size)
        np.testing.assert_allclose(batched, expected, atol=1e-5)


@every_fusion
def test_a_picture_of_another_product(make_model: MakeModel, items: Items, fusion: str) -> None:
    """Only the chosen products get it, and only in the fused view. Their joint vectors are of their own pictures."""
    model = make_model(fusion=fusion)
    rows, donors = np.array([0, 8]), np.array([4, 16])  # all have both words and a picture
    hidden = torch.zeros(len(items), len(MODALITIES), dtype=torch.bool)
    batch, swapped = items.batch(slice(None)), (torch.from_numpy(rows), items.take(donors).batch(slice(None)))
    with_swaps, before = model.encode_views(batch, hidden, swapped), model.encode_views(batch, hidden)
    pictured = replace(items.without("joint", rows), images=items.images.copy(), regions=items.regions.copy())
    pictured.images[rows], pictured.regions[rows] = items.images[donors], items.regions[donors]
    expected = model.encode_product(pictured.batch(slice(None)))
    torch.testing.assert_close(with_swaps[:, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(with_swaps[:, 1:], before[:, 1:], atol=0, rtol=0)
    changed = (with_swaps[:, 0] - before[:, 0]).abs().amax(1) > 1e-3
    assert np.flatnonzero(changed).tolist() == rows.tolist()


@every_fusion
def test_all_modalities_have_the_same_scale(make_model: MakeModel, items: Items, fusion: str) -> None:
    model = make_model(fusion=fusion)
    with torch.no_grad():
        model.image[-1].weight.mul_(100)
    features = model.encode_modalities(items.batch(slice(None)))
    size = features.pooled.square().mean(2).sqrt()
    expected = torch.ones(int(features.present.sum()))
    torch.testing.assert_close(size[features.present], expected, atol=1e-3, rtol=0)


def test_nothing_to_embed(make_model: MakeModel, items: Items) -> None:
    assert embed(make_model(), items.take(np.zeros(20, bool)), "query").shape == (0, 32)


def test_towers_share_encoders_but_not_the_fusion(make_model: MakeModel, items: Items) -> None:
    model = make_model()
    batch = items.batch(slice(0, 3))
    assert not torch.allclose(model.encode_query(batch), model.encode_product(batch))
    model.encode_query(batch).sum().backward()
    reached = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert reached == {"text", "image", "gallery", "video", "joint", "query_fusion"}


def test_scale_is_capped(make_model: MakeModel) -> None:
    model = make_model()
    assert model.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.log_scale.fill_(50.0)
    assert model.scale.item() == 100.0


def test_unknown_fusion(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="unknown fusion 'sum'; known are concat"):
        make_model(fusion="sum")


@every_fusion
def test_a_model_without_clips_ignores_them(make_model: MakeModel, items: Items, fusion: str) -> None:
    model = make_model(fusion=fusion, video_encoder=None)
    assert model.config.modalities == ("text", "image", "joint")
    blind = items.without("video")
    assert np.array_equal(embed(model, items, "product"), embed(model, blind, "product"))


@every_fusion
def test_a_model_without_a_joint_encoder_has_no_weights_for_it(
    make_model: MakeModel, items: Items, fusion: str
) -> None:
    model = make_model(fusion=fusion, joint_features=0)
    assert model.config.modalities == ("text", "image", "video")
    assert not [name for name in model.state_dict() if "joint" in name]
    blind = replace(items, joint=np.zeros((len(items), 0), np.float16))
    assert np.array_equal(embed(model, items, "product"), embed(model, blind, "product"))


@every_fusion
def test_joint_vectors_are_standardised(make_model: MakeModel, items: Items, fusion: str) -> None:
    """Their scale and their mean have no influence."""
    model, shifted = make_model(fusion=fusion), make_model(fusion=fusion)
    has_joint = items.joint.any(1)
    other = replace(items, joint=np.where(has_joint[:, None], 1 + items.joint / 4, 0).astype(np.float16))
    for network, joined in ((model, items), (shifted, other)):
        network.measure_joint(joined.take(has_joint))
    expected, vectors = embed(model, items, "product"), embed(shifted, other, "product")
    np.testing.assert_allclose(vectors, expected, atol=0.01)
    assert np.abs(embed(make_model(fusion=fusion), other, "product") - expected).max() > 0.1
