import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from catalog.schema import COMPLEMENT, EXACT, GAINS, GRADES, IRRELEVANT, SUBSTITUTE
from fusion.training.losses import IGNORED, LOSSES, UNJUDGED, answerable, contrastive

quick = settings(deadline=None, max_examples=50)
every_loss = pytest.mark.parametrize("loss", list(LOSSES.entries))


def value(scores: list[float], grades: list[int], loss: str = "graded") -> float:
    return contrastive(torch.tensor([scores]), torch.tensor([grades]), loss).item()


@every_loss
def test_one_exact_among_equal_scores(loss: str) -> None:
    assert value([0.0, 0.0, 0.0], [EXACT, UNJUDGED, IRRELEVANT], loss) == pytest.approx(math.log(3))


def test_graded_by_hand() -> None:
    # the exact product has 2 of 4 among all; the substitute has 1 of 2 among those of lower grade
    exact, substitute = GAINS[EXACT], GAINS[SUBSTITUTE]
    expected = (exact * math.log(4 / 2) + substitute * math.log(2)) / (exact + substitute)
    assert value([math.log(2), 0.0, 0.0], [EXACT, SUBSTITUTE, UNJUDGED]) == pytest.approx(expected)


def test_binary_by_hand() -> None:
    """A substitute counts as irrelevant."""
    scores, grades = [math.log(2), 0.0, 0.0], [EXACT, SUBSTITUTE, UNJUDGED]
    assert value(scores, grades, "binary") == pytest.approx(math.log(4 / 2))


@every_loss
def test_what_has_the_same_grade_does_not_compete(loss: str) -> None:
    """The score of one exact product has no influence on the loss of another."""
    high, low = value([1.0, 0.0], [EXACT, UNJUDGED], loss), value([-2.0, 0.0], [EXACT, UNJUDGED], loss)
    both = value([1.0, -2.0, 0.0], [EXACT, EXACT, UNJUDGED], loss)
    assert both == pytest.approx((high + low) / 2)


@every_loss
@quick
@given(
    st.integers(1, 6),
    st.integers(2, 8),
    st.integers(0, 1000),
    st.sampled_from([UNJUDGED, IRRELEVANT]),
)
def test_one_target_makes_it_infonce(loss: str, queries: int, products: int, seed: int, rest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(queries, products, generator=generator)
    target = torch.randint(products, (queries,), generator=generator)
    grades = torch.full((queries, products), rest).scatter(1, target[:, None], EXACT)
    expected = cross_entropy(scores, target, reduction="none")
    torch.testing.assert_close(contrastive(scores, grades, loss), expected, atol=1e-5, rtol=1e-4)


def test_pull_falls_with_the_grade() -> None:
    scores = torch.zeros(1, 5, requires_grad=True)
    grades = torch.tensor([[EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT, UNJUDGED]])
    contrastive(scores, grades).sum().backward()
    assert scores.grad is not None
    exact, substitute, complement, irrelevant, unjudged = (-scores.grad[0]).tolist()
    assert exact > substitute > complement > irrelevant
    assert exact > 0 > irrelevant, "pulled near, pushed away"
    assert unjudged == pytest.approx(irrelevant), "unjudged products are negatives"


@every_loss
def test_ignored_products_have_no_influence(loss: str) -> None:
    with_it = torch.tensor([[1.0, 9.0, -2.0]], requires_grad=True)
    losses = contrastive(with_it, torch.tensor([[EXACT, IGNORED, UNJUDGED]]), loss)
    losses.sum().backward()
    assert losses.item() == pytest.approx(value([1.0, -2.0], [EXACT, UNJUDGED], loss))
    assert with_it.grad is not None and with_it.grad[0, 1] == 0


@every_loss
@quick
@given(st.lists(st.lists(st.sampled_from([*GRADES, UNJUDGED, IGNORED]), min_size=4, max_size=4), min_size=1))
def test_queries_are_independent_and_those_without_targets_have_no_loss(
    loss: str, grades: list[list[int]]
) -> None:
    grade_table = torch.tensor(grades)
    scores = torch.randn(grade_table.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = contrastive(scores, grade_table, loss)
    losses.sum().backward()
    assert losses.shape == (len(grades),)
    assert (losses >= 0).all()
    for row, expected in enumerate(losses):
        torch.testing.assert_close(
            contrastive(scores[row : row + 1], grade_table[row : row + 1], loss)[0], expected
        )
    targets = [grade for grade, weight in LOSSES[loss].items() if weight]
    assert answerable(grade_table, loss).tolist() == [any(g in targets for g in row) for row in grades]
    silent = ~answerable(grade_table, loss)
    assert (losses[silent] == 0).all()
    assert scores.grad is not None and scores.grad.isfinite().all() and (scores.grad[silent] == 0).all()


def test_no_products() -> None:
    scores = torch.zeros(2, 0, requires_grad=True)
    assert contrastive(scores, torch.zeros(2, 0, dtype=torch.int64)).tolist() == [0, 0]
