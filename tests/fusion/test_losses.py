import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from catalog.schema import COMPLEMENT, EXACT, GAINS, IRRELEVANT, SUBSTITUTE
from fusion.losses import IGNORED, UNJUDGED, graded_contrastive
from fusion.model import ProductSearchModel
from fusion.training import joint_loss

quick = settings(deadline=None, max_examples=50)


def loss(scores: list[list[float]], grades: list[list[int]]) -> float:
    return graded_contrastive(torch.tensor(scores), torch.tensor(grades)).item()


def test_one_exact_among_equal_scores() -> None:
    assert loss([[0.0, 0.0, 0.0]], [[EXACT, UNJUDGED, IRRELEVANT]]) == pytest.approx(math.log(3))


def test_by_hand() -> None:
    # softmax of (ln 2, 0, 0) is (1/2, 1/4, 1/4); targets are 1/1.1 and 0.1/1.1
    exact, substitute = GAINS[EXACT], GAINS[SUBSTITUTE]
    expected = (exact * math.log(2) + substitute * math.log(4)) / (exact + substitute)
    assert loss([[math.log(2), 0.0, 0.0]], [[EXACT, SUBSTITUTE, UNJUDGED]]) == pytest.approx(expected)


def test_mean_over_answerable_queries_alone() -> None:
    first, second = [1.0, 2.0, 0.0], [0.5, -1.0, 3.0]
    grades = [EXACT, UNJUDGED, SUBSTITUTE]
    alone = (loss([first], [grades]) + loss([second], [grades])) / 2
    nothing = [IRRELEVANT, UNJUDGED, IRRELEVANT]
    assert loss([first, [9.0, 0.0, 0.0], second], [grades, nothing, grades]) == pytest.approx(alone)


@quick
@given(
    st.integers(1, 6),
    st.integers(2, 8),
    st.integers(0, 1000),
    st.sampled_from([UNJUDGED, IRRELEVANT]),
    st.sampled_from([EXACT, SUBSTITUTE, COMPLEMENT]),
)
def test_one_target_makes_it_infonce(queries: int, products: int, seed: int, rest: int, grade: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(queries, products, generator=generator)
    target = torch.randint(products, (queries,), generator=generator)
    grades = torch.full((queries, products), rest).scatter(1, target[:, None], grade)
    torch.testing.assert_close(graded_contrastive(scores, grades), cross_entropy(scores, target))


def test_pull_falls_with_the_grade() -> None:
    scores = torch.zeros(1, 5, requires_grad=True)
    grades = torch.tensor([[EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT, UNJUDGED]])
    graded_contrastive(scores, grades).backward()
    assert scores.grad is not None
    exact, substitute, complement, irrelevant, unjudged = (-scores.grad[0]).tolist()
    assert exact > substitute > complement > irrelevant
    assert exact > 0 > irrelevant, "drawn near, pushed away"
    assert unjudged == pytest.approx(irrelevant), "what nobody judged is a negative"


def test_what_is_ignored_might_as_well_not_be_there() -> None:
    with_it = torch.tensor([[1.0, 9.0, -2.0]], requires_grad=True)
    value = graded_contrastive(with_it, torch.tensor([[EXACT, IGNORED, UNJUDGED]]))
    value.backward()
    assert value.item() == pytest.approx(loss([[1.0, -2.0]], [[EXACT, UNJUDGED]]))
    assert with_it.grad is not None and with_it.grad[0, 1] == 0


def test_nothing_to_learn() -> None:
    scores = torch.randn(3, 3, requires_grad=True)
    value = graded_contrastive(scores, torch.tensor([[UNJUDGED] * 3, [IRRELEVANT] * 3, [IGNORED] * 3]))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None and (scores.grad == 0).all()


def test_no_products() -> None:
    scores = torch.zeros(2, 0, requires_grad=True)
    assert graded_contrastive(scores, torch.zeros(2, 0, dtype=torch.int64)).item() == 0


@pytest.fixture
def batches() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Two queries by text, and four products: two with both modalities, one with text, one with a picture."""
    torch.manual_seed(1)

    def batch(text: list[bool], image: list[bool]) -> dict[str, Tensor]:
        has_text, has_image = torch.tensor(text), torch.tensor(image)
        tokens = torch.randint(2, 40, (len(text), 3)) * has_text[:, None]
        images = torch.randn(len(text), 16) * has_image[:, None]
        regions = images.view(len(image), 4, 4)
        return {
            "tokens": tokens,
            "images": images,
            "regions": regions,
            "has_text": has_text,
            "has_image": has_image,
        }

    grades = torch.tensor(
        [[EXACT, UNJUDGED, SUBSTITUTE, IRRELEVANT], [UNJUDGED, SUBSTITUTE, UNJUDGED, EXACT]]
    )
    products = batch([True, True, True, False], [True, True, False, True])
    return batch([True, True], [False, False]), products, grades


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.25), (0.0, 0.0), (2.0, 0.0)])
def test_joint_loss_is_its_formula(
    make_model: Callable[..., ProductSearchModel],
    batches: tuple[dict[str, Tensor], dict[str, Tensor], Tensor],
    alpha: float,
    beta: float,
) -> None:
    model, (queries, products, grades) = make_model(), batches
    losses = joint_loss(model, queries, products, grades, alpha=alpha, beta=beta, modality_dropout=0.0)
    asked = model.scale * model.encode_query(queries)

    def through(modality: str) -> Tensor:
        has = products[f"has_{modality}"]
        return graded_contrastive(asked @ model.encode_product(products, [modality])[has].T, grades[:, has])

    fused = graded_contrastive(asked @ model.encode_product(products).T, grades)
    torch.testing.assert_close(losses["text"], through("text"))
    torch.testing.assert_close(losses["vision"], through("image"))
    torch.testing.assert_close(losses["fused"], fused)
    torch.testing.assert_close(losses["loss"], alpha * losses["text"] + beta * losses["vision"] + fused)


def test_dropped_modalities_change_only_the_fused_loss(
    make_model: Callable[..., ProductSearchModel],
    batches: tuple[dict[str, Tensor], dict[str, Tensor], Tensor],
) -> None:
    model, (queries, products, grades) = make_model(), batches
    kept, dropped = (
        joint_loss(model, queries, products, grades, alpha=0.5, beta=0.5, modality_dropout=share)
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(kept["text"], dropped["text"])
    torch.testing.assert_close(kept["vision"], dropped["vision"])
    assert (kept["fused"] - dropped["fused"]).abs() > 1e-5


def test_a_product_never_loses_its_only_modality(
    make_model: Callable[..., ProductSearchModel],
    batches: tuple[dict[str, Tensor], dict[str, Tensor], Tensor],
) -> None:
    model, (queries, products, grades) = make_model(), batches
    single = {name: value[2:] for name, value in products.items()}
    kept, dropped = (
        joint_loss(model, queries, single, grades[:, 2:], alpha=1, beta=1, modality_dropout=share)["fused"]
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(kept, dropped)


def test_a_catalogue_without_pictures(
    make_model: Callable[..., ProductSearchModel],
    batches: tuple[dict[str, Tensor], dict[str, Tensor], Tensor],
) -> None:
    model, (queries, products, grades) = make_model().train(), batches
    written = {name: value[2:3] for name, value in products.items()}
    losses = joint_loss(model, queries, written, grades[:, 2:3], alpha=1, beta=1, modality_dropout=0.2)
    losses["loss"].backward()
    assert losses["vision"].item() == 0
    assert all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())
