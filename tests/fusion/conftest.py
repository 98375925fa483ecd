"""A world of arrays whose truth is known, and a saved model with a real image encoder."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from catalog.schema import EXACT, IRRELEVANT
from fusion.encoders.image import ImageEncoder
from fusion.encoders.video import Clips
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items
from fusion.featurizer import Featurizer
from fusion.model import ModelConfig, ProductSearchModel
from fusion.training.loop import fit
from fusion.training.objective import Objective
from fusion.training.sampling import Judged, TrainingSet

KINDS, COLOURS, EACH = 6, 5, 2  # 60 products
FEATURES, REGIONS = 16, 4  # width of a picture's features; each of its regions has an equal share of them
KIND_WORDS, COLOUR_WORDS, OWN_WORDS = 2, 2 + KINDS, 2 + KINDS + COLOURS
FIT: dict[str, Any] = {
    "epochs": 30,
    "patience": 30,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "weight_decay": 0.01,
    "hard_negatives": True,
    "seed": 0,
}


PLAIN = Objective(alpha=0.5, beta=0.5, modality_dropout=0.0)


class World(NamedTuple):
    """Products whose kind only the text states and whose colour only the picture shows; queries name both.

    Attributes:
        training: All products, and the queries for some pairs of kind and colour.
        asked: Queries for the other pairs, which training never sees.
        answers: bool (asked, products), what answers each.
    """

    training: TrainingSet
    asked: Items
    answers: np.ndarray

    def recall(self, scores: np.ndarray) -> float:
        """Share of the answers among each query's first products, as many as it has answers."""
        first = np.argsort(-scores, axis=1, kind="stable")[:, :EACH]
        return float(np.take_along_axis(self.answers, first, 1).mean())


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors here are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_items() -> Callable[..., Items]:
    """N items from their tokens, and pictures and clips where they are given: make_items(tokens, images, …)."""

    def make(
        tokens: np.ndarray,
        images: np.ndarray | None = None,
        has_image: np.ndarray | None = None,
        videos: np.ndarray | None = None,
        pictures: np.ndarray | None = None,
        prefix: str = "i",
        splits: np.ndarray | str = "train",
    ) -> Items:
        count = len(tokens)
        seen = np.full(count, images is not None) if has_image is None else has_image
        images = np.zeros((count, FEATURES)) if images is None else images
        return Items(
            ids=np.array([f"{prefix}{i:03d}" for i in range(count)], object),
            splits=np.array(np.broadcast_to(splits, count), object),
            segments=np.full(count, "", object),
            tokens=np.asarray(tokens, np.int32),
            images=images.astype(np.float16),
            regions=images.astype(np.float16).reshape(count, REGIONS, -1),
            has_image=seen,
            videos=np.full(count, None, object) if videos is None else videos,
            pictures=np.full(count, None, object) if pictures is None else pictures,
        )

    return make


@pytest.fixture
def items(make_items: Callable[..., Items]) -> Items:
    """Every mixture of text and picture: both, text, picture, neither; and a clip for every third, but the last."""
    rng = np.random.default_rng(0)
    has_text, has_image = np.array([1, 1, 0, 0] * 5, bool), np.array([1, 0, 1, 0] * 5, bool)
    tokens = np.where(has_text[:, None], rng.integers(2, 40, (20, 4)), 0)
    images = np.where(has_image[:, None], rng.normal(size=(20, 16)), 0)
    videos = np.full(20, None, object)
    for row in range(0, 18, 3):
        videos[row] = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return make_items(tokens, images, has_image, videos)


@pytest.fixture(scope="session")
def world(make_items: Callable[..., Items]) -> World:
    """The same for every test; nobody may change it."""
    rng = np.random.default_rng(7)
    kind, colour = (np.repeat(grid.ravel(), EACH) for grid in np.indices((KINDS, COLOURS)))  # of each product
    own = OWN_WORDS + np.arange(len(kind))
    pictures = rng.normal(size=(COLOURS, FEATURES))[colour] + 0.1 * rng.normal(size=(len(kind), FEATURES))
    texts = np.pad(np.stack([KIND_WORDS + kind, own], 1), ((0, 0), (0, 4)))
    products = make_items(texts, pictures, prefix="p")

    pairs = np.stack(np.indices((KINDS, COLOURS)), -1).reshape(-1, 2)
    held_out = (pairs.sum(1) % 3) == 0
    answers = (pairs[:, :1] == kind) & (pairs[:, 1:] == colour)
    grades = np.where(answers, EXACT, IRRELEVANT)
    words = np.stack([KIND_WORDS + pairs[:, 0], COLOUR_WORDS + pairs[:, 1]], 1)
    queries = make_items(words[~held_out], prefix="q")
    query, product = np.nonzero(np.ones_like(grades[~held_out], bool))
    judged = Judged.build(query, product, grades[~held_out].ravel(), len(kind))
    asked = make_items(words[held_out], prefix="v", splits="valid")
    return World(TrainingSet(products, queries, judged), asked, answers[held_out])


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ProductSearchModel]:
    """An untrained model of the world's size; the same weights each time unless seed or settings differ."""

    def make(seed: int = 0, **settings: Any) -> ProductSearchModel:
        torch.manual_seed(seed)
        config = {
            "vocabulary": OWN_WORDS + KINDS * COLOURS * EACH,
            "image_features": FEATURES,
            "region_features": FEATURES // REGIONS,
        }
        return ProductSearchModel(ModelConfig(**(config | {"dim": 32, "hidden": 64} | settings))).eval()

    return make


@pytest.fixture(scope="session")
def train(world: World) -> Callable[..., list[dict[str, float]]]:
    """`fit` on the world, with settings that suit it: train(model, checkpoint, validate, …); the last epoch is best."""

    def run(
        model: ProductSearchModel,
        checkpoint: Path,
        validate: Callable[[ProductSearchModel, np.ndarray], float] | None = None,
        data: TrainingSet = world.training,
        objective: Objective = PLAIN,
        **settings: Any,
    ) -> list[dict[str, float]]:
        rising = itertools.count(1.0)
        return fit(
            model,
            data,
            validate or (lambda *_: next(rising)),
            objective,
            checkpoint=checkpoint,
            **(FIT | settings),
        )

    return run


@pytest.fixture(scope="session")
def encoder() -> ImageEncoder:
    """The one whose weights a package ships."""
    return ImageEncoder.pretrained("efficientnet_lite0", grid=2)


@pytest.fixture(scope="session")
def saved(encoder: ImageEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the train stage writes it, of an untrained model; nobody may change it."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(["shirt", "red", "blue", "green", "black", "navy", "or"])
    folder = tmp_path_factory.mktemp("model")
    Featurizer(vocabulary, encoder, Clips("conv3d", 4, {}), image_size=32, max_tokens=8).save(folder)
    ProductSearchModel(
        ModelConfig(len(vocabulary), encoder.width, encoder.region_width, dim=32, hidden=64)
    ).save(folder)
    return folder
