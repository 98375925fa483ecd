from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.rankings import Run

from scoring.grouping import Grouping
from scoring.judgements import read_judgements

Tables = dict[str, list[dict[str, Any]]]
VARIANTS = Grouping({"a1": "a1", "a2": "a1", "b": "b"})


@pytest.fixture
def grouped(tiny_tables: Tables, write_data: Callable[[Tables], Path]) -> Path:
    """p0 … p3 are variants of one product, p4 and p5 of another; the others have no group."""
    for number, row in enumerate(tiny_tables["products"]):
        row["group_id"] = "x" if number < 4 else "p7" if number < 6 else None
    return write_data(tiny_tables)


def test_a_product_without_a_group_is_its_own_even_if_a_group_has_its_name(grouped: Path) -> None:
    representatives = Grouping.read(grouped, "group_id").representatives
    firsts = ["p0"] * 4 + ["p4"] * 2 + [f"p{number}" for number in range(6, 12)]
    assert representatives == {f"p{number}": first for number, first in enumerate(firsts)}
    assert not Grouping.read(grouped, None).representatives


def test_the_best_variant_stands_for_all() -> None:
    run = pa.table({"query_id": ["q"] * 3, "product_id": ["a2", "b", "a1"], "score": [3.0, 2.0, 1.0]})
    collapsed = VARIANTS.collapse(run, "score").sort_by("product_id")
    assert collapsed.to_pydict() == {"query_id": ["q", "q"], "product_id": ["a1", "b"], "score": [3.0, 2.0]}


runs = st.dictionaries(
    st.sampled_from("qr"),
    st.dictionaries(st.sampled_from(["a1", "a2", "b", "c"]), st.floats(0, 1), min_size=1),
    min_size=1,
)


@given(runs)
def test_collapsing_twice_changes_nothing(scores: dict[str, dict[str, float]]) -> None:
    first = VARIANTS.collapse_run(Run.from_dict(scores))
    assert VARIANTS.collapse_run(first).to_dict() == first.to_dict()
    for query, products in scores.items():
        best = max(products.get("a1", -1.0), products.get("a2", -1.0))
        assert first.to_dict()[query].get("a1", -1.0) == best


def test_another_variant_of_the_judged_product_is_a_hit(
    tiny_tables: Tables, write_data: Callable[[Tables], Path]
) -> None:
    for row in tiny_tables["products"]:
        row["group_id"] = f"group {int(row['product_id'][1:]) % 2}"
    data, configuration = write_data(tiny_tables), MetricConfiguration(("hit@1",), relevant=3)
    single, together = read_judgements(data, "test"), read_judgements(data, "test", collapse="group_id")
    (query, grades), *_ = single.qrels.to_dict().items()
    exact = {product for product, grade in grades.items() if grade == 3}
    groups = {row["product_id"]: row["group_id"] for row in tiny_tables["products"]}
    variant = next(
        key for key in groups if key not in exact and groups[key] in {groups[hit] for hit in exact}
    )
    run = Run.from_dict({query: {variant: 1.0}})
    row = np.flatnonzero(np.sort(single.qrels.query_ids) == query)[0]
    scores = [judgements.score(run, configuration).values["hit@1"][row] for judgements in (single, together)]
    assert scores == [0.0, 1.0]
