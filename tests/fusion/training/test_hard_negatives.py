from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE
from fusion.model import ProductSearchModel, embed
from fusion.training import hard_negatives
from fusion.training.hard_negatives import MAX_SCORE_RATIO, RANKING_DEPTH, mine_hard_negatives
from fusion.training.sampling import JudgementIndex, Pairs, TrainingSet

MakeModel = Callable[..., ProductSearchModel]


@pytest.fixture
def data(world: Any) -> TrainingSet:
    """The world with a third of its products in other splits, a third of the judgements missing and some substitutes;
    the first query has no exact product."""
    training: TrainingSet = world.training
    rng = np.random.default_rng(1)
    splits = np.where(np.arange(len(training.products)) % 3, "train", "test").astype(object)
    query, product, grade = (getattr(training.judgements, name) for name in ("query", "product", "grade"))
    grade = np.where((grade == IRRELEVANT) & (rng.random(len(grade)) < 0.1), SUBSTITUTE, grade)
    grade = np.where(query == 0, np.minimum(grade, SUBSTITUTE), grade)
    rows = rng.random(len(grade)) < 0.67
    judgements = JudgementIndex.build(query[rows], product[rows], grade[rows], len(training.products))
    return replace(training, products=replace(training.products, splits=splits), judgements=judgements)


def mine(model: ProductSearchModel, data: TrainingSet, seed: int = 0) -> Pairs:
    embeddings = embed(model, data.products, "product")
    return mine_hard_negatives(model, data, embeddings, np.random.default_rng(seed))


def expected_pairs(model: ProductSearchModel, data: TrainingSet) -> set[tuple[int, int]]:
    scores = embed(model, data.queries, "query") @ embed(model, data.products, "product").T
    grades = data.judgements.lookup(np.arange(len(scores))[:, None], np.arange(scores.shape[1]))
    candidates = set(data.training_rows.tolist())
    pairs = set()
    for query, row in enumerate(scores):
        ranking = [product for product in np.argsort(-row, kind="stable").tolist() if product in candidates]
        exact = [row[product] for product in ranking if grades[query, product] == EXACT]
        pairs |= {
            (query, product)
            for product in ranking[:RANKING_DEPTH]
            if grades[query, product] <= IRRELEVANT and exact and row[product] < MAX_SCORE_RATIO * max(exact)
        }
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_mines_irrelevant_products_of_high_rank(make_model: MakeModel, data: TrainingSet, seed: int) -> None:
    model = make_model(seed=seed)
    mined = mine(model, data)
    pairs = list(zip(mined.query.tolist(), mined.product.tolist(), strict=True))
    assert len(pairs) > len(data.queries)
    assert set(pairs) == expected_pairs(model, data)
    assert len(pairs) == len(set(pairs))
    assert mined.query.tolist() == sorted(mined.query)
    assert 0 not in mined.query, "without an exact product there is no threshold"


def test_candidates_are_a_sample_of_many_products(
    make_model: MakeModel, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hard_negatives, "MAX_CANDIDATES", 10)
    first, repeated, other = (mine(make_model(), data, seed) for seed in (0, 0, 1))
    assert 0 < len(set(first.product)) <= 10
    assert np.array_equal(first.product, repeated.product)
    assert set(first.product) != set(other.product)


def test_nothing_to_mine(make_model: MakeModel, data: TrainingSet) -> None:
    nothing = replace(data.products, splits=np.full(len(data.products), "test", object))
    mined = mine(make_model(), replace(data, products=nothing))
    assert isinstance(mined, Pairs) and len(mined.query) == 0
