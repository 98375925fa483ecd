"""Distillation: the loss against its formula, what a model learns from it alone, and files of teachers."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import DataError
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.training.distillation import Imitation, Teacher
from fusion.training.losses import IGNORED
from fusion.training.objective import LossBatch, Objective, joint_loss
from fusion.training.sampling import Pairs, TrainingSet

MakeModel = Callable[..., ProductSearchModel]
FitWorld = Callable[..., list[dict[str, float]]]
ALONE = Objective(distillation=2.0, modality_dropout=0.0)
QUERIES, PRODUCTS, WIDTH, SCALE = 5, 8, 6, 12.0
NO_QUERY, NO_PRODUCT = 2, 3  # rows that the teacher does not encode


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    rng = np.random.default_rng(2)
    products, queries = (unit(rng.normal(size=(count, WIDTH))) for count in (PRODUCTS, QUERIES))
    products[NO_PRODUCT], queries[NO_QUERY] = 0, 0
    return Teacher(SCALE, products.astype(np.float16), queries.astype(np.float16))


@pytest.fixture(scope="module")
def batch(make_items: Callable[..., Items], teacher: Teacher) -> LossBatch:
    """Queries and products without any label."""
    rng = np.random.default_rng(1)
    queries = make_items(rng.integers(2, 40, (QUERIES, 5)))
    products = make_items(rng.integers(2, 40, (PRODUCTS, 5)), rng.normal(size=(PRODUCTS, 16)))
    grades = np.full((QUERIES, PRODUCTS), IGNORED)
    return LossBatch(
        queries, products, grades, np.zeros(PRODUCTS, np.int64), np.zeros((PRODUCTS, 0), np.int64), teacher
    )


def run(model: ProductSearchModel, batch: LossBatch, objective: Objective = ALONE) -> dict[str, float]:
    """The values of the losses; the model holds the gradients."""
    torch.manual_seed(0)
    model.zero_grad()
    loss, values = joint_loss(model, batch, objective, np.random.default_rng(0))
    loss.backward()
    return values


def divergence(student: list[float], teacher: list[float]) -> float:
    """KL(softmax of the teacher's scores ‖ softmax of the student's)."""
    shares = [
        [math.exp(score) / sum(map(math.exp, scores)) for score in scores] for scores in (student, teacher)
    ]
    return sum(t * math.log(t / s) for s, t in zip(*shares, strict=True))


def test_the_loss_is_its_formula(make_model: MakeModel, batch: LossBatch, teacher: Teacher) -> None:
    model = make_model()
    values = run(model, batch)
    products = model.encode_product(batch.products.batch(slice(None))).detach().numpy()
    queries = model.encode_query(batch.queries.batch(slice(None))).detach().numpy()
    halves = []
    for student_rows, teacher_rows, self_excluded in (
        (queries, teacher.queries, False),
        (products, teacher.products, True),
    ):
        losses = []
        for row, (student, reference) in enumerate(
            zip(student_rows, teacher_rows.astype(float), strict=True)
        ):
            others = [
                other
                for other in range(PRODUCTS)
                if other != NO_PRODUCT and not (self_excluded and other == row)
            ]
            if reference.any():
                losses.append(
                    divergence(
                        (model.scale.item() * products[others] @ student).tolist(),
                        (SCALE * teacher.products[others].astype(float) @ reference).tolist(),
                    )
                )
        halves.append(np.mean(losses))
    assert values["distillation"] == pytest.approx(np.mean(halves), rel=1e-4)
    assert values["loss"] == pytest.approx(values["fused"] + 2.0 * values["distillation"], rel=1e-6)


def test_without_a_teacher_there_is_no_term(make_model: MakeModel, batch: LossBatch) -> None:
    values = run(make_model(), batch._replace(teacher=None))
    assert "distillation" not in values and values["loss"] == values["fused"] == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_a_teacher_of_any_width_and_direction_is_the_same(seed: int, wider: int) -> None:
    """A rotation and more dimensions leave all similarities unchanged. The loss is never negative."""
    rng = np.random.default_rng(seed)
    vectors, scores = unit(rng.normal(size=(PRODUCTS, WIDTH))), torch.randn(PRODUCTS, PRODUCTS)
    rotation = np.linalg.qr(rng.normal(size=(WIDTH + wider, WIDTH + wider)))[0]
    turned = np.pad(vectors, ((0, 0), (0, wider))) @ rotation
    rows = np.arange(PRODUCTS)
    losses = [
        Imitation(Teacher(SCALE, kind.astype(np.float32), kind.astype(np.float32)), scores.device)
        for kind in (vectors, turned)
    ]
    for compare in ("compare_queries", "compare_products"):
        first, second = (getattr(imitation, compare)(scores, rows) for imitation in losses)
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)
        assert (first >= -1e-6).all()


def test_nothing_is_left_to_learn_from_itself(make_model: MakeModel, batch: LossBatch) -> None:
    model = make_model()
    products = embed(model, batch.products, "product")
    queries = embed(model, batch.queries, "query")
    itself = Teacher(model.scale.item(), products.astype(np.float16), queries.astype(np.float16))
    assert (
        run(model, batch._replace(teacher=itself))["distillation"] < 1e-5 < run(model, batch)["distillation"]
    )


def test_a_teacher_that_encodes_nothing_teaches_nothing(
    make_model: MakeModel, batch: LossBatch, teacher: Teacher
) -> None:
    blank = replace(teacher, products=np.zeros_like(teacher.products), queries=np.zeros_like(teacher.queries))
    model = make_model()
    assert run(model, batch._replace(teacher=blank))["loss"] == 0
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_chunks_give_the_same_gradients(make_model: MakeModel, batch: LossBatch, precision: str) -> None:
    model = make_model(dropout=0.0).train()
    objective = replace(ALONE, precision=precision)
    values = run(model, batch, objective)
    expected = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    assert run(model, batch, replace(objective, chunk=2)) == pytest.approx(values, rel=1e-5)
    tolerance = {"float32": 1e-5, "bf16": 0.02}[precision]
    for name, grad in expected.items():
        learned = model.get_parameter(name).grad
        torch.testing.assert_close(learned, grad, atol=tolerance, rtol=tolerance, msg=name)


def test_a_model_learns_the_order_of_its_teacher(
    make_model: MakeModel, fit_world: FitWorld, world: Any, tmp_path: Path
) -> None:
    """No judgement counts, so that only the teacher says which products belong to words that the model knows."""
    training: TrainingSet = world.training
    judgements = replace(training.judgements, grade=np.full_like(training.judgements.grade, IGNORED))
    unlabelled = replace(training, judgements=judgements)
    kinds, colours = np.divmod(np.arange(len(training.products)) // 2, 5)
    products = np.concatenate([np.eye(6)[kinds], np.eye(5)[colours]], 1)
    answers = training.judgements.lookup(np.arange(len(training.queries))[:, None], np.arange(60)) == 3
    queries = products[answers.argmax(1)]
    teacher = Teacher(10.0, unit(products).astype(np.float16), unit(queries).astype(np.float16))

    def recall(data: TrainingSet, distillation: float) -> float:
        model = make_model()
        objective = Objective(distillation=distillation, modality_dropout=0.0)
        fit_world(
            model, tmp_path / f"{distillation}.pt", data=data, objective=objective, hard_negatives=False
        )
        scores = embed(model, world.held_out_queries, "query") @ embed(model, data.products, "product").T
        return float(world.recall(scores))

    taught = replace(unlabelled, teacher=teacher)
    assert recall(taught, 1.0) > recall(taught, 0.0) + 0.4


def test_pseudo_queries_have_no_vector(world: Any) -> None:
    """Their ids are those of products; a judged query has its own vector, wherever it is in the step."""
    training: TrainingSet = world.training
    rng = np.random.default_rng(0)
    products, queries = (
        rng.normal(size=(len(items), 3)).astype(np.float16) for items in (training.products, training.queries)
    )
    data = replace(training, teacher=Teacher(SCALE, products, queries))
    rows = {key: row for row, key in enumerate(training.queries.ids)}
    step = next(data.draw_epoch(16, rng, Pairs.empty()))
    part = data.take_teacher(step)
    assert part is not None and np.array_equal(part.products, products[step.products])
    assert len(part.queries) == len(step.queries) == 16
    for key, vector in zip(step.queries.ids, part.queries, strict=True):
        assert np.array_equal(vector, queries[rows[key]] if key in rows else np.zeros(3))
    assert 0 < np.count_nonzero(part.queries.any(1)) < 16


class TestFiles:
    IDS = np.array(["a", "b", "c"], object)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(4, 3)).astype(np.float16)
        Teacher(7.5, vectors, vectors[:3]).save(tmp_path, np.array(["d", *self.IDS[::-1]]), self.IDS)
        return tmp_path

    def write(self, folder: Path, **columns: Any) -> None:
        content = {"id": list(self.IDS), "vector": [[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]} | columns
        for table in ("products", "queries"):
            pq.write_table(pa.table(content), folder / f"{table}.parquet")

    def test_vectors_follow_the_ids(self, folder: Path) -> None:
        loaded = Teacher.load(folder, self.IDS, self.IDS[1:])
        assert loaded.scale == 7.5
        written = np.array(pq.read_table(folder / "products.parquet")["vector"].to_pylist())
        np.testing.assert_allclose(loaded.products, unit(written)[[3, 2, 1]], atol=1e-3)
        assert loaded.products.dtype == np.float16 and len(loaded.queries) == 2

    def test_vectors_of_any_length_and_type_are_read(self, folder: Path) -> None:
        self.write(folder)
        expected = [[0.6, 0.8], [1, 0], [0, 0]]
        np.testing.assert_allclose(Teacher.load(folder, self.IDS, self.IDS).products, expected, atol=1e-3)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"id": ["a", "x", "y"]}, r"products.parquet: lacks 2 of 3 ids, such as b, c; write it with"),
            ({"vector": [[1.0], [1.0, 2.0], [1.0]]}, r"vectors must have one width, not \[1, 2\]"),
            ({"vector": [[1.0], None, [1.0]]}, r"vectors must have one width, not \[1, None\]"),
            ({"vector": [[], [], []]}, r"vectors must have one width, not \[0\]"),
            ({"vector": [[1.0], [math.nan], [1.0]]}, "the vector of b is not finite"),
            ({"vector": [["one"], ["two"], ["three"]]}, "not a table of ids and vectors"),
            ({"vector": [1.0, 2.0, 3.0]}, "not a table of ids and vectors"),
        ],
    )
    def test_a_table_that_does_not_fit(self, folder: Path, columns: dict[str, Any], message: str) -> None:
        self.write(folder, **columns)
        with pytest.raises(DataError, match=message):
            Teacher.load(folder, self.IDS, self.IDS)

    def test_products_and_queries_of_two_models(self, folder: Path) -> None:
        self.write(folder)
        Teacher(1.0, np.ones((3, 5), np.float16), np.ones((3, 5), np.float16)).save(
            folder / "..", self.IDS, self.IDS
        )
        (folder / ".." / "queries.parquet").replace(folder / "queries.parquet")
        with pytest.raises(DataError, match="vectors of products have 2 numbers, those of queries 5"):
            Teacher.load(folder, self.IDS, self.IDS)

    @pytest.mark.parametrize("content", ["{}", "[]", '{"scale": 0}', '{"scale": null}', "scale", None])
    def test_a_scale_that_is_no_number(self, folder: Path, content: str | None) -> None:
        (folder / "teacher.json").unlink()
        if content is not None:
            (folder / "teacher.json").write_text(content)
        with pytest.raises(DataError, match=r"teacher.json: expected \{\"scale\": NUMBER\}.*fusion teach"):
            Teacher.load(folder, self.IDS, self.IDS)

    def test_a_folder_that_is_missing(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"train.teacher: there is no folder '.*absent'; write it with"):
            Teacher.load(folder / "absent", self.IDS, self.IDS)
        (folder / "queries.parquet").unlink()
        with pytest.raises(DataError, match=r"queries.parquet: not a table"):
            Teacher.load(folder, self.IDS, self.IDS)
        assert json.loads((folder / "teacher.json").read_text()) == {"scale": 7.5}
