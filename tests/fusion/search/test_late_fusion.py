from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.features import MODALITIES, Items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel, blend, embed
from fusion.search.late_fusion import WEIGHTS, tune_late_fusion

MakeModel = Callable[..., ProductSearchModel]
Validate = Callable[[ProductSearchModel, np.ndarray], float]


@pytest.fixture
def like(items: Items) -> Callable[[ProductSearchModel, dict[str, float]], Validate]:
    """Validation whose score is the similarity to a given blend, over products with text and picture."""
    both = items.present[:, :2].all(1)

    def make(model: ProductSearchModel, weights: dict[str, float]) -> Validate:
        target = embed(model, items, "product")
        for name, weight in weights.items():
            target = target + weight * embed(model, items, "product", [name])
        target = target / np.linalg.norm(target, axis=1, keepdims=True).clip(1e-9)
        return lambda _, vectors: float((vectors * target)[both].sum())

    return make


@settings(deadline=None)  # the first call waits for torch
@given(
    count=st.integers(0, 5),
    weights=st.lists(st.floats(0, 10), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_a_blend_is_a_direction(count: int, weights: list[float], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    views = torch.nn.functional.normalize(torch.randn(count, 4, 6, generator=rng).abs(), dim=2)
    counts = torch.tensor(weights).expand(count, 3)
    blended = blend(views[:, 0], views[:, 1:], counts)
    torch.testing.assert_close(blended.norm(dim=1), torch.ones(count))
    summed = views[:, 0] + sum(weight * views[:, 1 + i] for i, weight in enumerate(weights))
    torch.testing.assert_close(blended, summed / summed.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("fusion", list(FUSIONS.entries))
@pytest.mark.parametrize("only", [MODALITIES, ("text", "image"), ("text",), ("image", "video")])
def test_only_the_selected_modalities_count(
    make_model: MakeModel, items: Items, fusion: str, only: tuple[str, ...]
) -> None:
    model = make_model(fusion=fusion)
    fused = embed(model, items, "product", only)
    views = {name: embed(model, items, "product", [name]) for name in ("text", "image") if name in only}
    model.late_fusion_weights.copy_(torch.tensor([0.5, 2.0]))
    expected = fused + sum(weight * views.get(name, 0) for name, weight in (("text", 0.5), ("image", 2.0)))
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True).clip(1e-9)
    np.testing.assert_allclose(embed(model, items, "product", only), expected, atol=1e-5)


@pytest.mark.parametrize("video_encoder", [None, "conv3d"])
@pytest.mark.parametrize("weights", [{"text": 1.0}, {"image": 0.5}])
def test_the_best_weights_are_chosen(
    make_model: MakeModel,
    items: Items,
    like: Callable[..., Validate],
    weights: dict[str, float],
    video_encoder: str | None,
) -> None:
    model = make_model(video_encoder=video_encoder)
    validate = like(model, weights)
    before = validate(model, embed(model, items, "product"))
    score = tune_late_fusion(model, items, validate)
    assert model.late_fusion_weights.tolist() == [weights.get(name, 0.0) for name in model.config.modalities]
    assert score > before
    assert validate(model, embed(model, items, "product")) == pytest.approx(score, abs=1e-4)


def test_weights_stay_zero_if_none_is_better(
    make_model: MakeModel, items: Items, like: Callable[..., Validate]
) -> None:
    model = make_model()
    before = embed(model, items, "product")
    assert tune_late_fusion(model, items, like(model, {})) == pytest.approx(float(before.any(1).sum() / 3))
    assert model.late_fusion_weights.tolist() == [0.0, 0.0]
    assert np.array_equal(embed(model, items, "product"), before)


def test_weights_stay_zero_for_equal_scores(make_model: MakeModel, items: Items) -> None:
    model = make_model()
    trials: list[np.ndarray] = []

    def validate(_: ProductSearchModel, vectors: np.ndarray) -> float:
        trials.append(vectors)
        return 0.5

    assert tune_late_fusion(model, items, validate) == 0.5
    assert not model.late_fusion_weights.any()
    assert len(trials) == 1 + len(model.late_fusion_weights) * len(WEIGHTS)
    assert all(not vectors[3::4].any() for vectors in trials)  # products with neither stay zero


def test_it_survives_saving(make_model: MakeModel, items: Items, tmp_path: Path) -> None:
    model = make_model()
    model.late_fusion_weights.copy_(torch.tensor([0.25, 1.0]))
    model.save(tmp_path)
    loaded = ProductSearchModel.load(tmp_path)
    assert torch.equal(loaded.late_fusion_weights, model.late_fusion_weights)
    assert np.array_equal(embed(loaded, items, "product"), embed(model, items, "product"))


@pytest.mark.parametrize("only", [MODALITIES, ("text",)])
def test_tags_ignore_late_fusion(make_model: MakeModel, items: Items, only: tuple[str, ...]) -> None:
    model = make_model(tags={"color": ["red", "blue", "green"]})
    vectors = torch.from_numpy(embed(model, items, "product", only))
    (expected,) = (logits.argmax(-1).numpy() for logits in model.score_tags(vectors))
    seen = items.has_any(set(only) & set(model.config.modalities))
    model.late_fusion_weights.copy_(torch.tensor([0.0, 50.0]))
    (tags,) = model.predict_tags(items, only)
    np.testing.assert_array_equal(tags[seen], expected[seen])
    assert len(set(tags[seen])) > 1
