"""A world of arrays whose truth is known."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from catalog.schema import EXACT, IRRELEVANT
from fusion.encoders.ocr import READERS, open_reader
from fusion.features import Items
from fusion.model import ModelConfig, ProductSearchModel
from fusion.training.loop import Schedule, fit_model
from fusion.training.objective import Objective
from fusion.training.sampling import JudgementIndex, TrainingSet

KINDS, COLOURS, EACH = 6, 5, 2  # 60 products
FEATURES, REGIONS = 16, 4  # width of a picture's features; each of its regions has an equal share of them
JOINT = 12  # width of a joint vector
KIND_WORDS, COLOUR_WORDS, UNIQUE_WORDS = 2, 2 + KINDS, 2 + KINDS + COLOURS
SCHEDULE = Schedule(
    epochs=30,
    patience=30,
    batch_size=64,
    learning_rate=1e-2,
    published_rate=0.01,
    weight_decay=0.01,
    hard_negatives=True,
    seed=0,
)


PLAIN = Objective(alpha=0.5, beta=0.5, modality_dropout=0.0)


class World(NamedTuple):
    """Products with their kind only in the text and their colour only in the picture; queries name both.

    Attributes:
        training: All products, and the queries for some pairs of kind and colour.
        held_out_queries: Queries for the other pairs, which training never sees.
        answers: bool (held-out queries, products), the relevant products.
    """

    training: TrainingSet
    held_out_queries: Items
    answers: np.ndarray

    def recall(self, scores: np.ndarray) -> float:
        """Recall at the number of relevant products."""
        first = np.argsort(-scores, axis=1, kind="stable")[:, :EACH]
        return float(np.take_along_axis(self.answers, first, 1).mean())


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a reader that reads every picture as its own width in words: "48 pixels", and "wide"."""

    class Widths:
        engine, packages = "none", ()

        def __call__(self, picture: Image.Image) -> list[str]:
            return [f"{picture.width} pixels", "wide"] if picture.width > 40 else []

    monkeypatch.setitem(READERS.entries, "widths", Widths)
    yield "widths"
    open_reader.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors here are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_items() -> Callable[..., Items]:
    """N items from their tokens and, if given, pictures and clips: make_items(tokens, images, …)."""

    def make(
        tokens: np.ndarray,
        images: np.ndarray | None = None,
        has_image: np.ndarray | None = None,
        videos: np.ndarray | None = None,
        pictures: np.ndarray | None = None,
        galleries: np.ndarray | None = None,
        joint: np.ndarray | None = None,
        prefix: str = "i",
        splits: np.ndarray | str = "train",
    ) -> Items:
        count = len(tokens)
        has_image = np.full(count, images is not None) if has_image is None else has_image
        images = np.zeros((count, FEATURES)) if images is None else images
        return Items(
            ids=np.array([f"{prefix}{i:03d}" for i in range(count)], object),
            splits=np.array(np.broadcast_to(splits, count), object),
            segments=np.full(count, "", object),
            tokens=np.asarray(tokens, np.int32),
            images=images.astype(np.float16),
            galleries=np.full(count, None, object) if galleries is None else galleries,
            regions=images.astype(np.float16).reshape(count, REGIONS, -1),
            has_image=has_image,
            videos=np.full(count, None, object) if videos is None else videos,
            pictures=np.full(count, None, object) if pictures is None else pictures,
            ocr=np.full(count, None, object),
            joint=np.zeros((count, 0), np.float16) if joint is None else joint.astype(np.float16),
        )

    return make


@pytest.fixture
def items(make_items: Callable[..., Items]) -> Items:
    """Every mixture of text and picture: both, text, picture, neither; and a clip for every third, but the last.

    Items with a text or a picture have a joint vector.
    """
    rng = np.random.default_rng(0)
    has_text, has_image = np.array([1, 1, 0, 0] * 5, bool), np.array([1, 0, 1, 0] * 5, bool)
    tokens = np.where(has_text[:, None], rng.integers(2, 40, (20, 4)), 0)
    images = np.where(has_image[:, None], rng.normal(size=(20, 16)), 0)
    videos = np.full(20, None, object)
    for row in range(0, 18, 3):
        videos[row] = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    joint = np.where((has_text | has_image)[:, None], rng.normal(size=(20, JOINT)), 0)
    return make_items(tokens, images, has_image, videos, joint=joint)


@pytest.fixture(scope="session")
def world(make_items: Callable[..., Items]) -> World:
    """The same for every test; tests must not change it."""
    rng = np.random.default_rng(7)
    kind, colour = (np.repeat(grid.ravel(), EACH) for grid in np.indices((KINDS, COLOURS)))  # of each product
    unique_words = UNIQUE_WORDS + np.arange(len(kind))
    pictures = rng.normal(size=(COLOURS, FEATURES))[colour] + 0.1 * rng.normal(size=(len(kind), FEATURES))
    texts = np.pad(np.stack([KIND_WORDS + kind, unique_words], 1), ((0, 0), (0, 4)))
    products = make_items(texts, pictures, prefix="p")

    pairs = np.stack(np.indices((KINDS, COLOURS)), -1).reshape(-1, 2)
    held_out = (pairs.sum(1) % 3) == 0
    answers = (pairs[:, :1] == kind) & (pairs[:, 1:] == colour)
    grades = np.where(answers, EXACT, IRRELEVANT)
    words = np.stack([KIND_WORDS + pairs[:, 0], COLOUR_WORDS + pairs[:, 1]], 1)
    queries = make_items(words[~held_out], prefix="q")
    query, product = np.nonzero(np.ones_like(grades[~held_out], bool))
    judgements = JudgementIndex.build(query, product, grades[~held_out].ravel(), len(kind))
    held_out_queries = make_items(words[held_out], prefix="v", splits="valid")
    return World(TrainingSet(products, queries, judgements), held_out_queries, answers[held_out])


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ProductSearchModel]:
    """An untrained model of the world's size; the same weights each time unless seed or settings differ."""

    def make(seed: int = 0, **settings: Any) -> ProductSearchModel:
        torch.manual_seed(seed)
        config = {
            "vocabulary": UNIQUE_WORDS + KINDS * COLOURS * EACH,
            "image_features": FEATURES,
            "region_features": FEATURES // REGIONS,
        }
        return ProductSearchModel(ModelConfig(**(config | {"dim": 32, "hidden": 64} | settings))).eval()

    return make


@pytest.fixture(scope="session")
def fit_world(world: World) -> Callable[..., list[dict[str, float]]]:
    """`fit_model` on the world: fit_world(model, checkpoint, validate, …). By default the last epoch is the best."""

    def fit(
        model: ProductSearchModel,
        checkpoint: Path,
        validate: Callable[[ProductSearchModel, np.ndarray], float] | None = None,
        data: TrainingSet = world.training,
        objective: Objective = PLAIN,
        report: Callable[[dict[str, float]], None] = lambda _: None,
        **schedule: Any,
    ) -> list[dict[str, float]]:
        rising = itertools.count(1.0)
        return fit_model(
            model,
            data,
            validate or (lambda *_: next(rising)),
            objective,
            replace(SCHEDULE, **schedule),
            checkpoint=checkpoint,
            report=report,
        )

    return fit
