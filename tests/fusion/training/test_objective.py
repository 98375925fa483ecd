"""The joint loss against its formula, whole and in chunks, in one process and in two."""

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
from fusion.entities import UNKNOWABLE
from fusion.features import MODALITIES, Items
from fusion.fusions import FUSIONS
from fusion.model import ProductSearchModel
from fusion.training.losses import LOSSES, UNJUDGED, answerable, contrastive
from fusion.training.objective import UNTAGGED, Objective, joint_loss

MakeModel = Callable[..., ProductSearchModel]
Batch = tuple[Items, Items, np.ndarray, np.ndarray, np.ndarray]
PLAIN = Objective(alpha=0.5, beta=0.25, gamma=0.3, delta=0.4, modality_dropout=0.0)
TAGS = {"category": ["mug", "sofa", "shirt"], "color": ["red", "blue"]}


@pytest.fixture
def make_model(make_model: MakeModel) -> MakeModel:
    return partial(make_model, video_encoder="conv3d", tags=TAGS)


@pytest.fixture(scope="module")
def batch(make_items: Callable[..., Items]) -> Batch:
    """Seven queries, by text, picture or both, and eleven products, some with one modality, some with a clip."""
    rng = np.random.default_rng(1)

    def items(has_text: list[int], has_image: list[int]) -> Items:
        tokens = rng.integers(2, 40, (len(has_text), 5)) * np.array(has_text)[:, None]
        images = rng.normal(size=(len(has_text), 16)) * np.array(has_image)[:, None]
        return make_items(tokens, images, np.array(has_image, bool))

    grades = rng.choice([EXACT, SUBSTITUTE, IRRELEVANT, UNJUDGED], (7, 11), p=[0.15, 0.15, 0.2, 0.5])
    grades[3] = UNJUDGED  # nobody knows what answers it
    queries = items([1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 1])
    products = items([1, 1, 1, 0] * 2 + [1] * 3, [1, 1, 0, 1] * 2 + [1] * 3)
    products.tokens[9] = products.tokens[8]  # sold twice
    for row in (0, 3, 4, 8, 9):
        products.videos[row] = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tags = rng.integers(UNTAGGED, (3, 2), (11, 2))
    return queries, products, grades, np.arange(11) // 4, tags


def run(model: ProductSearchModel, batch: Batch, objective: Objective, seed: int = 0) -> dict[str, float]:
    """Losses; the gradients are left in the model."""
    torch.manual_seed(0)
    model.zero_grad()
    loss, values = joint_loss(model, *batch, objective, np.random.default_rng(seed))
    loss.backward()
    return values


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.25), (0.0, 0.0), (2.0, 0.0)])
def test_it_is_its_formula(make_model: MakeModel, batch: Batch, loss: str, alpha: float, beta: float) -> None:
    model, (queries, products, grades, _, tags) = make_model(), batch
    objective = replace(PLAIN, loss=loss, alpha=alpha, beta=beta)
    values = run(model, batch, objective)
    asked = model.scale * model.encode_query(queries.batch(slice(None)))

    def mean(has: np.ndarray, *only: str) -> float:
        judged = torch.from_numpy(grades[:, has])
        seen = model.encode_product(products.batch(has), only)
        return contrastive(asked @ seen.T, judged, loss)[answerable(judged, loss)].mean().item()

    text, image, video = (mean(products.present[:, i], name) for i, name in enumerate(MODALITIES))
    fused = mean(np.ones(len(products), bool), *MODALITIES)
    tagged = np.mean([tag_loss(model, products, kind, tags[:, kind]) for kind in range(len(TAGS))])
    paired = pair_loss(model, products)
    whole = alpha * text + beta * (image + video) + fused + 0.3 * tagged + 0.4 * paired
    expected = {"loss": whole, "tags": tagged, "pairs": paired, "fused": fused}
    expected |= {"text": text, "vision": image, "video": video}
    assert values == pytest.approx(expected, rel=1e-5)


def tag_loss(model: ProductSearchModel, products: Items, kind: int, values: np.ndarray) -> float:
    """The mean over the products that have a value, each as often as it is seen."""
    found = []
    for only in (MODALITIES, *([name] for name in MODALITIES)):
        seen = products.present[:, [name in only for name in MODALITIES]].any(1) & (values != UNTAGGED)
        logits = model.tag(model.encode_product(products.batch(seen), only))[kind]
        found += nn.functional.cross_entropy(
            logits, torch.from_numpy(values[seen]), reduction="none"
        ).tolist()
    return float(np.mean(found))


def pair_loss(model: ProductSearchModel, products: Items) -> float:
    """Over the products that have both, each against the others whose text is another."""
    both = products.present[:, :2].all(1)
    batch = products.batch(both)
    texts, pictures = (model.encode_product(batch, [name]) for name in ("text", "image"))
    scores, words = model.scale * texts @ pictures.T, products.tokens[both]
    found = []
    for table in (scores, scores.T):
        for row, values in enumerate(table):
            rivals = [other == row or (words[other] != words[row]).any() for other in range(len(table))]
            found.append((values[rivals].logsumexp(0) - values[row]).item())
    return float(np.mean(found))


def test_dropped_modalities_change_only_the_fused_loss(make_model: MakeModel, batch: Batch) -> None:
    model = make_model()
    kept, dropped = (run(model, batch, replace(PLAIN, modality_dropout=share)) for share in (0.0, 1.0))
    assert (kept["text"], kept["vision"]) == (dropped["text"], dropped["vision"])
    assert abs(kept["fused"] - dropped["fused"]) > 1e-5


def test_swapped_pictures_change_only_the_fused_loss(make_model: MakeModel, batch: Batch) -> None:
    model = make_model()
    own, swapped = (run(model, batch, replace(PLAIN, picture_swap=share)) for share in (0.0, 1.0))
    same = ("text", "vision", "video", "pairs")
    assert [own[term] for term in same] == [swapped[term] for term in same]
    assert abs(own["fused"] - swapped["fused"]) > 1e-5


def test_pictures_are_swapped_within_a_category(make_model: MakeModel, batch: Batch) -> None:
    queries, products, grades, _, tags = batch
    alone = queries, products, grades, np.arange(len(products)), tags
    own, swapped = (run(make_model(), alone, replace(PLAIN, picture_swap=share)) for share in (0.0, 1.0))
    assert own == swapped


def test_a_product_without_words_keeps_its_picture(make_model: MakeModel, batch: Batch) -> None:
    queries, products, grades, categories, tags = batch
    single = np.flatnonzero(~products.present[:, :2].all(1))
    part = queries, products.take(single), grades[:, single], categories[single], tags[single]
    own, swapped = (run(make_model(), part, replace(PLAIN, picture_swap=share)) for share in (0.0, 1.0))
    assert own == swapped


def test_a_product_never_loses_its_only_modality(make_model: MakeModel, batch: Batch) -> None:
    queries, products, grades, categories, tags = batch
    single = np.flatnonzero(products.present.sum(1) == 1)
    part = queries, products.take(single), grades[:, single], categories[single], tags[single]
    kept, dropped = (run(make_model(), part, replace(PLAIN, modality_dropout=share)) for share in (0.0, 1.0))
    assert kept == dropped


def test_a_catalogue_without_pictures(make_model: MakeModel, batch: Batch) -> None:
    queries, products, grades, categories, tags = batch
    model = make_model().train()
    with_text = products.present[:, 0]
    written = products.without("image").without("video").take(with_text)
    part = queries, written, grades[:, with_text], categories[with_text], tags[with_text]
    values = run(model, part, PLAIN)
    assert values["vision"] == values["video"] == values["pairs"] == 0
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize("fusion", list(FUSIONS.entries))
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_give_the_same_gradients(make_model: MakeModel, batch: Batch, fusion: str, chunk: int) -> None:
    model = make_model(fusion=fusion, dropout=0.0).train()
    swapping = replace(PLAIN, picture_swap=0.5)
    whole, expected = run(model, batch, swapping), gradients(model)
    assert run(model, batch, replace(swapping, chunk=chunk)) == pytest.approx(whole, rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_chunks_drop_the_same_twice(
    make_model: MakeModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made again for the gradients has the dropout that the loss was computed with."""
    model = make_model(dropout=0.5).train()
    cached = replace(PLAIN, chunk=3)
    values, found = run(model, batch, cached), gradients(model)
    monkeypatch.setattr(
        "fusion.training.objective.checkpoint", lambda function, part, use_reentrant: function(part)
    )
    assert run(model, batch, cached) == pytest.approx(values, rel=1e-6)
    for name, expected in gradients(model).items():
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-5, msg=name)


def test_chunks_are_not_kept(make_model: MakeModel, batch: Batch) -> None:
    """Between forward and backward, the text encoder's activations of no chunk remain."""
    model = make_model().train()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    def size(objective: Objective) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            joint_loss(model, *batch, objective, np.random.default_rng(0))
        return sum(kept)

    assert size(replace(PLAIN, chunk=2)) < 0.2 * size(PLAIN)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(make_model: MakeModel, batch: Batch, tmp_path: Path) -> None:
    """Whole and in chunks. Each has half of the queries and products; the numbers of both are odd."""
    make_model(fusion="attention", dropout=0.0, entities=["color", "brand"]).save(tmp_path)
    for name, items in zip(("queries", "products"), batch[:2], strict=True):
        pq.write_table(items.to_table(), tmp_path / name)
    for name, array in zip(("grades", "categories", "tags"), batch[2:], strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(
        tmp_path / "entities.npy", np.random.default_rng(0).integers(UNKNOWABLE, 3, batch[0].tokens.shape)
    )
    objectives = [PLAIN, replace(PLAIN, chunk=2, modality_dropout=0.5, picture_swap=0.5)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    script = Path(__file__).with_name("gradients.py")
    runpy.run_path(str(script))["main"](tmp_path, tmp_path / "one", objectives)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    told = json.dumps([asdict(objective) for objective in objectives])
    subprocess.run(
        [sys.executable, *torchrun, script, tmp_path, tmp_path / "two", told], check=True, timeout=120
    )
    expected, *both = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one/0.pt", "two/0.pt", "two/1.pt")
    )
    for each in both:
        for found, one in zip(each, expected, strict=True):
            assert found["values"] == pytest.approx(one["values"], rel=1e-5)
            for name, gradient in found["gradients"].items():
                torch.testing.assert_close(gradient, one["gradients"][name], atol=1e-5, rtol=1e-5, msg=name)
            assert max(gradient.abs().max() for gradient in one["gradients"].values()) > 1e-2
