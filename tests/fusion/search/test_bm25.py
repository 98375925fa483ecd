import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion.search.bm25 import rank_bm25
from fusion.search.lexical_index import LexicalIndex

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]

TITLES = {
    "p0": "red mug",
    "p1": "red red mug",
    "p2": "blue running shoes and laces",
    "p3": "",
    "p4": "green plate",
    "p5": "green plate",
}


@pytest.fixture
def shop(write_data: Write) -> Callable[..., Path]:
    def write(**texts: str | None) -> Path:
        products = [{"product_id": i, "title": title} for i, title in TITLES.items()]
        products[4]["brand"] = "Acme"
        products[3]["category"] = "kitchen/teapots"
        queries = [{"query_id": i, "text": text, "split": "test"} for i, text in texts.items()]
        return write_data({"products": products, "queries": queries, "judgements": []})

    return write


def rank(data: Path, *query_ids: str, depth: int = 10) -> dict[str, list[tuple[str, float]]]:
    rankings: dict[str, list[tuple[str, float]]] = {}
    for row in rank_bm25(data, np.array(query_ids, object), depth).to_pylist():
        rankings.setdefault(row["query_id"], []).append((row["product_id"], row["score"]))
    return rankings


def test_scores_are_those_of_the_formula(shop: Callable[..., Path]) -> None:
    """Lucene's BM25: ln(1 + (N − n + ½) / (n + ½)) · tf / (tf + k1 · (1 − b + b · length / mean length))."""
    scores = dict(rank(shop(q="mug"), "q")["q"])
    lengths = {"p0": 2, "p1": 3, "p2": 4, "p3": 2, "p4": 3, "p5": 2}  # "and" is a stop word
    mean = sum(lengths.values()) / len(lengths)
    idf = math.log(1 + (6 - 2 + 0.5) / (2 + 0.5))
    expected = {i: idf / (1 + 1.5 * (0.25 + 0.75 * lengths[i] / mean)) for i in ("p0", "p1")}
    assert scores == pytest.approx(expected, rel=1e-5)


def test_order(shop: Callable[..., Path]) -> None:
    rankings = rank(shop(a="red", b="green plate", c="blue mug"), "a", "b", "c")
    assert [i for i, _ in rankings["a"]] == ["p1", "p0"]  # "red" twice, and only one word longer
    assert [i for i, _ in rankings["b"]] == ["p5", "p4"]  # p4 is longer: it has a brand
    assert [i for i, _ in rankings["c"]] == ["p2", "p0", "p1"]  # the rarer word counts for more


def test_text_on_a_picture_is_text_of_the_product(shop: Callable[..., Path]) -> None:
    data = shop(q="Vondra mug")
    index = LexicalIndex.build(data, ocr=["", "VONDRA 20", None, "", "", ""])
    run = rank_bm25(data, np.array(["q"], object), 10, index)
    assert run["product_id"].to_pylist() == ["p1", "p0"]
    alone, _ = index.search("vondra", 10)
    assert alone.tolist() == [1]


def test_stems_case_and_category_paths_match(shop: Callable[..., Path]) -> None:
    rankings = rank(shop(a="RUN shoe", b="teapot", c="acme"), "a", "b", "c")
    assert {query: [i for i, _ in hits] for query, hits in rankings.items()} == {
        "a": ["p2"],
        "b": ["p3"],
        "c": ["p4"],
    }


def test_queries_without_usable_words_get_no_products(shop: Callable[..., Path]) -> None:
    data = shop(words="mug", none=None, nonsense="xyzzy", stop="the and of")
    assert set(rank(data, "words", "none", "nonsense", "stop")) == {"words"}
    assert rank(data, "none") == {}
    assert set(rank(data, "words")) == {"words"}  # only the given queries


def test_depth_and_ties(shop: Callable[..., Path], write_data: Write) -> None:
    assert len(rank(shop(q="red"), "q", depth=1)["q"]) == 1
    same = [{"product_id": f"p{n}", "title": "mug"} for n in range(5)] + [{"product_id": "x", "title": "hat"}]
    data = write_data(
        {"products": same, "queries": [{"query_id": "q", "text": "mug", "split": "test"}], "judgements": []}
    )
    assert [i for i, _ in rank(data, "q", depth=3)["q"]] == ["p0", "p1", "p2"]
