import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusion.fusions import FUSIONS, Fusion, Parts

M, DIM = 3, 8
STATES = (3, 2, 4)  # of each modality
quick = settings(deadline=None, max_examples=20)
every_fusion = pytest.mark.parametrize("name", list(FUSIONS.entries))
masks = st.lists(st.lists(st.booleans(), min_size=M, max_size=M), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.bool)
)


def fusion(name: str) -> Fusion:
    torch.manual_seed(0)
    return FUSIONS[name](M, DIM, 2 * DIM, 0.1).eval()


def parts(present: Tensor, seed: int = 0) -> Parts:
    """Items as encoders might see them; some have fewer words or regions than others, at least one of each."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    count = len(present)
    inside = (torch.arange(size) < torch.arange(1, count + 1)[:, None] for size in STATES)
    states = tuple(normal(count, size, DIM // 2) for size in STATES)
    return Parts(normal(count, M, DIM), present, states, tuple(inside))


def spoil(one: Parts, other: float) -> Parts:
    """`other` in place of all that is not there."""

    def where(keep: Tensor, values: Tensor) -> Tensor:
        return torch.where(keep[..., None], values, torch.tensor(other))

    there = zip(one.inside, one.present.T[:, :, None], one.states, strict=True)
    return one._replace(
        pooled=where(one.present, one.pooled),
        states=tuple(where(inside & present, states) for inside, present, states in there),
    )


@every_fusion
@quick
@given(present=masks, other=st.sampled_from([0.0, -7.5, 1e30, float("nan"), float("inf")]))
def test_what_is_masked_has_no_influence(name: str, present: Tensor, other: float) -> None:
    fuse, seen = fusion(name), parts(present)
    fused = fuse(seen)
    assert fused.shape == (len(present), DIM)
    assert fused.isfinite().all()
    assert torch.equal(fuse(spoil(seen, other)), fused)


@every_fusion
def test_what_is_present_has_influence(name: str) -> None:
    fuse, present = fusion(name), torch.ones(1, M, dtype=torch.bool)
    seen, others = parts(present), parts(present, seed=1)
    original = fuse(seen)
    for i in range(M):
        pooled, masked = seen.pooled.clone(), present.clone()
        pooled[0, i] = others.pooled[0, i]
        masked[0, i] = False
        assert (fuse(seen._replace(pooled=pooled)) - original).abs().max() > 1e-3
        assert (fuse(seen.only(masked)) - original).abs().max() > 1e-3


@every_fusion
def test_states_have_influence_on_fusions_that_attend(name: str) -> None:
    fuse, present = fusion(name), torch.ones(2, M, dtype=torch.bool)
    seen, others = parts(present), parts(present, seed=1)
    for i in range(M):
        states = (*seen.states[:i], others.states[i], *seen.states[i + 1 :])
        changed = (fuse(seen._replace(states=states)) - fuse(seen)).abs().max() > 1e-4
        assert changed == fuse.attends
    assert fuse.attends or torch.equal(fuse(seen._replace(states=(), inside=())), fuse(seen))


def test_coattention_looks_only_at_other_modalities() -> None:
    """With one modality there is nothing to look at: its states change nothing."""
    fuse, present = fusion("coattention"), torch.tensor([[False, True, False]])
    seen, others = parts(present), parts(present, seed=1)
    assert torch.equal(fuse(seen._replace(states=others.states)), fuse(seen))


@every_fusion
def test_modalities_are_not_interchangeable(name: str) -> None:
    seen = parts(torch.ones(1, M, dtype=torch.bool))
    turned = Parts(
        seen.pooled.roll(1, 1),
        seen.present,
        seen.states[-1:] + seen.states[:-1],
        seen.inside[-1:] + seen.inside[:-1],
    )
    assert (fusion(name)(turned) - fusion(name)(seen)).abs().max() > 1e-3


@every_fusion
@quick
@given(present=masks)
def test_rows_are_independent(name: str, present: Tensor) -> None:
    fuse, seen = fusion(name), parts(present)
    rows = [fuse(seen.rows(torch.tensor([i]))) for i in range(len(present))]
    torch.testing.assert_close(fuse(seen), torch.cat(rows), atol=1e-5, rtol=1e-4)


@every_fusion
def test_gradients_are_finite_and_reach_every_weight(name: str) -> None:
    fuse = fusion(name).train()
    present = torch.tensor([[True] * M, [False] * M, [True] + [False] * (M - 1), [False] + [True] * (M - 1)])
    seen = parts(present)
    given_parts = seen.pooled.requires_grad_()
    fuse(seen).square().sum().backward()
    for label, weight in fuse.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().sum() > 0, label
    assert given_parts.grad is not None and given_parts.grad.isfinite().all()
    assert (given_parts.grad[~present] == 0).all()


def test_unknown_fusion() -> None:
    with pytest.raises(ValueError, match=rf"unknown fusion 'sum'; known are {', '.join(FUSIONS.entries)}"):
        FUSIONS["sum"]
