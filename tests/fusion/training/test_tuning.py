"""Tuning of the image encoder: a tiny encoder, on pictures of plain colours."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from fusion.encoders.adapters import ADAPTERS, extract_adapters, is_adapter, published_state
from fusion.encoders.image import ENCODERS, Architecture, ImageEncoder
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items
from fusion.featurizer import Featurizer, load_items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel, embed
from fusion.training.averaging import EMA_DECAY, WeightAverage
from fusion.training.loop import Schedule, parameter_groups
from fusion.training.objective import LossBatch, Objective, joint_loss
from fusion.training.sampling import Pairs, TrainingSet

MakeModel = Callable[..., ProductSearchModel]
FitWorld = Callable[..., list[dict[str, float]]]
WIDTH, REGION_WIDTH, GRID, SIDE = 12, 8, 2, 32
every_fusion = pytest.mark.parametrize("fusion", list(FUSIONS.entries))


class Tiny(nn.Module):
    """An encoder with batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, REGION_WIDTH, 1), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(REGION_WIDTH, WIDTH)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layer2(self.layer1(pictures))
        return self.head(maps.mean((2, 3))), maps


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Featurizer:
    """A featurizer with the tiny encoder; the same weights each time."""

    def tiny(_: str, __: Mapping[str, Any]) -> Architecture:
        return Architecture(Tiny(), WIDTH, REGION_WIDTH, (0.5,) * 3, (0.25,) * 3, dict)

    monkeypatch.setitem(ENCODERS.entries, "tiny", tiny)
    torch.manual_seed(5)
    encoder = ImageEncoder("tiny", GRID, Tiny().state_dict())
    return Featurizer(
        Vocabulary.learn([], 10, 1), encoder, ClipReader("conv3d", 4, {}), SIDE, max_tokens=6, max_pictures=4
    )


@pytest.fixture
def data(world: Any, reader: Featurizer) -> TrainingSet:
    """The world with real pictures and their features; every fifth product has no picture."""
    count = len(world.training.products)
    rng, product_pictures = np.random.default_rng(3), np.full(count, None, object)
    for row in range(count):
        colour = np.random.default_rng(row // 2 % 5).integers(0, 256, 3)
        noisy = colour + rng.normal(0, 20, (SIDE, SIDE, 3))
        if row % 5:
            gallery = [noisy, 255 - noisy] if row % 3 == 0 else [noisy]  # every third has a second picture
            product_pictures[row] = np.stack(gallery).clip(0, 255).astype(np.uint8)

    def pictured(items: Items, pictures: np.ndarray) -> Items:
        empty = {"images": (WIDTH,), "regions": (GRID**2, REGION_WIDTH)}
        zeros = {name: np.zeros((len(items), *shape), np.float16) for name, shape in empty.items()}
        has_image = np.array([picture is not None for picture in pictures], bool)
        return reader.reencode_pictures(replace(items, **zeros, has_image=has_image, pictures=pictures))

    products, queries = world.training.products, world.training.queries
    no_pictures = np.full(len(queries), None, object)
    return replace(
        world.training,
        products=pictured(products, product_pictures),
        queries=pictured(queries, no_pictures),
    )


@pytest.fixture
def make(make_model: MakeModel, reader: Featurizer) -> MakeModel:
    """A model with an image encoder to tune: make(seed, image="last_1", …)."""

    def build(seed: int = 0, image: str = "last_1", **settings: Any) -> ProductSearchModel:
        model = make_model(seed, image_features=WIDTH, region_features=REGION_WIDTH, **settings)
        model.image_encoder = copy.deepcopy(reader.encoder)
        model.tune(image=image)
        return model

    return build


def weights(encoder: ImageEncoder | None) -> dict[str, Tensor]:
    assert encoder
    return {name: value.clone() for name, value in encoder.features.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not value.equal(after[name])}


def gradients(model: ProductSearchModel, data: TrainingSet, **settings: Any) -> dict[str, Tensor]:
    """The gradients of a step's loss, by name; settings of the `Objective`."""
    step = next(data.draw_epoch(32, np.random.default_rng(0), Pairs.empty()))
    products, objective = data.products.take(step.products), Objective(alpha=0.5, beta=0.5, **settings)
    categories, tags = np.zeros(len(products)), np.zeros((len(products), 0), np.int64)
    batch = LossBatch(step.queries, products, step.grades, categories, tags)
    model.zero_grad()
    loss, _ = joint_loss(model, batch, objective, np.random.default_rng(0))
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@every_fusion
@pytest.mark.parametrize(
    ("image", "learning"),
    [("last_1", {"layer2", "head"}), ("last_2", {"layer1", "layer2", "head"})],
)
def test_gradients_reach_the_layers_that_are_not_frozen(
    make: MakeModel, data: TrainingSet, fusion: str, image: str, learning: set[str]
) -> None:
    encoder_gradients = {
        name: grad
        for name, grad in gradients(make(image=image, fusion=fusion), data).items()
        if name.startswith("image_encoder.features.")
    }
    assert {name.split(".")[2] for name in encoder_gradients} == learning
    assert all(grad.isfinite().all() and grad.any() for grad in encoder_gradients.values())


def test_regions_come_from_the_tuned_encoder(make: MakeModel, data: TrainingSet) -> None:
    """Fusions that attend read features of regions too."""
    model = make(fusion="coattention").eval()
    batch = data.products.batch(slice(None))
    before = model.encode_modalities(batch).states[1]
    batch["regions"] = torch.zeros_like(batch["regions"])
    assert torch.equal(model.encode_modalities(batch).states[1], before)


def test_training_changes_only_weights_that_are_not_frozen(
    make: MakeModel, data: TrainingSet, fit_world: FitWorld, tmp_path: Path
) -> None:
    """Batch statistics must not change either; they would in training mode."""
    for image, moving in (
        ("last_1", ("layer2", "head")),
        ("all", ("layer1.0", "layer1.1", "layer2", "head")),
    ):
        model = make(image=image)
        before = weights(model.image_encoder)
        fit_world(model, tmp_path / f"{image}.pt", data=data, epochs=2)
        learned = {name for name in before if name.startswith(moving) and name.endswith(("weight", "bias"))}
        assert changed(before, weights(model.image_encoder)) == learned


def test_training_with_adapters_changes_nothing_published(
    make: MakeModel, data: TrainingSet, fit_world: FitWorld, tmp_path: Path
) -> None:
    """A checkpoint holds only what training changes."""
    model = make(image="lora_2")
    assert model.image_encoder
    before = published_state(model.image_encoder.features)
    published = {name: value.clone() for name, value in before.items()}
    fit_world(model, tmp_path / "c.pt", data=data, epochs=1)
    assert changed(published, published_state(model.image_encoder.features)) == set()
    factors = extract_adapters(model.image_encoder.features)
    assert len(factors) == 2 * 3 and all(factor.any() for factor in factors.values())
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    for held in (state["model"], state["average"]["weights"], state["best"]):
        encoder = {name for name in held if name.startswith("image_encoder.features.")}
        parameters = {name for name in encoder if not name.endswith(("mean", "running_var", "tracked"))}
        assert len(parameters) == 2 * 3 and all(is_adapter(name) for name in parameters)


def test_groups_of_learning_rates(make: MakeModel) -> None:
    """New layers, published layers, adapters; in each, biases do not decay."""
    for image, share, expected in (
        ("last_1", 0.05, {"layer2.0.weight", "layer2.0.bias", "head.weight", "head.bias"}),
        (
            "lora_2",
            0.5,
            {f"{name}.lora_{x}.default.weight" for name in ("layer1.0", "layer2.0", "head") for x in "AB"},
        ),
    ):
        model = make(image=image)
        names = {weight: name for name, weight in model.named_parameters()}
        schedule = Schedule(1, 1, 8, 0.1, 0.05, 0.3, False, 0)
        groups = parameter_groups(model, schedule)
        rates = {names[weight]: group["lr"] for group in groups for weight in group["params"]}
        decays = {names[weight]: group["weight_decay"] for group in groups for weight in group["params"]}
        tuned = {f"image_encoder.features.{name}" for name in expected}
        assert {name: rate for name, rate in rates.items() if name in tuned} == dict.fromkeys(
            tuned, pytest.approx(0.1 * share)
        )
        assert {rate for name, rate in rates.items() if name not in tuned} == {0.1}
        assert rates.keys() == {name for weight, name in names.items() if weight.requires_grad}
        assert all(
            decay == 0.3 * (weight.ndim > 1)
            for weight, decay in ((model.get_parameter(name), decay) for name, decay in decays.items())
        )


def test_the_average_shares_frozen_weights(make: MakeModel) -> None:
    model = make(image="last_1")
    average = WeightAverage(model)
    pairs = list(zip(model.parameters(), average.model.parameters(), strict=True))
    assert all((mine is other) == (not mine.requires_grad) for mine, other in pairs)
    for value in (1.0, 2.0):
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.fill_(value)
        average.update(model)
    expected = torch.tensor(EMA_DECAY + (1 - EMA_DECAY) * 2)
    for weight, other in pairs:
        if weight.requires_grad:
            torch.testing.assert_close(other.detach(), expected.expand_as(other))


def test_statistics_of_features_are_those_of_the_start(
    make: MakeModel, data: TrainingSet, fit_world: FitWorld, tmp_path: Path
) -> None:
    model = make(fusion="attention")
    fit_world(model, tmp_path / "c.pt", data=data, epochs=1)
    expected = copy.deepcopy(model)
    expected.measure(data.products.take(data.products.has_image))
    assert torch.equal(model.standardise.mean, expected.standardise.mean)
    assert torch.equal(model.standardise_regions.std, expected.standardise_regions.std)


def test_the_encoder_has_no_dropout(make: MakeModel, data: TrainingSet) -> None:
    model = make(dropout=0.0).train()
    assert model.training and model.image_encoder and not model.image_encoder.features.training
    batch = data.products.batch(slice(None))
    assert torch.equal(model.encode_product(batch), model.encode_product(batch))


@pytest.mark.parametrize("image", ["all", "lora_2"])
def test_chunks_give_the_same_gradients(make: MakeModel, data: TrainingSet, image: str) -> None:
    model = make(image=image, fusion="attention")
    expected, chunked = gradients(model, data), gradients(model, data, chunk=7)
    assert expected.keys() == chunked.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(chunked[name], grad, atol=1e-4, rtol=1e-3)


@every_fusion
def test_half_precision_as_on_a_gpu(make: MakeModel, data: TrainingSet, fusion: str) -> None:
    model = make(image="all", fusion=fusion)
    batch = data.products.batch(slice(None))
    expected = model.encode_product(batch)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model.encode_product(batch)
    half = gradients(model, data, precision="bf16")
    torch.testing.assert_close(vectors, expected, atol=0.05, rtol=0)
    full = gradients(model, data)
    for name in (name for name in full if name.startswith("image_encoder.")):
        cosine = torch.nn.functional.cosine_similarity(half[name].flatten(), full[name].flatten(), 0)
        assert cosine > 0.9, name


@every_fusion
def test_missing_pictures_have_no_influence(make: MakeModel, data: TrainingSet, fusion: str) -> None:
    """A product's vector does not depend on others in the batch, with or without a picture."""
    model, few = make(fusion=fusion), data.products.take(slice(12))
    assert 0 < few.has_image.sum() < 12
    together = embed(model, few, "product")
    for row in range(12):
        single = embed(model, few.take(slice(row, row + 1)), "product")[0]
        np.testing.assert_allclose(together[row], single, atol=1e-5)
    blind = embed(model, few.without("image"), "product")
    np.testing.assert_allclose(together[~few.has_image], blind[~few.has_image], atol=1e-6)
    assert (np.abs(together - blind).max(1) > 1e-3).tolist() == few.has_image.tolist()


def test_many_pictures_at_once(make: MakeModel, data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(fusion="attention")
    expected = embed(model, data.products, "product")
    monkeypatch.setattr("fusion.model.PICTURES_AT_ONCE", 7)
    np.testing.assert_allclose(embed(model, data.products, "product"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "image"), [*((name, "all") for name in FUSIONS.entries), ("coattention", "lora_2")]
)
def test_the_saved_model_ranks_as_the_trained_model(
    make: MakeModel,
    data: TrainingSet,
    reader: Featurizer,
    fit_world: FitWorld,
    tmp_path: Path,
    fusion: str,
    image: str,
) -> None:
    """Pictures → features of the tuned encoder → the model that reads features."""
    features, folder = tmp_path / "features", tmp_path / "model"
    for path in (features / "products", folder):
        path.mkdir(parents=True)
    reader.save(features)
    pq.write_table(data.products.to_table(), features / "products" / "000000.parquet")
    data.products.save_pictures(features / "products" / "000000.npy")

    model = make(image=image, fusion=fusion)
    fit_world(model, tmp_path / "c.pt", data=data, epochs=2, learning_rate=0.1)
    queries, products = embed(model, data.queries, "query"), embed(model, data.products, "product")
    model.save(folder)
    reader.save(folder)
    assert model.image_encoder
    model.image_encoder.save(folder / "encoder.safetensors")

    loaded = ProductSearchModel.load(folder)
    assert loaded.image_encoder is None and loaded.config == model.config
    items = load_items(features, "products", folder, loaded.attends)
    if loaded.attends:
        main_pictures = items.without_galleries().batch(slice(None))["pictures"]
        regions = model.image_encoder(main_pictures)[1].detach().numpy()
        np.testing.assert_allclose(items.regions[items.has_image], regions, atol=1e-3)
        assert np.abs(items.regions - data.products.regions).max() > 5e-3
    loaded_products = embed(loaded, items, "product")
    rounding = 5e-3  # features have half precision
    np.testing.assert_allclose(loaded_products, products, atol=rounding)
    np.testing.assert_allclose(queries @ loaded_products.T, queries @ products.T, atol=rounding)
    untuned = embed(loaded, data.products, "product")
    assert np.abs(untuned - products).max() > 4 * rounding, "the features before tuning differ"
    reader.save(folder)
    (folder / ADAPTERS).unlink(missing_ok=True)
    same = load_items(features, "products", folder, loaded.attends)
    assert np.array_equal(same.images, data.products.images)
    assert not any(picture is not None for picture in same.pictures), "pictures are loaded only after tuning"


class KilledError(Exception):
    """Stops a run in the middle."""


@pytest.mark.parametrize("image", ["last_1", "lora_2"])
def test_an_interrupted_run_ends_as_one_never_stopped(
    make: MakeModel, data: TrainingSet, fit_world: FitWorld, tmp_path: Path, image: str
) -> None:
    scores = [0.1, 0.3, 0.2]
    uninterrupted, stopped = make(image=image), make(image=image)
    values = iter(scores)
    history = fit_world(
        uninterrupted, tmp_path / "uninterrupted.pt", lambda *_: next(values), data=data, epochs=3
    )
    first_scores = iter(scores[:2])

    def killed(*_: object) -> float:
        try:
            return next(first_scores)
        except StopIteration:
            raise KilledError from None

    with pytest.raises(KilledError):
        fit_world(stopped, tmp_path / "c.pt", killed, data=data, epochs=3)
    resumed = make(seed=99, image=image)
    assert fit_world(resumed, tmp_path / "c.pt", lambda *_: scores[2], data=data, epochs=3) == history
    state, expected = resumed.state_dict(), uninterrupted.state_dict()
    assert state.keys() == expected.keys() and any(name.startswith("image_encoder.") for name in state)
    assert changed(state, expected) == set()
