"""Each measure with known vectors, so that its value is known."""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score
from vitrine_judge.report import Measure

from catalog import store
from catalog.schema import EXACT
from fusion.facets import Facets
from fusion.features import Items
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel
from scoring import auxiliary_evaluation as module
from scoring.auxiliary_evaluation import MAX_RETRIEVAL_PRODUCTS, evaluate_auxiliary_tasks


@pytest.fixture
def measured(
    data: Path, features: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, str, str], Measure]:
    """Measures of a model that gives every product the same direction for all modalities."""

    def known(_: object, items: Items, role: str, only: Collection[str] = ()) -> np.ndarray:
        directions = np.eye(100, dtype=np.float32)
        return directions[[int(key.removeprefix("p")) for key in items.ids]]

    monkeypatch.setattr(module, "embed", known)
    network = ProductSearchModel.load(model)
    products = Items.load(features, "products")
    measures = evaluate_auxiliary_tasks(
        data, features, network, products, known(network, products, "product")
    )
    return {(measure.task, measure.view, measure.metric): measure for measure in measures}


def test_titles_and_pictures_that_agree_are_found(
    measured: dict[tuple[str, str, str], Measure], features: Path
) -> None:
    products = Items.load(features, "products")
    held_out = int(((products.splits == "test") & products.has_image).sum())
    assert 1 < held_out < MAX_RETRIEVAL_PRODUCTS
    for task in ("title → picture", "picture → title"):
        assert measured[task, "", "recall@1"].value == measured[task, "", "mrr@100"].value == 1
        assert measured[task, "", "recall@1"].basis == f"{held_out} held-out products"


def test_a_product_is_not_similar_to_itself(
    measured: dict[tuple[str, str, str], Measure], data: Path
) -> None:
    """All directions are orthogonal, so only chance ranks similar products high, and never the product itself."""
    judged = store.read_table(data, "judgements").to_pandas()
    queries = store.read_table(data, "queries", ["query_id", "split"]).to_pandas()
    test = queries[queries.split == "test"].query_id
    exact = judged[(judged.grade == EXACT) & judged.query_id.isin(test)]
    several = exact.groupby("query_id").product_id.transform("size") > 1
    recall = measured["similar products", "", "recall@10"]
    assert recall.basis == f"{exact[several].product_id.nunique()} products as queries"
    assert recall.value < 1


def test_tags_are_judged_on_held_out_products_that_state_them(
    data: Path, features: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is right about all but the first product."""
    products = Items.load(features, "products")
    facets = Facets.load(features, Featurizer.load(model).vocabulary)
    truth = facets.values[:, facets.columns.index("category")]
    labels = facets.labels[facets.columns.index("category")]
    predicted = truth - 1
    wrong = np.flatnonzero((products.splits == "test") & (truth > 0))
    predicted[wrong[0]] = (predicted[wrong[0]] + 1) % len(labels)
    row_of = {key: row for row, key in enumerate(products.ids)}

    def predict_tags(items: Items, only: Collection[str]) -> list[np.ndarray]:
        return [predicted[[row_of[key] for key in items.ids]]]

    network = SimpleNamespace(
        config=SimpleNamespace(tags={"category": labels}, modalities=("text", "image")),
        predict_tags=predict_tags,
    )
    measure, *_ = module._evaluate_tags(network, products, facets)  # type: ignore[arg-type]
    expected = f1_score(truth[wrong] - 1, predicted[wrong], average="macro")
    assert (measure.task, measure.view, measure.metric) == ("tags: category", "from all", "macro-F1")
    assert measure.value == pytest.approx(expected)
    assert 0 < measure.value < 1
