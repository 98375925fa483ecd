"""An image encoder that is trained with the rest of the model: a tiny one, on pictures of plain colours."""

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

from fusion.encoders.image import ENCODERS, Architecture, ImageEncoder
from fusion.encoders.video import Clips
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items
from fusion.featurizer import Featurizer, load_items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel, embed
from fusion.training.objective import Objective, joint_loss
from fusion.training.sampling import Pairs, TrainingSet

MakeModel = Callable[..., ProductSearchModel]
Train = Callable[..., list[dict[str, float]]]
WIDTH, REGION_WIDTH, GRID, SIDE = 12, 8, 2, 32
every_fusion = pytest.mark.parametrize("fusion", list(FUSIONS.entries))


class Tiny(nn.Module):
    """All that an encoder may be made of: batch statistics, and something that training would drop."""

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
    """With the tiny encoder, the same weights each time."""

    def tiny(_: str, __: Mapping[str, Any]) -> Architecture:
        return Architecture(Tiny(), WIDTH, REGION_WIDTH, (0.5,) * 3, (0.25,) * 3, dict)

    monkeypatch.setitem(ENCODERS.entries, "tiny", tiny)
    torch.manual_seed(5)
    encoder = ImageEncoder("tiny", GRID, Tiny().state_dict())
    return Featurizer(Vocabulary([]), encoder, Clips("conv3d", 4, {}), SIDE, max_tokens=6)


@pytest.fixture
def data(world: Any, reader: Featurizer) -> TrainingSet:
    """The world's products with pictures in place of what stood for their features; every fifth has none."""
    count = len(world.training.products)
    rng, shown = np.random.default_rng(3), np.full(count, None, object)
    for row in range(count):
        colour = np.random.default_rng(row // 2 % 5).integers(0, 256, 3)
        noisy = colour + rng.normal(0, 20, (SIDE, SIDE, 3))
        if row % 5:
            shown[row] = noisy.clip(0, 255).astype(np.uint8)

    def pictured(items: Items, pictures: np.ndarray) -> Items:
        empty = {"images": (WIDTH,), "regions": (GRID**2, REGION_WIDTH)}
        zeros = {name: np.zeros((len(items), *shape), np.float16) for name, shape in empty.items()}
        has = np.array([picture is not None for picture in pictures], bool)
        return reader.encode_again(replace(items, **zeros, has_image=has, pictures=pictures))

    products, queries = world.training.products, world.training.queries
    none = np.full(len(queries), None, object)
    return replace(world.training, products=pictured(products, shown), queries=pictured(queries, none))


@pytest.fixture
def make(make_model: MakeModel, reader: Featurizer) -> MakeModel:
    """A model with an encoder to tune: make(seed, image="last_1", …)."""

    def build(seed: int = 0, image: str = "last_1", **settings: Any) -> ProductSearchModel:
        model = make_model(seed, image_features=WIDTH, region_features=REGION_WIDTH, **settings)
        model.image_encoder = copy.deepcopy(reader.encoder)
        model.freeze(image=image)
        return model

    return build


def weights(encoder: ImageEncoder | None) -> dict[str, Tensor]:
    assert encoder
    return {name: value.clone() for name, value in encoder.features.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not value.equal(after[name])}


def gradients(model: ProductSearchModel, data: TrainingSet, chunk: int | None = None) -> dict[str, Tensor]:
    """Of a step's loss, by name."""
    step = next(data.epoch(32, np.random.default_rng(0), Pairs.none()))
    products, objective = data.products.take(step.products), Objective(alpha=0.5, beta=0.5, chunk=chunk)
    known = step.grades, np.zeros(len(products)), np.zeros((len(products), 0), np.int64)
    model.zero_grad()
    loss, _ = joint_loss(model, step.queries, products, *known, objective, np.random.default_rng(0))
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@every_fusion
@pytest.mark.parametrize(
    ("image", "learning"),
    [("last_1", {"layer2", "head"}), ("last_2", {"layer1", "layer2", "head"})],
)
def test_gradients_reach_the_layers_that_are_not_frozen(
    make: MakeModel, data: TrainingSet, fusion: str, image: str, learning: set[str]
) -> None:
    found = gradients(make(image=image, fusion=fusion), data)
    ours = {name: grad for name, grad in found.items() if name.startswith("image_encoder.features.")}
    assert {name.split(".")[2] for name in ours} == learning
    assert all(grad.isfinite().all() and grad.any() for grad in ours.values())


def test_regions_are_seen_by_it(make: MakeModel, data: TrainingSet) -> None:
    """Not only the picture as a whole: fusions that attend read the regions' features too."""
    model = make(fusion="coattention").eval()
    batch = data.products.batch(slice(None))
    before = model.parts(batch).states[1]
    batch["regions"] = torch.zeros_like(batch["regions"])
    assert torch.equal(model.parts(batch).states[1], before)


def test_training_moves_what_it_should_and_nothing_else(
    make: MakeModel, data: TrainingSet, train: Train, tmp_path: Path
) -> None:
    """Batch statistics are no weights, but would move in training mode."""
    for image, moving in (
        ("last_1", ("layer2", "head")),
        ("none", ("layer1.0", "layer1.1", "layer2", "head")),
    ):
        model = make(image=image)
        before = weights(model.image_encoder)
        train(model, tmp_path / f"{image}.pt", data=data, epochs=2)
        learned = {name for name in before if name.startswith(moving) and name.endswith(("weight", "bias"))}
        assert changed(before, weights(model.image_encoder)) == learned


def test_statistics_of_features_are_those_of_the_start(
    make: MakeModel, data: TrainingSet, train: Train, tmp_path: Path
) -> None:
    model = make(fusion="attention")
    train(model, tmp_path / "c.pt", data=data, epochs=1)
    shown = data.products.take(data.products.has_image)
    expected = copy.deepcopy(model)
    expected.measure(shown)
    assert torch.equal(model.standardise.mean, expected.standardise.mean)
    assert torch.equal(model.standardise_regions.std, expected.standardise_regions.std)


def test_drops_nothing(make: MakeModel, data: TrainingSet) -> None:
    model = make(dropout=0.0).train()
    assert model.training and model.image_encoder and not model.image_encoder.features.training
    batch = data.products.batch(slice(None))
    assert torch.equal(model.encode_product(batch), model.encode_product(batch))


def test_chunks_have_the_gradients_of_the_whole(make: MakeModel, data: TrainingSet) -> None:
    model = make(image="none", fusion="attention")
    whole, chunked = gradients(model, data), gradients(model, data, chunk=7)
    assert whole.keys() == chunked.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(chunked[name], grad, atol=1e-4, rtol=1e-3)


@every_fusion
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_half_precision_as_on_a_gpu(make: MakeModel, data: TrainingSet, fusion: str) -> None:
    model = make(image="none", fusion=fusion)
    batch = data.products.batch(slice(None))
    expected = model.encode_product(batch)
    # not every CPU has a kernel of oneDNN for an LSTM in bfloat16
    with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", torch.bfloat16):
        found = model.encode_product(batch)
        half = gradients(model, data)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    whole = gradients(model, data)
    for name in (name for name in whole if name.startswith("image_encoder.")):
        cosine = torch.nn.functional.cosine_similarity(half[name].flatten(), whole[name].flatten(), 0)
        assert cosine > 0.9, name


@every_fusion
def test_missing_pictures_have_no_influence(make: MakeModel, data: TrainingSet, fusion: str) -> None:
    """Each product is what it is alone, beside others with and without a picture."""
    model, few = make(fusion=fusion), data.products.take(slice(12))
    assert 0 < few.has_image.sum() < 12
    together = embed(model, few, "product")
    for row in range(12):
        alone = embed(model, few.take(slice(row, row + 1)), "product")[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-5)
    blind = embed(model, few.without("image"), "product")
    np.testing.assert_allclose(together[~few.has_image], blind[~few.has_image], atol=1e-6)
    assert (np.abs(together - blind).max(1) > 1e-3).tolist() == few.has_image.tolist()


def test_many_pictures_at_once(make: MakeModel, data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(fusion="attention")
    expected = embed(model, data.products, "product")
    monkeypatch.setattr("fusion.model.AT_ONCE", 7)
    np.testing.assert_allclose(embed(model, data.products, "product"), expected, atol=1e-5)


@every_fusion
def test_what_is_saved_ranks_as_what_was_trained(
    make: MakeModel, data: TrainingSet, reader: Featurizer, train: Train, tmp_path: Path, fusion: str
) -> None:
    """Pictures → features of the tuned encoder → the model that reads features."""
    features, folder = tmp_path / "features", tmp_path / "model"
    for path in (features / "products", folder):
        path.mkdir(parents=True)
    reader.save(features)
    pq.write_table(data.products.to_table(), features / "products" / "000000.parquet")
    data.products.save_pictures(features / "products" / "000000.npy")

    model = make(image="none", fusion=fusion)
    train(model, tmp_path / "c.pt", data=data, epochs=2, learning_rate=0.1)
    asked, vectors = embed(model, data.queries, "query"), embed(model, data.products, "product")
    model.save(folder)
    reader.save(folder)
    assert model.image_encoder
    model.image_encoder.save(folder / "encoder.safetensors")

    loaded = ProductSearchModel.load(folder)
    assert loaded.image_encoder is None and loaded.config == model.config
    again = load_items(features, "products", folder, loaded.attends)
    if loaded.attends:
        regions = model.image_encoder(again.batch(slice(None))["pictures"])[1].detach().numpy()
        np.testing.assert_allclose(again.regions[again.has_image], regions, atol=1e-3)
        assert np.abs(again.regions - data.products.regions).max() > 5e-3
    found = embed(loaded, again, "product")
    rounding = 5e-3  # features are kept in half precision
    np.testing.assert_allclose(found, vectors, atol=rounding)
    np.testing.assert_allclose(asked @ found.T, asked @ vectors.T, atol=rounding)
    before = embed(loaded, data.products, "product")
    assert np.abs(before - vectors).max() > 6 * rounding, "the features before tuning are others"
    reader.save(folder)
    same = load_items(features, "products", folder, loaded.attends)
    assert np.array_equal(same.images, data.products.images)
    assert not any(picture is not None for picture in same.pictures), "nothing was tuned, nothing is read"


class KilledError(Exception):
    """What stops a run in the middle."""


def test_an_interrupted_run_ends_as_one_never_stopped(
    make: MakeModel, data: TrainingSet, train: Train, tmp_path: Path
) -> None:
    scores = [0.1, 0.3, 0.2]
    whole, stopped = make(), make()
    values = iter(scores)
    history = train(whole, tmp_path / "whole.pt", lambda *_: next(values), data=data, epochs=3)
    told = iter(scores[:2])

    def killed(*_: object) -> float:
        try:
            return next(told)
        except StopIteration:
            raise KilledError from None

    with pytest.raises(KilledError):
        train(stopped, tmp_path / "c.pt", killed, data=data, epochs=3)
    resumed = make(seed=99)
    assert train(resumed, tmp_path / "c.pt", lambda *_: scores[2], data=data, epochs=3) == history
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys() and any(name.startswith("image_encoder.") for name in ours)
    assert changed(ours, theirs) == set()
