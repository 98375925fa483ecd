from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE
from fusion.model import ProductSearchModel, embed
from fusion.training import hard_negatives
from fusion.training.hard_negatives import FIRST, SURE, mine
from fusion.training.sampling import Judged, Pairs, TrainingSet

MakeModel = Callable[..., ProductSearchModel]


@pytest.fixture
def data(world: Any) -> TrainingSet:
    """The world, but a third of its products on other sides, a third of the judgements unmade, some substitutes; the
    first query has no exact product."""
    training: TrainingSet = world.training
    rng = np.random.default_rng(1)
    splits = np.where(np.arange(len(training.products)) % 3, "train", "test").astype(object)
    judged = training.judged
    grade = np.where(
        (judged.grade == IRRELEVANT) & (rng.random(len(judged.grade)) < 0.1), SUBSTITUTE, judged.grade
    )
    grade = np.where(judged.query == 0, np.minimum(grade, SUBSTITUTE), grade)
    made = rng.random(len(grade)) < 0.67
    some = Judged.build(judged.query[made], judged.product[made], grade[made], judged.products)
    return replace(training, products=replace(training.products, splits=splits), judged=some)


def mined(model: ProductSearchModel, data: TrainingSet, seed: int = 0) -> Pairs:
    return mine(model, data, embed(model, data.products, "product"), np.random.default_rng(seed))


def expected(model: ProductSearchModel, data: TrainingSet) -> set[tuple[int, int]]:
    scores = embed(model, data.queries, "query") @ embed(model, data.products, "product").T
    grades = data.judged.lookup(np.arange(len(scores))[:, None], np.arange(scores.shape[1]))
    own = set(data.own.tolist())
    pairs = set()
    for query, row in enumerate(scores):
        ranking = [product for product in np.argsort(-row, kind="stable").tolist() if product in own]
        exact = [row[product] for product in ranking if grades[query, product] == EXACT]
        pairs |= {
            (query, product)
            for product in ranking[:FIRST]
            if grades[query, product] <= IRRELEVANT and exact and row[product] < SURE * max(exact)
        }
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_mines_what_ranks_high_and_answers_nothing(
    make_model: MakeModel, data: TrainingSet, seed: int
) -> None:
    model = make_model(seed=seed)
    found = mined(model, data)
    pairs = list(zip(found.query.tolist(), found.product.tolist(), strict=True))
    assert len(pairs) > len(data.queries)
    assert set(pairs) == expected(model, data)
    assert len(pairs) == len(set(pairs))
    assert found.query.tolist() == sorted(found.query)
    assert 0 not in found.query, "no exact product, no measure of what scores too high"


def test_looks_at_some_of_many(
    make_model: MakeModel, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hard_negatives, "AMONG", 10)
    one, again, other = (mined(make_model(), data, seed) for seed in (0, 0, 1))
    assert 0 < len(set(one.product)) <= 10
    assert np.array_equal(one.product, again.product)
    assert set(one.product) != set(other.product)


def test_nothing_to_mine(make_model: MakeModel, data: TrainingSet) -> None:
    nothing = replace(data.products, splits=np.full(len(data.products), "test", object))
    found = mined(make_model(), replace(data, products=nothing))
    assert isinstance(found, Pairs) and len(found.query) == 0
