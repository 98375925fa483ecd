"""The joint loss against its formula, with and without chunks, in one process and in two."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE
from fusion.entities import UNLABELLED
from fusion.features import MODALITIES, Items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel
from fusion.training.losses import LOSSES, UNJUDGED, answerable, contrastive
from fusion.training.objective import UNTAGGED, LossBatch, Objective, joint_loss

MakeModel = Callable[..., ProductSearchModel]
PLAIN = Objective(alpha=0.5, beta=0.25, gamma=0.3, delta=0.4, modality_dropout=0.0)
TAGS = {"category": ["mug", "sofa", "shirt"], "color": ["red", "blue"]}


@pytest.fixture
def make_model(make_model: MakeModel) -> MakeModel:
    return partial(make_model, video_encoder="conv3d", joint_features=6, tags=TAGS)


@pytest.fixture(scope="module")
def batch(make_items: Callable[..., Items]) -> LossBatch:
    """Seven queries, by text, picture or both, and eleven products, some with one of these, some with a clip, one
    without a joint vector.
    """
    rng = np.random.default_rng(1)

    def items(has_text: list[int], has_image: list[int]) -> Items:
        tokens = rng.integers(2, 40, (len(has_text), 5)) * np.array(has_text)[:, None]
        images = rng.normal(size=(len(has_text), 16)) * np.array(has_image)[:, None]
        joint = rng.normal(size=(len(has_text), 6))
        return make_items(tokens, images, np.array(has_image, bool), joint=joint)

    grades = rng.choice([EXACT, SUBSTITUTE, IRRELEVANT, UNJUDGED], (7, 11), p=[0.15, 0.15, 0.2, 0.5])
    grades[3] = UNJUDGED  # a query without judgements
    queries = items([1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 1])
    products = items([1, 1, 1, 0] * 2 + [1] * 3, [1, 1, 0, 1] * 2 + [1] * 3)
    products.tokens[9] = products.tokens[8]  # sold twice
    products.joint[6] = 0
    for row in (0, 3, 4, 8, 9):
        products.videos[row] = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tags = rng.integers(UNTAGGED, (3, 2), (11, 2))
    return LossBatch(queries, products, grades, np.arange(11) // 4, tags)


def run(model: ProductSearchModel, batch: LossBatch, objective: Objective, seed: int = 0) -> dict[str, float]:
    """The values of the losses; the model holds the gradients."""
    torch.manual_seed(0)
    model.zero_grad()
    loss, values = joint_loss(model, batch, objective, np.random.default_rng(seed))
    loss.backward()
    return values


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


@pytest.mark.parametrize("loss", list(LOSSES.entries))
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.25), (0.0, 0.0), (2.0, 0.0)])
def test_the_loss_is_its_formula(
    make_model: MakeModel, batch: LossBatch, loss: str, alpha: float, beta: float
) -> None:
    model, (queries, products, grades, _, tags, _) = make_model(), batch
    objective = replace(PLAIN, loss=loss, alpha=alpha, beta=beta)
    values = run(model, batch, objective)
    query_vectors = model.scale * model.encode_query(queries.batch(slice(None)))

    def mean(rows: np.ndarray, *modalities: str) -> float:
        row_grades = torch.from_numpy(grades[:, rows])
        scores = query_vectors @ model.encode_product(products.batch(rows), modalities).T
        return contrastive(scores, row_grades, loss)[answerable(row_grades, loss)].mean().item()

    text, image, video, joint = (mean(products.present[:, i], name) for i, name in enumerate(MODALITIES))
    fused = mean(np.ones(len(products), bool), *MODALITIES)
    tagged = np.mean([tag_loss(model, products, kind, tags[:, kind]) for kind in range(len(TAGS))])
    paired = pair_loss(model, products)
    total = alpha * text + beta * (image + video + joint) + fused + 0.3 * tagged + 0.4 * paired
    expected = {"loss": total, "tags": tagged, "pairs": paired, "fused": fused}
    expected |= {"text": text, "vision": image, "video": video, "joint": joint}
    assert values == pytest.approx(expected, rel=1e-5)


def tag_loss(model: ProductSearchModel, products: Items, kind: int, values: np.ndarray) -> float:
    """The mean over all views of the products that have a value."""
    losses = []
    for modalities in (MODALITIES, *([name] for name in MODALITIES)):
        rows = products.has_any(modalities) & (values != UNTAGGED)
        logits = model.score_tags(model.encode_product(products.batch(rows), modalities))[kind]
        losses += nn.functional.cross_entropy(
            logits, torch.from_numpy(values[rows]), reduction="none"
        ).tolist()
    return float(np.mean(losses))


def pair_loss(model: ProductSearchModel, products: Items) -> float:
    """Over the products with text and picture, each against the others with a different text."""
    both = products.present[:, :2].all(1)
    batch = products.batch(both)
    texts, pictures = (model.encode_product(batch, [name]) for name in ("text", "image"))
    scores, words = model.scale * texts @ pictures.T, products.tokens[both]
    losses = []
    for table in (scores, scores.T):
        for row, values in enumerate(table):
            rivals = [other == row or (words[other] != words[row]).any() for other in range(len(table))]
            losses.append((values[rivals].logsumexp(0) - values[row]).item())
    return float(np.mean(losses))


def test_dropped_modalities_change_only_the_fused_loss(make_model: MakeModel, batch: LossBatch) -> None:
    model = make_model()
    plain, dropped = (run(model, batch, replace(PLAIN, modality_dropout=share)) for share in (0.0, 1.0))
    assert (plain["text"], plain["vision"]) == (dropped["text"], dropped["vision"])
    assert abs(plain["fused"] - dropped["fused"]) > 1e-5


def test_swapped_pictures_change_only_the_fused_loss(make_model: MakeModel, batch: LossBatch) -> None:
    model = make_model()
    plain, swapped = (run(model, batch, replace(PLAIN, picture_swap=share)) for share in (0.0, 1.0))
    same = ("text", "vision", "video", "joint", "pairs")
    assert [plain[term] for term in same] == [swapped[term] for term in same]
    assert abs(plain["fused"] - swapped["fused"]) > 1e-5


def test_pictures_are_swapped_within_a_category(make_model: MakeModel, batch: LossBatch) -> None:
    queries, products, grades, _, tags, _ = batch
    single = LossBatch(queries, products, grades, np.arange(len(products)), tags)
    plain, swapped = (run(make_model(), single, replace(PLAIN, picture_swap=share)) for share in (0.0, 1.0))
    assert plain == swapped


def test_a_product_without_words_keeps_its_picture(make_model: MakeModel, batch: LossBatch) -> None:
    queries, products, grades, categories, tags, _ = batch
    single = np.flatnonzero(~products.present[:, :2].all(1))
    part = LossBatch(queries, products.take(single), grades[:, single], categories[single], tags[single])
    plain, swapped = (run(make_model(), part, replace(PLAIN, picture_swap=share)) for share in (0.0, 1.0))
    assert plain == swapped


def test_a_product_never_loses_its_only_modality(make_model: MakeModel, batch: LossBatch) -> None:
    queries, products, grades, categories, tags, _ = batch
    single = np.flatnonzero(products.present.sum(1) == 1)
    part = LossBatch(queries, products.take(single), grades[:, single], categories[single], tags[single])
    plain, dropped = (run(make_model(), part, replace(PLAIN, modality_dropout=share)) for share in (0.0, 1.0))
    assert plain == dropped


def test_a_catalogue_without_clips(make_model: MakeModel, batch: LossBatch) -> None:
    values = run(
        make_model(video_encoder=None), batch._replace(products=batch.products.without("video")), PLAIN
    )
    assert "video" not in values
    assert values["joint"] > 0


def test_a_catalogue_without_pictures(make_model: MakeModel, batch: LossBatch) -> None:
    queries, products, grades, categories, tags, _ = batch
    model = make_model().train()
    with_text = products.present[:, 0]
    written = products.without("image").without("video").without("joint").take(with_text)
    part = LossBatch(queries, written, grades[:, with_text], categories[with_text], tags[with_text])
    values = run(model, part, PLAIN)
    assert values["vision"] == values["video"] == values["joint"] == values["pairs"] == 0
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize("fusion", list(FUSIONS.entries))
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_give_the_same_gradients(
    make_model: MakeModel, batch: LossBatch, fusion: str, chunk: int
) -> None:
    model = make_model(fusion=fusion, dropout=0.0).train()
    swapping = replace(PLAIN, picture_swap=0.5)
    values, expected = run(model, batch, swapping), gradients(model)
    assert run(model, batch, replace(swapping, chunk=chunk)) == pytest.approx(values, rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_chunks_repeat_their_dropout(
    make_model: MakeModel, batch: LossBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second computation, for the gradients, has the same dropout as the first."""
    model = make_model(dropout=0.5).train()
    cached = replace(PLAIN, chunk=3)
    values, cached_gradients = run(model, batch, cached), gradients(model)
    monkeypatch.setattr(
        "fusion.training.objective.checkpoint", lambda function, part, use_reentrant: function(part)
    )
    assert run(model, batch, cached) == pytest.approx(values, rel=1e-6)
    for name, expected in gradients(model).items():
        torch.testing.assert_close(cached_gradients[name], expected, atol=1e-6, rtol=1e-5, msg=name)


def test_chunks_are_not_kept(make_model: MakeModel, batch: LossBatch) -> None:
    """Between forward and backward, no activations of the text encoder remain in memory."""
    model = make_model().train()
    saved_sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved_sizes.append(tensor.numel())
        return tensor

    def size(objective: Objective) -> int:
        saved_sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            joint_loss(model, batch, objective, np.random.default_rng(0))
        return sum(saved_sizes)

    assert size(replace(PLAIN, chunk=2)) < 0.2 * size(PLAIN)


@pytest.mark.parametrize("fusion", list(FUSIONS.entries))
@pytest.mark.parametrize("chunk", [None, 3])
def test_bfloat16_gives_nearly_the_same_loss_and_gradients(
    make_model: MakeModel, batch: LossBatch, fusion: str, chunk: int | None
) -> None:
    model = make_model(fusion=fusion, dropout=0.0).train()
    values, expected = run(model, batch, PLAIN), gradients(model)
    half_values = run(model, batch, replace(PLAIN, precision="bf16", chunk=chunk))
    assert half_values == pytest.approx(values, rel=0.02)
    assert all(half_values[term] != values[term] for term in ("fused", "text", "vision", "video"))
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        if expected[name].any():
            similarity = torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), 0)
            assert similarity > 0.95, name


def test_similarities_and_losses_are_float32_in_bfloat16(
    make_model: MakeModel, batch: LossBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A similarity has eight bits in bfloat16: steps of 0.004, and of 0.06 after the temperature."""
    types = []

    def record(scores: Tensor, *arguments: object) -> Tensor:
        types.append(scores.dtype)
        return contrastive(scores, *arguments)

    monkeypatch.setattr("fusion.training.objective.contrastive", record)
    model = make_model()
    loss, _ = joint_loss(model, batch, replace(PLAIN, precision="bf16"), np.random.default_rng(0))
    assert set(types) == {torch.float32} and loss.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_two_processes_give_the_gradients_of_one(
    make_model: MakeModel, batch: LossBatch, tmp_path: Path
) -> None:
    """Whole and in chunks. Each has half of the queries and products; the numbers of both are odd."""
    make_model(fusion="attention", dropout=0.0, entities=["color", "brand"]).save(tmp_path)
    for name, items in zip(("queries", "products"), batch[:2], strict=True):
        pq.write_table(items.to_table(), tmp_path / name)
    for name, array in zip(("grades", "categories", "tags"), batch[2:5], strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    for name, count in (("teacher_products", 11), ("teacher_queries", 7)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(count).normal(size=(count, 4)))
    np.save(
        tmp_path / "entities.npy", np.random.default_rng(0).integers(UNLABELLED, 3, batch[0].tokens.shape)
    )
    taught = replace(PLAIN, distillation=1.5)
    objectives = [taught, replace(taught, chunk=2, modality_dropout=0.5, picture_swap=0.5)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    script = Path(__file__).with_name("gradients.py")
    runpy.run_path(str(script))["main"](tmp_path, tmp_path / "one", objectives)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = json.dumps([asdict(objective) for objective in objectives])
    subprocess.run(
        [sys.executable, *torchrun, script, tmp_path, tmp_path / "two", arguments], check=True, timeout=120
    )
    expected, *both = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one/0.pt", "two/0.pt", "two/1.pt")
    )
    for results in both:
        for result, single in zip(results, expected, strict=True):
            assert result["values"] == pytest.approx(single["values"], rel=1e-5)
            for name, gradient in result["gradients"].items():
                torch.testing.assert_close(
                    gradient, single["gradients"][name], atol=1e-5, rtol=1e-5, msg=name
                )
            assert max(gradient.abs().max() for gradient in single["gradients"].values()) > 1e-2
