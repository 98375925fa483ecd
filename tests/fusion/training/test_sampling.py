from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.schema import EXACT, GRADES, IRRELEVANT
from fusion.encoders.vocabulary import NO_TOKENS, PAD, UNKNOWN
from fusion.facets import CATEGORY, COLUMNS, Facets
from fusion.features import Items
from fusion.training.losses import IGNORED, UNJUDGED
from fusion.training.sampling import JudgementIndex, Pairs, TrainingSet, draw_word_queries

QUERIES, PRODUCTS = 6, 9
quick = settings(deadline=None, max_examples=50)
truths = st.dictionaries(
    st.tuples(st.integers(0, QUERIES - 1), st.integers(0, PRODUCTS - 1)), st.sampled_from(GRADES), min_size=1
)
FACET_WORDS = 20
Truth = dict[tuple[int, int], int]


def index_judgements(truth: Truth) -> JudgementIndex:
    query, product = np.array(list(truth)).T
    return JudgementIndex.build(query, product, np.array(list(truth.values()), np.int8), PRODUCTS)


@quick
@given(truths, st.lists(st.integers(0, QUERIES - 1)), st.lists(st.integers(0, PRODUCTS - 1)))
def test_lookup(truth: Truth, queries: list[int], products: list[int]) -> None:
    judgements = index_judgements(truth)
    grades = judgements.lookup(np.array(queries, np.int64)[:, None], np.array(products, np.int64))
    assert grades.shape == (len(queries), len(products))
    assert grades.tolist() == [[truth.get((q, p), UNJUDGED) for p in products] for q in queries]


@quick
@given(truths, st.lists(st.integers(0, QUERIES - 1)), st.booleans(), st.integers(0, 99))
def test_draw(truth: Truth, queries: list[int], exact: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = index_judgements(truth).draw_products(np.array(queries, np.int64), exact, rng).tolist()
    choices = [
        {p for (q, p), grade in truth.items() if q == query and (grade == EXACT) == exact}
        for query in queries
    ]
    choices = [choice for choice in choices if choice]
    assert len(drawn) == len(choices)
    assert all(product in choice for product, choice in zip(drawn, choices, strict=True))


def test_every_candidate_is_drawn_some_time() -> None:
    truth = {(0, 1): EXACT, (0, 4): EXACT, (0, 5): 0, (1, 2): EXACT}
    rng, judgements = np.random.default_rng(0), index_judgements(truth)
    assert {judgements.draw_products(np.array([0]), True, rng).item() for _ in range(60)} == {1, 4}


@pytest.fixture
def training(make_items: Callable[..., Items]) -> TrainingSet:
    """Products of all splits: some with unknown words, some without text, two with the same words."""
    rng = np.random.default_rng(3)
    tokens = np.where(np.arange(6) < rng.integers(1, 7, (40, 1)), rng.integers(1, 9, (40, 6)), PAD)
    tokens[7] = tokens[8]
    splits = rng.choice(["train", "valid", "test"], 40)
    images = rng.normal(size=(40, 4))
    queries = make_items(rng.integers(2, 9, (10, 3)), np.zeros((10, 4)), np.zeros(10, bool), prefix="q")
    products = make_items(tokens, images, prefix="p", splits=splits)
    query, product = np.nonzero(rng.random((10, 40)) < 0.3)
    return TrainingSet(
        products, queries, JudgementIndex.build(query, product, rng.integers(0, 4, len(query)), 40)
    )


def known(row: np.ndarray) -> set[int]:
    return set(row.tolist()) - {PAD, UNKNOWN}


@pytest.mark.parametrize("seed", range(5))
def test_pseudo_queries_are_made_of_the_products_own_words(training: TrainingSet, seed: int) -> None:
    queries = draw_word_queries(training.products, NO_TOKENS, np.random.default_rng(seed))
    assert queries.ids.tolist() == training.products.ids.tolist()
    for row, source in zip(queries.tokens, training.products.tokens, strict=True):
        count = np.count_nonzero(row)
        assert (row[count:] == PAD).all(), "words, then padding"
        assert known(row) == set(row[:count].tolist()) <= known(source), "known words of its text"
        assert (count > 0) == bool(known(source))
        remaining = iter(source.tolist())
        assert all(token in remaining for token in row[:count].tolist()), "in the text's order"


@pytest.mark.parametrize("width", range(1, 7))
def test_pseudo_queries_of_short_texts(make_items: Callable[..., Items], width: int) -> None:
    texts = np.arange(2, 2 + 4 * width).reshape(4, width)
    products = make_items(texts, np.zeros((4, 4)))
    queries = draw_word_queries(products, NO_TOKENS, np.random.default_rng(0))
    assert all(known(row) <= known(text) for row, text in zip(queries.tokens, texts, strict=True))


def test_pseudo_queries_have_no_joint_vector(training: TrainingSet) -> None:
    """That of the product would tell which product it was."""
    joint = {"products": np.ones((40, 3), np.float16), "queries": np.ones((10, 3), np.float16)}
    items = {name: replace(getattr(training, name), joint=vectors) for name, vectors in joint.items()}
    nothing = Pairs.empty()
    for step in replace(training, **items).draw_epoch(8, np.random.default_rng(0), nothing):
        is_pseudo = np.char.startswith(step.queries.ids.astype(str), "p")
        assert is_pseudo.any() and not is_pseudo.all()
        np.testing.assert_array_equal(step.queries.joint.any(1), ~is_pseudo)


def test_pseudo_queries_differ_from_draw_to_draw(training: TrainingSet) -> None:
    first, second = (
        draw_word_queries(training.products, NO_TOKENS, np.random.default_rng(seed)).tokens for seed in (0, 1)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_pseudo_queries_have_all_pieces_of_their_words(make_items: Callable[..., Items], seed: int) -> None:
    """The words are 2|10|11, 3, 4|12 and 5 to 9; the pieces from 10 on continue a word."""
    text = np.array([[2, 10, 11, 3, 4, 12, 5, 6, 7, 8, 9, PAD]])
    products = make_items(np.repeat(text, 30, 0), np.zeros((30, 4)))
    queries = draw_word_queries(products, np.arange(10, 13, dtype=np.int32), np.random.default_rng(seed))
    counts = set()
    for row in queries.tokens.tolist():
        counts.add(sum(2 <= token < 10 for token in row))
        for first, rest in ((2, [10, 11]), (4, [12])):
            place = row.index(first) if first in row else None
            assert (place is not None) == (rest[0] in row)
            assert place is None or row[place + 1 : place + 1 + len(rest)] == rest
    assert counts == {1, 2, 3, 4, 5}


def epoch(training: TrainingSet, batch_size: int = 8, seed: int = 0, hard: Pairs | None = None) -> list[Any]:
    return list(training.draw_epoch(batch_size, np.random.default_rng(seed), hard or Pairs.empty()))


def test_judged_queries_meet_their_hard_negatives(training: TrainingSet) -> None:
    """Of the ten queries, the even ones have two hard negatives each; at least one is in each step."""
    hard = Pairs(np.repeat(np.arange(0, 10, 2), 2), np.arange(10, 20))
    met: dict[int, set[int]] = {query: set() for query in range(10)}
    for step in (step for seed in range(9) for step in epoch(training, seed=seed, hard=hard)):
        for query in (int(item[1:]) for item in step.queries.ids if item.startswith("q")):
            negatives = {10 + query, 11 + query} & set(step.products.tolist())
            assert negatives or query % 2
            met[query] |= negatives
    assert all(len(met[query]) == 2 for query in range(0, 10, 2)), "each negative in some step"


def test_an_epoch_asks_for_every_training_product_once_and_for_no_other(training: TrainingSet) -> None:
    steps = epoch(training)
    assert len(steps) == training.steps_per_epoch(8)
    products = set(training.products.ids)
    sources = [item for step in steps for item in step.queries.ids if item in products]
    answerable = [
        i
        for i, row, split in zip(
            training.products.ids, training.products.tokens, training.products.splits, strict=True
        )
        if split == "train" and known(row)
    ]
    assert len(sources) == len(set(sources))
    assert set(answerable) <= set(sources) <= set(training.products.ids[training.products.splits == "train"])


@pytest.mark.parametrize("seed", range(3))
def test_grades_are_the_truth(training: TrainingSet, seed: int) -> None:
    """A judged pair has its grade; a pseudo-query is answered by every product that has all its words."""
    row_of = {item: row for row, item in enumerate(training.queries.ids)}
    triples = zip(
        training.judgements.query, training.judgements.product, training.judgements.grade, strict=True
    )
    truth = {(q, p): grade for q, p, grade in triples}
    for step in epoch(training, seed=seed):
        assert step.grades.shape == (len(step.queries), len(step.products))
        assert (np.diff(step.products) > 0).all(), "each product once"
        for item, tokens, grades in zip(step.queries.ids, step.queries.tokens, step.grades, strict=True):
            for product, grade in zip(step.products, grades, strict=True):
                if item in row_of:
                    assert grade == truth.get((row_of[item], product), UNJUDGED)
                else:
                    answers = known(tokens) <= known(training.products.tokens[product])
                    assert grade == (EXACT if answers else UNJUDGED)


def test_each_query_finds_its_answers_in_the_batch(training: TrainingSet) -> None:
    exact = {training.queries.ids[q] for q in training.judgements.query[training.judgements.grade == EXACT]}
    for step in epoch(training):
        answered = set(step.queries.ids[(step.grades == EXACT).any(1)])
        assert set(step.queries.ids) & exact <= answered
        assert set(step.queries.ids) & set(training.products.ids) <= answered


def test_a_query_without_words_teaches_nothing(make_items: Callable[..., Items]) -> None:
    """A product without a known word makes no word query; in particular not one that all products answer."""
    products = make_items(np.pad([[UNKNOWN, 0], [0, 0], [5, 6], [7, 8]], ((0, 0), (0, 4))), np.ones((4, 4)))
    queries = make_items(np.array([[5, 6]]), np.zeros((1, 4)), np.array([False]), prefix="q")
    training = TrainingSet(
        products, queries, JudgementIndex.build(*np.array([[0], [2], [EXACT]]), product_count=4)
    )
    for step in epoch(training):
        wordless = (step.queries.tokens == PAD).all(1) & ~step.queries.has_image
        assert (step.grades[wordless] == UNJUDGED).all()


@pytest.fixture
def faceted(training: TrainingSet) -> TrainingSet:
    """The same training set with columns; each value has a word of its own as its name."""
    rng = np.random.default_rng(5)
    has_value = rng.random((40, len(COLUMNS))) < 0.7
    values = (rng.integers(1, 4, (40, len(COLUMNS))) * has_value).astype(np.int32)
    names = [np.zeros((4, 2), np.int32) for _ in COLUMNS]
    for number, column_names in enumerate(names):
        column_names[1:, 0] = FACET_WORDS + 3 * number + np.arange(3)
    return replace(training, catalogue_facets=Facets(COLUMNS, ((),) * len(COLUMNS), values, tuple(names)))


def test_facets_make_queries_of_words_and_pictures_of_the_training_side(faceted: TrainingSet) -> None:
    products, facets = faceted.products, faceted.facets
    row_of = {item: row for row, item in enumerate(products.ids)}
    training_side = products.images[products.splits == "train"]
    used_facets, used_pictures = 0, 0
    for step in (step for seed in range(5) for step in epoch(faceted, seed=seed)):
        pictures = step.queries.regions.reshape(step.queries.images.shape)
        assert np.array_equal(pictures, step.queries.images), "regions belong to the same picture"
        for item, tokens, image, has_image, grades in zip(
            step.queries.ids, step.queries.tokens, step.queries.images, step.queries.has_image, step.grades,
            strict=True,
        ):  # fmt: skip
            if item not in row_of:
                continue
            source = row_of[item]
            assert products.splits[source] == "train"
            source_words = {
                int(names[value, 0]) for names, value in zip(facets.names, facets.values[source], strict=True)
            }
            assert known(tokens) <= known(products.tokens[source]) or known(tokens) <= source_words
            used_facets += bool(known(tokens) & source_words)
            if has_image:
                assert (training_side == image).all(1).any(), "no picture of the other splits"
                used_pictures += 1
            if known(tokens) or has_image:
                assert grades[step.products == source].item() == EXACT, "its source is relevant"
            assert set(grades.tolist()) <= {EXACT, UNJUDGED, IGNORED}
    assert used_facets > 0
    assert used_pictures > 0


def test_same_generator_same_epoch(training: TrainingSet) -> None:
    for first, second in zip(epoch(training), epoch(training), strict=True):
        assert np.array_equal(first.queries.tokens, second.queries.tokens)
        assert np.array_equal(first.products, second.products)
        assert np.array_equal(first.grades, second.grades)
    assert not np.array_equal(epoch(training)[0].queries.tokens, epoch(training, seed=1)[0].queries.tokens)


@pytest.mark.parametrize("batch_size", [2, 3, 9, 1000])
def test_any_batch_size(training: TrainingSet, batch_size: int) -> None:
    steps = epoch(training, batch_size)
    assert len(steps) == training.steps_per_epoch(batch_size)
    assert all(len(step.queries) <= batch_size for step in steps)


def test_facets_on_which_exact_products_agree() -> None:
    """Query 0 asks for the first facet, query 1 for both; query 2 has too few exact products to tell."""
    values = np.array([[1, 1], [1, 2], [1, 0], [2, 3], [2, 3], [0, 3], [3, 3]])
    grades = {
        0: {0: EXACT, 1: EXACT, 2: EXACT, 6: IRRELEVANT},
        1: {3: EXACT, 4: EXACT, 5: EXACT},
        2: {6: EXACT},
    }
    rows = np.array([(q, p, grade) for q, products in grades.items() for p, grade in products.items()])
    judgements = JudgementIndex.build(*rows.T, len(values))
    assert judgements.facet_agreement(values, np.arange(3)).tolist() == [1.0, 0.5]
    assert judgements.facet_agreement(values, np.array([0])).tolist() == [1.0, 0.0]
    assert np.isnan(judgements.facet_agreement(values, np.array([2]))).all()
    assert np.isnan(judgements.facet_agreement(values, np.array([], int))).all()


def test_chances_are_those_of_the_judged_queries(faceted: TrainingSet) -> None:
    """All columns of `faceted` but the category are drawn at random, so its queries ask for none of them."""
    assert faceted.facet_chances[CATEGORY] == 1
    assert faceted.facet_chances.shape == faceted.visible_facets.shape == (len(COLUMNS),)
    assert set(faceted.facet_chances[1:]) <= {0.0, 0.5}
    assert faceted.visible_facets.tolist() == [True, False, True, False], "no picture queries: the default"


def test_tags_are_of_the_training_side(faceted: TrainingSet) -> None:
    rows = np.arange(len(faceted.products))[::-1]
    tags = faceted.tags(["color", "category"], rows)[::-1]
    train = faceted.products.splits == "train"
    assert 0 < train.sum() < len(train)
    assert (tags[~train] == -1).all()
    stated = faceted.facets.values[:, [COLUMNS.index("color"), COLUMNS.index("category")]]
    np.testing.assert_array_equal(tags[train], stated[train] - 1)


@pytest.mark.parametrize(
    ("agreement", "chance"), [(0.0, 0.0), (0.1, 0.0), (0.3, 0.5), (0.8, 0.8), (1.0, 1.0), (np.nan, 0.5)]
)
def test_a_rare_facet_is_never_asked_for(
    faceted: TrainingSet, monkeypatch: pytest.MonkeyPatch, agreement: float, chance: float
) -> None:
    monkeypatch.setattr(JudgementIndex, "facet_agreement", lambda *_: np.full(len(COLUMNS), agreement))
    assert replace(faceted).facet_chances.tolist() == [1.0, *[chance] * (len(COLUMNS) - 1)]
