import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusion.fusions import FUSIONS, Fusion, ModalityFeatures

M, DIM = 3, 8
STATES = (3, 2, 4)  # of each modality
quick = settings(deadline=None, max_examples=20)
every_fusion = pytest.mark.parametrize("name", list(FUSIONS.entries))
presence = st.lists(st.lists(st.booleans(), min_size=M, max_size=M), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.bool)
)


def fusion(name: str) -> Fusion:
    torch.manual_seed(0)
    return FUSIONS[name](M, DIM, 2 * DIM, 0.1).eval()


def random_features(present: Tensor, seed: int = 0) -> ModalityFeatures:
    """Random output of encoders; the number of words or regions differs, at least one of each."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    count = len(present)
    masks = (torch.arange(size) < torch.arange(1, count + 1)[:, None] for size in STATES)
    states = tuple(normal(count, size, DIM // 2) for size in STATES)
    return ModalityFeatures(normal(count, M, DIM), present, states, tuple(masks))


def fill_missing(features: ModalityFeatures, value: float) -> ModalityFeatures:
    """Put `value` wherever something is missing."""

    def where(keep: Tensor, values: Tensor) -> Tensor:
        return torch.where(keep[..., None], values, torch.tensor(value))

    modalities = zip(features.state_masks, features.present.T[:, :, None], features.states, strict=True)
    return features._replace(
        pooled=where(features.present, features.pooled),
        states=tuple(where(mask & present, states) for mask, present, states in modalities),
    )


@every_fusion
@quick
@given(present=presence, value=st.sampled_from([0.0, -7.5, 1e30, float("nan"), float("inf")]))
def test_what_is_masked_has_no_influence(name: str, present: Tensor, value: float) -> None:
    fuse, features = fusion(name), random_features(present)
    fused = fuse(features)
    assert fused.shape == (len(present), DIM)
    assert fused.isfinite().all()
    assert torch.equal(fuse(fill_missing(features, value)), fused)


@every_fusion
def test_what_is_present_has_influence(name: str) -> None:
    fuse, present = fusion(name), torch.ones(1, M, dtype=torch.bool)
    features, others = random_features(present), random_features(present, seed=1)
    original = fuse(features)
    for i in range(M):
        pooled, masked = features.pooled.clone(), present.clone()
        pooled[0, i] = others.pooled[0, i]
        masked[0, i] = False
        assert (fuse(features._replace(pooled=pooled)) - original).abs().max() > 1e-3
        assert (fuse(features.restrict(masked)) - original).abs().max() > 1e-3


@every_fusion
def test_states_have_influence_on_fusions_that_attend(name: str) -> None:
    fuse, present = fusion(name), torch.ones(2, M, dtype=torch.bool)
    features, others = random_features(present), random_features(present, seed=1)
    for i in range(M):
        states = (*features.states[:i], others.states[i], *features.states[i + 1 :])
        changed = (fuse(features._replace(states=states)) - fuse(features)).abs().max() > 1e-4
        assert changed == fuse.attends
    assert fuse.attends or torch.equal(fuse(features._replace(states=(), state_masks=())), fuse(features))


def test_coattention_attends_only_to_other_modalities() -> None:
    """With a single modality there is nothing to attend to, so its states have no influence."""
    fuse, present = fusion("coattention"), torch.tensor([[False, True, False]])
    features, others = random_features(present), random_features(present, seed=1)
    assert torch.equal(fuse(features._replace(states=others.states)), fuse(features))


@every_fusion
def test_modalities_are_not_interchangeable(name: str) -> None:
    features = random_features(torch.ones(1, M, dtype=torch.bool))
    rolled = ModalityFeatures(
        features.pooled.roll(1, 1),
        features.present,
        features.states[-1:] + features.states[:-1],
        features.state_masks[-1:] + features.state_masks[:-1],
    )
    assert (fusion(name)(rolled) - fusion(name)(features)).abs().max() > 1e-3


@every_fusion
@quick
@given(present=presence)
def test_rows_are_independent(name: str, present: Tensor) -> None:
    fuse, features = fusion(name), random_features(present)
    rows = [fuse(features.select(torch.tensor([i]))) for i in range(len(present))]
    torch.testing.assert_close(fuse(features), torch.cat(rows), atol=1e-5, rtol=1e-4)


@every_fusion
def test_gradients_are_finite_and_reach_every_weight(name: str) -> None:
    fuse = fusion(name).train()
    present = torch.tensor([[True] * M, [False] * M, [True] + [False] * (M - 1), [False] + [True] * (M - 1)])
    features = random_features(present)
    pooled = features.pooled.requires_grad_()
    fuse(features).square().sum().backward()
    for label, weight in fuse.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().sum() > 0, label
    assert pooled.grad is not None and pooled.grad.isfinite().all()
    assert (pooled.grad[~present] == 0).all()


def test_unknown_fusion() -> None:
    with pytest.raises(ValueError, match=rf"unknown fusion 'sum'; known are {', '.join(FUSIONS.entries)}"):
        FUSIONS["sum"]
