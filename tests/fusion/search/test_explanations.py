import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from catalog.schema import DataError
from fusion.__main__ import main
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import load_model
from fusion.search.explanations import GRID_CELLS, Explanation, explain, explain_data

Row = dict[str, Any]


@pytest.fixture(scope="module")
def parts(saved: Path) -> tuple[ProductSearchModel, Featurizer]:
    return load_model(saved)


@pytest.fixture
def query() -> Row:
    return {"query_id": "q", "text": "red or blue shirt", "split": "test", "segment": None, "image": None}


@pytest.fixture
def product(png: Callable[..., bytes]) -> Row:
    return {
        "product_id": "p",
        "title": "Red shirt, navy",
        "brand": None,
        "category": "clothing/shirt",
        "color": None,
        "material": None,
        "description": None,
        "images": [{"bytes": png(1), "path": None}],
        "video": None,
    }


def score(parts: tuple[ProductSearchModel, Featurizer], query: Row, product: Row) -> float:
    model, featurizer = parts
    query_item, _ = featurizer.featurize_rows("queries", [query])
    product_item, _ = featurizer.featurize_rows("products", [product])
    return (embed(model, query_item, "query") @ embed(model, product_item, "product").T).item()


def test_words_on_the_picture_are_words_of_the_product(
    parts: tuple[ProductSearchModel, Featurizer],
    query: Row,
    product: Row,
    widths: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts[1], "ocr", widths)
    monkeypatch.setattr(parts[1], "max_tokens", 64)
    explanation = explain(*parts, query, product | {"description": "navy"})
    words = [word for word, _ in explanation.product_losses]
    assert words == ["red", "shirt", "navy", "clothing", "shirt", "48", "pixels", "wide", "navy"]


def test_losses_agree_with_scoring_each_variant(
    parts: tuple[ProductSearchModel, Featurizer], query: Row, product: Row
) -> None:
    explanation = explain(*parts, query, product)
    full_score = score(parts, query, product)
    assert explanation.score == pytest.approx(full_score, abs=1e-5)

    blank = dict.fromkeys(("title", "category"), "")
    losses = {
        "text": full_score - score(parts, query, product | blank),
        "image": full_score - score(parts, query, product | {"images": None}),
    }
    assert explanation.modality_losses == pytest.approx(losses, abs=1e-5)

    shorter_queries = {
        "red": query | {"text": "or blue shirt"},
        "or": query | {"text": "red blue shirt"},
        "blue": query | {"text": "red or shirt"},
        "shirt": query | {"text": "red or blue"},
    }
    expected = {
        word: full_score - score(parts, shorter, product) for word, shorter in shorter_queries.items()
    }
    assert dict(explanation.query_losses) == pytest.approx(expected, abs=1e-5)
    assert [word for word, _ in explanation.product_losses] == ["red", "shirt", "navy", "clothing", "shirt"]
    without_red = score(parts, query, product | {"title": "shirt, navy"})
    assert explanation.product_losses[0][1] == pytest.approx(full_score - without_red, abs=1e-5)


def test_region_losses_are_where_the_picture_was_covered(
    parts: tuple[ProductSearchModel, Featurizer], query: Row, product: Row
) -> None:
    """Covering a grey part of the picture changes nothing."""
    pixels = np.full((32, 32, 3), 127, np.uint8)
    pixels[:10, 22:] = np.random.default_rng(0).integers(0, 256, (10, 10, 3))
    explanation = explain(*parts, query, product | {"images": [{"bytes": _encode(pixels), "path": None}]})
    assert explanation.region_losses is not None and explanation.region_losses.shape == (
        GRID_CELLS,
        GRID_CELLS,
    )
    effect = np.abs(explanation.region_losses)
    assert effect[:2, -2:].max() > 1e-4
    assert effect[3:, :3].max() < 1e-5
    overlay = explanation.overlay()
    assert overlay is not None and overlay.size == (32, 32)


def _encode(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_overlay_is_red_where_covering_lowers_the_score() -> None:
    regions = np.zeros((GRID_CELLS, GRID_CELLS))
    regions[0, 0], regions[-1, -1] = 0.2, -0.2
    grey = np.full((60, 60, 3), 100, np.uint8)
    drawn = Explanation(0.5, {}, {}, [], [], regions, grey).overlay()
    assert drawn is not None
    red, blue, middle = (drawn.getpixel(at) for at in ((2, 2), (57, 57), (30, 30)))
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50 and middle == (100, 100, 100)  # type: ignore[index]


@pytest.mark.parametrize("missing", ["text", "picture", "broken"])
def test_missing_modalities_are_left_out(
    parts: tuple[ProductSearchModel, Featurizer], query: Row, product: Row, missing: str
) -> None:
    changes: dict[str, Row] = {
        "text": {"title": "", "category": None},
        "picture": {"images": None},
        "broken": {"images": [{"bytes": b"no picture", "path": None}]},
    }
    explanation = explain(*parts, query, product | changes[missing])
    assert list(explanation.modality_losses) == (["image"] if missing == "text" else ["text"])
    assert (explanation.overlay() is None) == (missing != "text")
    assert bool(explanation.product_losses) == (missing != "text")


def test_entities_of_both_sides(
    parts: tuple[ProductSearchModel, Featurizer], query: Row, product: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words in the order of the texts, each once; types that are not in the query are left out."""
    model, featurizer = parts
    tagger = ProductSearchModel(replace(model.config, entities=["color", "brand", "product type"])).eval()
    words = ["red", "blue", "navy", "shirt"]
    ids = dict(zip(words, featurizer.vocabulary.encode(words, 1)[:, 0].tolist(), strict=True))
    kinds = torch.zeros(len(featurizer.vocabulary), dtype=torch.int64)
    kinds[[ids["red"], ids["blue"], ids["navy"]]], kinds[ids["shirt"]] = 1, 3
    monkeypatch.setattr(tagger, "recognise", lambda tokens: kinds[tokens])
    explanation = explain(tagger, featurizer, query | {"text": "red or blue, red"}, product)
    assert explanation.entities == {"color": ("red blue", "red navy")}
    assert "  color            red blue: red navy" in explanation.lines()


def test_command(saved: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--model", saved, "--data", tiny_data, "--query", "q0", "--product"]
    overlay = tmp_path / "overlay.png"
    assert main([str(word) for word in [*words, "p3", "--overlay", overlay]]) == 0
    output = capsys.readouterr().out
    expected = explain_data(saved, tiny_data, "q0", "p3")
    assert output.splitlines() == expected.lines()
    assert "the query without the word" in output and "  image" in output
    assert Image.open(overlay).size == (32, 32)
    assert main([str(word) for word in [*words, "p11", "--overlay", tmp_path / "none.png"]]) == 0
    assert "no picture" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_no_such_product(saved: Path, tiny_data: Path) -> None:
    with pytest.raises(DataError, match="products: no product_id 'p99'"):
        explain_data(saved, tiny_data, "q0", "p99")
