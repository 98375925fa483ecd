import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fusion.fusions import FUSIONS

M, DIM = 3, 8
quick = settings(deadline=None, max_examples=20)
every_fusion = pytest.mark.parametrize("name", list(FUSIONS.entries))
masks = st.lists(st.lists(st.booleans(), min_size=M, max_size=M), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.bool)
)


def fusion(name: str) -> nn.Module:
    torch.manual_seed(0)
    return FUSIONS[name](M, DIM, 2 * DIM, 0.1).eval()


def parts(rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, M, DIM)).astype(np.float32))


@every_fusion
@quick
@given(present=masks, other=st.sampled_from([0.0, -7.5, 1e30, float("nan"), float("inf")]))
def test_what_is_masked_has_no_influence(name: str, present: Tensor, other: float) -> None:
    fuse, given_parts = fusion(name), parts(len(present))
    fused = fuse(given_parts, present)
    assert fused.shape == (len(present), DIM)
    assert fused.isfinite().all()
    changed = torch.where(present[..., None], given_parts, torch.tensor(other))
    assert torch.equal(fuse(changed, present), fused)


@every_fusion
def test_what_is_present_has_influence(name: str) -> None:
    fuse, present = fusion(name), torch.ones(1, M, dtype=torch.bool)
    original = fuse(parts(1), present)
    for i in range(M):
        changed, masked = parts(1), present.clone()
        changed[0, i] = parts(1, seed=1)[0, i]
        masked[0, i] = False
        assert (fuse(changed, present) - original).abs().max() > 1e-3
        assert (fuse(parts(1), masked) - original).abs().max() > 1e-3


@every_fusion
def test_modalities_are_not_interchangeable(name: str) -> None:
    present = torch.ones(1, M, dtype=torch.bool)
    turned = parts(1).roll(1, 1)
    assert (fusion(name)(turned, present) - fusion(name)(parts(1), present)).abs().max() > 1e-3


@every_fusion
@quick
@given(present=masks)
def test_rows_are_independent(name: str, present: Tensor) -> None:
    fuse, given_parts = fusion(name), parts(len(present))
    rows = [fuse(given_parts[i : i + 1], present[i : i + 1]) for i in range(len(present))]
    torch.testing.assert_close(fuse(given_parts, present), torch.cat(rows), atol=1e-5, rtol=1e-4)


@every_fusion
def test_gradients_are_finite_and_reach_every_weight(name: str) -> None:
    fuse = fusion(name).train()
    present = torch.tensor([[True] * M, [False] * M, [True] + [False] * (M - 1), [False] + [True] * (M - 1)])
    given_parts = parts(4).requires_grad_()
    fuse(given_parts, present).square().sum().backward()
    for label, weight in fuse.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().sum() > 0, label
    assert given_parts.grad is not None and given_parts.grad.isfinite().all()
    assert (given_parts.grad[~present] == 0).all()


def test_unknown_fusion() -> None:
    with pytest.raises(ValueError, match=rf"unknown fusion 'sum'; known are {', '.join(FUSIONS.entries)}"):
        FUSIONS["sum"]
