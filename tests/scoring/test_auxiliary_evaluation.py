"""Each measure with vectors that are known, so that its value is."""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from catalog import store
from catalog.schema import EXACT
from eval.report import Measure
from fusion.facets import Facets
from fusion.features import Items
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel
from scoring import auxiliary_evaluation as module
from scoring.auxiliary_evaluation import CANDIDATES, tasks


@pytest.fixture
def measured(
    data: Path, features: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, str, str], Measure]:
    """Of a model that gives every product a direction of its own, whatever it sees of it."""

    def known(_: object, items: Items, role: str, only: Collection[str] = ()) -> np.ndarray:
        directions = np.eye(100, dtype=np.float32)
        return directions[[int(key.removeprefix("p")) for key in items.ids]]

    monkeypatch.setattr(module, "embed", known)
    network = ProductSearchModel.load(model)
    products = Items.load(features, "products")
    found = tasks(data, features, network, products, known(network, products, "product"))
    return {(measure.task, measure.view, measure.metric): measure for measure in found}


def test_titles_and_pictures_that_agree_are_found(
    measured: dict[tuple[str, str, str], Measure], features: Path
) -> None:
    products = Items.load(features, "products")
    held_out = int(((products.splits == "test") & products.has_image).sum())
    assert 1 < held_out < CANDIDATES
    for task in ("title → picture", "picture → title"):
        assert measured[task, "", "recall@1"].value == measured[task, "", "mrr@100"].value == 1
        assert measured[task, "", "recall@1"].basis == f"{held_out} held-out products"


def test_a_product_is_not_similar_to_itself(
    measured: dict[tuple[str, str, str], Measure], data: Path
) -> None:
    """All directions are at right angles, so nothing but chance finds what is alike, and never the product itself."""
    judged = store.read(data, "judgements").to_pandas()
    queries = store.read(data, "queries", ["query_id", "split"]).to_pandas()
    test = queries[queries.split == "test"].query_id
    exact = judged[(judged.grade == EXACT) & judged.query_id.isin(test)]
    several = exact.groupby("query_id").product_id.transform("size") > 1
    found = measured["similar products", "", "recall@10"]
    assert found.basis == f"{exact[several].product_id.nunique()} products as queries"
    assert found.value < 1


def test_tags_are_judged_on_held_out_products_that_state_them(
    data: Path, features: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is right about all but the first product."""
    products = Items.load(features, "products")
    facets = Facets.load(features, Featurizer.load(model).vocabulary)
    truth = facets.values[:, facets.columns.index("category")]
    labels = facets.labels[facets.columns.index("category")]
    said = truth - 1
    wrong = np.flatnonzero((products.splits == "test") & (truth > 0))
    said[wrong[0]] = (said[wrong[0]] + 1) % len(labels)
    row_of = {key: row for row, key in enumerate(products.ids)}

    def best_tags(items: Items, only: Collection[str]) -> list[np.ndarray]:
        return [said[[row_of[key] for key in items.ids]]]

    network = SimpleNamespace(
        config=SimpleNamespace(tags={"category": labels}, modalities=("text", "image")), best_tags=best_tags
    )
    whole, *_ = module._tagging(network, products, facets)  # type: ignore[arg-type]
    expected = f1_score(truth[wrong] - 1, said[wrong], average="macro")
    assert (whole.task, whole.view, whole.metric) == ("tags: category", "from all", "macro-F1")
    assert whole.value == pytest.approx(expected)
    assert 0 < whole.value < 1
