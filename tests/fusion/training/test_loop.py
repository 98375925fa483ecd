from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion.features import Items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel, embed
from fusion.training.loop import allow_tf32
from fusion.training.objective import Objective
from fusion.training.sampling import TrainingSet

FitWorld = Callable[..., list[dict[str, float]]]
MakeModel = Callable[..., ProductSearchModel]


class KilledError(Exception):
    """Stops a run in the middle."""


def scores_of(values: list[float]) -> Callable[[ProductSearchModel, np.ndarray], float]:
    """A validation that returns these scores in order."""
    remaining = iter(values)
    return lambda *_: next(remaining)


def assert_same(first: ProductSearchModel, second: ProductSearchModel) -> None:
    first_state, second_state = first.state_dict(), second.state_dict()
    assert first_state.keys() == second_state.keys()
    assert all(torch.equal(value, second_state[name]) for name, value in first_state.items())


def test_same_seed_same_weights(make_model: MakeModel, fit_world: FitWorld, tmp_path: Path) -> None:
    first, repeated, other = make_model(), make_model(), make_model()
    history = fit_world(first, tmp_path / "first.pt", epochs=2)
    torch.rand(7)  # earlier draws have no influence
    assert fit_world(repeated, tmp_path / "repeated.pt", epochs=2) == history
    assert_same(first, repeated)
    fit_world(other, tmp_path / "other.pt", epochs=2, seed=1)
    with pytest.raises(AssertionError):
        assert_same(first, other)


@pytest.mark.parametrize(("finished", "precision"), [(0, "float32"), (1, "bf16"), (3, "float32")])
def test_an_interrupted_run_ends_as_one_never_stopped(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path, finished: int, precision: str
) -> None:
    fit = partial(fit_world, objective=Objective(alpha=0.5, beta=0.5, precision=precision), epochs=4)
    values = [0.1, 0.5, 0.3, 0.4]
    whole, stopped = make_model(), make_model()
    history = fit(whole, tmp_path / "whole.pt", scores_of(values))

    validate, calls = scores_of(values), iter(range(4))

    def killed(model: ProductSearchModel, vectors: np.ndarray) -> float:
        if next(calls) == finished:
            raise KilledError
        return validate(model, vectors)

    checkpoint = tmp_path / "stopped.pt"
    with pytest.raises(KilledError):
        fit(stopped, checkpoint, killed)
    assert checkpoint.exists() == (finished > 0)
    resumed = make_model(seed=99) if finished else make_model()
    assert fit(resumed, checkpoint, scores_of(values[finished:])) == history
    assert_same(resumed, whole)


def test_a_finished_run_is_not_trained_again(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path
) -> None:
    model, restored = make_model(), make_model(seed=99)
    history = fit_world(model, tmp_path / "c.pt", scores_of([0.2, 0.1]), epochs=2)
    assert fit_world(restored, tmp_path / "c.pt", scores_of([]), epochs=2) == history
    assert_same(restored, model)


def test_scores_of_any_kind_of_float_survive(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path
) -> None:
    history = fit_world(make_model(), tmp_path / "c.pt", scores_of([np.float64(0.2)]), epochs=1)
    assert fit_world(make_model(), tmp_path / "c.pt", scores_of([]), epochs=1) == history


def test_stops_after_patience_and_keeps_the_best(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path
) -> None:
    model, seen = make_model(), []
    values = iter([0.1, 0.4, 0.4, 0.3, 0.2, 0.9])

    def validate(candidate: ProductSearchModel, _: np.ndarray) -> float:
        assert not candidate.training
        seen.append({name: value.clone() for name, value in candidate.state_dict().items()})
        return next(values)

    history = fit_world(model, tmp_path / "c.pt", validate, epochs=6, patience=3)
    assert [row["score"] for row in history] == [0.1, 0.4, 0.4, 0.3, 0.2], "three epochs without a better one"
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(seen[1]["log_scale"], seen[4]["log_scale"])
    assert not model.training


def test_history_has_the_loss_and_its_terms(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path
) -> None:
    history = fit_world(make_model(), tmp_path / "c.pt", epochs=3, objective=Objective(alpha=0.3, beta=0.7))
    for row in history:
        assert row["loss"] == pytest.approx(0.3 * row["text"] + 0.7 * row["vision"] + row["fused"], rel=1e-4)
    assert history[-1]["loss"] < history[0]["loss"]


def test_every_weight_is_trained(make_model: MakeModel, fit_world: FitWorld, tmp_path: Path) -> None:
    model, before = make_model(), make_model().state_dict()
    fit_world(model, tmp_path / "c.pt", epochs=1, weight_decay=0.0)
    after = model.state_dict()
    same = [name for name, value in before.items() if value.numel() and torch.equal(value, after[name])]
    # late fusion is chosen after training; no product of this world has several pictures to attend to
    assert same == ["late_fusion_weights", "gallery.queries"]


def test_nan_features_stop_training(
    make_model: MakeModel, fit_world: FitWorld, make_items: Callable[..., Items], tmp_path: Path, world: Any
) -> None:
    training: TrainingSet = world.training
    images = training.products.images.copy()
    images[17] = np.nan
    broken = replace(training, products=replace(training.products, images=images))
    message = r"nan in epoch 1, step \d+; the pictures of p017 have features that are not finite; remove"
    with pytest.raises(FloatingPointError, match=message):
        fit_world(make_model(), tmp_path / "c.pt", data=broken)
    assert not (tmp_path / "c.pt").exists()


def test_a_diverged_model_stops_training(make_model: MakeModel, fit_world: FitWorld, tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError,
        match=r"epoch \d+, step \d+.*train\.learning_rate.*queries q\d.*products p\d.* more",
    ):
        fit_world(make_model(), tmp_path / "c.pt", learning_rate=1e30)


@pytest.mark.parametrize(
    ("fusion", "precision"), [*((fusion, "float32") for fusion in FUSIONS.entries), ("concat", "bf16")]
)
def test_both_modalities_beat_either(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path, world: Any, fusion: str, precision: str
) -> None:
    """On pairs of kind and colour that training never saw together."""
    model = make_model(fusion=fusion)
    objective = Objective(alpha=0.5, beta=0.5, modality_dropout=0.0, precision=precision)
    fit_world(model, tmp_path / "c.pt", objective=objective)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    queries = embed(model, world.held_out_queries, "query")

    def recall(*modalities: str) -> float:
        return world.recall(queries @ embed(model, world.training.products, "product", modalities).T)

    single, both = max(recall("text"), recall("image")), recall("text", "image")
    assert both > single + 0.2


def test_joint_vectors_alone_are_learned(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path, world: Any
) -> None:
    """Products have only a joint vector, far from zero, of kind and colour. Queries have words."""
    data = world.training
    rng = np.random.default_rng(0)
    kinds = np.unique(data.products.tokens[:, 0], return_inverse=True)[1].ravel()
    codes = rng.normal(size=(kinds.max() + 1, 6))
    joint = 100 + np.concatenate([codes[kinds], data.products.images[:, :6]], 1)
    bare = replace(data.products.without("text").without("image"), joint=joint.astype(np.float16))
    queries, held_out = (
        replace(items, joint=np.zeros((len(items), 12), np.float16))
        for items in (data.queries, world.held_out_queries)
    )
    model = make_model(joint_features=12)
    fit_world(model, tmp_path / "c.pt", data=replace(data, products=bare, queries=queries))
    np.testing.assert_allclose(model.standardise_joint.mean, bare.joint.astype(float).mean(0), rtol=1e-5)
    scores = embed(model, held_out, "query") @ embed(model, bare, "product", ["joint"]).T
    assert world.recall(scores) > 0.5
    assert not embed(model, bare, "product", ["text", "image"]).any()


def test_validation_is_the_same_in_any_precision(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path, world: Any
) -> None:
    """Embeddings that choose the best epoch are those that are served."""
    objective = Objective(precision="bf16")

    def validate(model: ProductSearchModel, vectors: np.ndarray) -> float:
        assert torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cpu")
        np.testing.assert_array_equal(vectors, embed(model, world.training.products, "product"))
        return 1.0

    fit_world(make_model(), tmp_path / "c.pt", validate, objective=objective, epochs=1)


def test_a_gpu_uses_tf32_only_while_it_trains() -> None:
    with allow_tf32(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KilledError), allow_tf32(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
        raise KilledError
    assert torch.get_float32_matmul_precision() == "highest"


def test_each_epoch_is_reported_as_it_ends(
    make_model: MakeModel, fit_world: FitWorld, tmp_path: Path
) -> None:
    reports: list[dict[str, float]] = []

    def validate(*_: object) -> float:
        return float(len(reports))

    history = fit_world(make_model(), tmp_path / "c.pt", validate, epochs=3, report=reports.append)
    assert [row["score"] for row in history] == [0, 1, 2], "before the next one is validated"
    rates = [row.pop("samples_per_s") for row in reports]
    assert reports == history and all(rate > 0 for rate in rates)
