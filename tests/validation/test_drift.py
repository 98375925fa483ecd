from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import product_text
from validation.drift import Drift, add_vectors, measure_drift, profile_products

Tables = dict[str, list[dict[str, Any]]]
COUNT, WIDTH = 800, 12


def products(seed: int, start: int = 0, **changed: Any) -> pa.Table:
    """A profile drawn from one distribution, with columns replaced."""
    random = np.random.default_rng(seed)
    columns = {
        "product_id": [f"p{start + n}" for n in range(COUNT)],
        "category": random.choice(["shirt", "shoe", "mug"], COUNT, p=[0.5, 0.3, 0.2]).tolist(),
        "price": np.exp(random.normal(3, 0.5, COUNT)).tolist(),
        "length": random.poisson(80, COUNT).astype(np.int32),
    }
    vectors = changed.pop("vector", random.normal(size=(COUNT, WIDTH))).astype(np.float32)
    table = pa.table(columns | changed)
    return table.append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH))


def measure_by_name(reference: pa.Table, current: pa.Table) -> dict[str, Drift]:
    return {drift.name: drift for drift in measure_drift(reference, current)}


def test_the_index_by_hand() -> None:
    """60 and 40 of 100, then 30 and 70, each with half a product more."""
    reference, current = (
        products(0).slice(0, 100).set_column(1, "category", pa.array(["a"] * n + ["b"] * (100 - n)))
        for n in (60, 30)
    )
    drift = measure_by_name(reference, current)["categories"]
    shares = {"reference": (60.5 / 101, 40.5 / 101), "current": (30.5 / 101, 70.5 / 101)}
    expected = sum((b - a) * log(b / a) for a, b in zip(shares["reference"], shares["current"], strict=True))
    assert drift.index == pytest.approx(expected) == pytest.approx(0.365, abs=0.01)
    assert (drift.bins, drift.reference.tolist(), drift.current.tolist()) == (
        ["b", "a"],
        [0.4, 0.6],
        [0.7, 0.3],
    )
    assert drift.significant and drift.p < 1e-4


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_same_data_have_not_drifted(order: slice) -> None:
    """In any order: what is learned of a product in one must not judge it in the other."""
    for drift in measure_drift(products(0), products(0).take(np.arange(COUNT)[order])):
        assert (drift.index, drift.p, drift.significant) == (0, 1, False), drift.name


def test_other_products_of_the_same_kind_have_hardly_drifted() -> None:
    """Chance proves something in a hundredth of the cases, or little more, and the index stays small."""
    drifts = [
        drift
        for seed in range(20)
        for drift in measure_drift(products(seed), products(seed + 100, start=COUNT))
    ]
    assert max(drift.index for drift in drifts) < 0.1
    assert sum(drift.significant for drift in drifts) <= 0.06 * len(drifts)


def test_part_of_the_products_are_the_same() -> None:
    reference, current = products(0), products(1, start=COUNT)
    half = pa.concat_tables([reference.slice(0, COUNT // 2), current.slice(0, COUNT // 2)])
    for drift in measure_drift(reference, half):
        assert drift.index < 0.05, (drift.name, drift.index)


MOVED = np.random.default_rng(7).normal(size=(COUNT, WIDTH)) + np.eye(WIDTH)[0]
CHANGES: dict[str, dict[str, Any]] = {
    "categories": {"category": ["shirt", "lamp"] * (COUNT // 2)},
    "prices": {"price": (np.exp(np.random.default_rng(7).normal(3, 0.5, COUNT)) * 1.8).tolist()},
    "lengths": {"length": np.random.default_rng(7).poisson(70, COUNT).astype(np.int32)},
    "embeddings": {"vector": MOVED},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_found_and_nothing_else(name: str) -> None:
    drifts = measure_drift(products(0), products(1, start=COUNT, **CHANGES[name]))
    assert [drift.name for drift in drifts if drift.index > 0.25 and drift.significant] == [name]


def test_what_is_no_longer_filled_has_drifted() -> None:
    drifts = measure_by_name(products(0), products(1, category=[None] * COUNT, price=[float("nan")] * COUNT))
    for name in ("categories", "prices"):
        assert drifts[name].significant and drifts[name].current[drifts[name].bins.index("none")] == 1


def test_what_was_never_filled_has_not() -> None:
    empty = {"category": pa.nulls(COUNT, pa.string()), "price": pa.nulls(COUNT, pa.float64())}
    drifts = measure_by_name(products(0, **empty), products(1, **empty))
    for name in ("categories", "prices"):
        assert (drifts[name].bins, drifts[name].index, drifts[name].p) == (["none"], 0, 1)


def test_a_few_products_prove_nothing() -> None:
    """Index over the limit, yet it may well be chance."""
    reference, current = products(0).slice(0, 9), products(1).slice(0, 9)
    drifts = measure_by_name(reference, current)
    assert drifts["prices"].index > 0.25
    assert not any(drift.significant for drift in drifts.values())
    assert drifts["embeddings"].bins == ["all"]


def test_many_categories_share_a_bin() -> None:
    many = [f"kind {n % 100}" for n in range(COUNT)]
    drift = measure_by_name(products(0, category=many), products(0, category=many))["categories"]
    assert len(drift.bins) == 51 and drift.bins[-1] == "others"
    assert drift.reference[-1] == pytest.approx(0.5) and drift.index == 0


values = st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=40)


@given(values, values)
def test_laws(reference: list[float | None], current: list[float | None]) -> None:
    def table(prices: list[float | None]) -> pa.Table:
        rows = products(0).slice(0, len(prices))
        return rows.set_column(2, "price", pa.array(prices, pa.float64()))

    drift, back = (
        measure_by_name(table(reference), table(current))["prices"],
        measure_by_name(table(current), table(current))["prices"],
    )
    assert drift.index >= 0 and 0 <= drift.p <= 1
    assert len(drift.bins) == len(drift.reference) == len(drift.current) == len(set(drift.bins))
    assert drift.reference.sum() == pytest.approx(1) and drift.current.sum() == pytest.approx(1)
    assert (drift.reference + drift.current > 0).all()
    assert back.index == 0


class TestProfile:
    def test_says_what_is_compared(self, tiny_tables: Tables, write_data: Callable[[Tables], Path]) -> None:
        rows = tiny_tables["products"]
        rows[0] |= {"category": "clothing/shirt", "price": 9.5, "description": "With two  pockets"}
        profile = profile_products(write_data(tiny_tables), 100)
        assert profile["product_id"].to_pylist() == [row["product_id"] for row in rows]
        assert profile["category"].to_pylist()[0] == "clothing/shirt"
        assert profile["price"].to_pylist()[0] == 9.5
        assert profile["length"].to_pylist() == [len(product_text(row)) for row in rows]

    def test_draws_the_same_products_of_a_larger_catalogue(
        self, tiny_tables: Tables, write_data: Callable[[Tables], Path]
    ) -> None:
        drawn = set(profile_products(write_data(tiny_tables), 6)["product_id"].to_pylist())
        assert len(drawn) == 6
        tiny_tables["products"] += [
            tiny_tables["products"][0] | {"product_id": f"new {n}", "title": f"new {n}"} for n in range(4)
        ]
        more = profile_products(write_data(tiny_tables), 6)["product_id"].to_pylist()
        assert len(more) == 6
        assert all(key in drawn for key in more if not key.startswith("new"))
        tiny_tables["products"].reverse()
        assert set(more) == set(profile_products(write_data(tiny_tables), 6)["product_id"].to_pylist())

    def test_takes_vectors_by_id(self, tiny_tables: Tables, write_data: Callable[[Tables], Path]) -> None:
        sample = profile_products(write_data(tiny_tables), 100)
        backwards = sample["product_id"].to_pylist()[::-1]
        vectors = pa.table(
            {
                "product_id": backwards,
                "vector": pa.array([[float(n)] for n in range(12)], pa.list_(pa.float32(), 1)),
            }
        )
        profile = add_vectors(sample, vectors)
        assert pc.list_flatten(profile["vector"]).to_pylist() == [11 - n for n in range(12)]
