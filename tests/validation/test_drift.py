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
from validation.drift import Drift, compare, profile, with_vectors

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


def by_name(then: pa.Table, now: pa.Table) -> dict[str, Drift]:
    return {one.what: one for one in compare(then, now)}


def test_the_index_by_hand() -> None:
    """60 and 40 of 100, then 30 and 70, each with half a product more."""
    then, now = (
        products(0).slice(0, 100).set_column(1, "category", pa.array(["a"] * n + ["b"] * (100 - n)))
        for n in (60, 30)
    )
    found = by_name(then, now)["categories"]
    shares = {"then": (60.5 / 101, 40.5 / 101), "now": (30.5 / 101, 70.5 / 101)}
    expected = sum((b - a) * log(b / a) for a, b in zip(shares["then"], shares["now"], strict=True))
    assert found.index == pytest.approx(expected) == pytest.approx(0.365, abs=0.01)
    assert (found.bins, found.then.tolist(), found.now.tolist()) == (["b", "a"], [0.4, 0.6], [0.7, 0.3])
    assert found.proven and found.p < 1e-4


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_same_data_have_not_drifted(order: slice) -> None:
    """In any order: what is learned of a product in one must not judge it in the other."""
    for one in compare(products(0), products(0).take(np.arange(COUNT)[order])):
        assert (one.index, one.p, one.proven) == (0, 1, False), one.what


def test_other_products_of_the_same_kind_have_hardly_drifted() -> None:
    """Chance proves something in a hundredth of the cases, or little more, and the index stays small."""
    found = [one for seed in range(20) for one in compare(products(seed), products(seed + 100, start=COUNT))]
    assert max(one.index for one in found) < 0.1
    assert sum(one.proven for one in found) <= 0.06 * len(found)


def test_part_of_the_products_are_the_same() -> None:
    then, now = products(0), products(1, start=COUNT)
    half = pa.concat_tables([then.slice(0, COUNT // 2), now.slice(0, COUNT // 2)])
    for one in compare(then, half):
        assert one.index < 0.05, (one.what, one.index)


MOVED = np.random.default_rng(7).normal(size=(COUNT, WIDTH)) + np.eye(WIDTH)[0]
CHANGES: dict[str, dict[str, Any]] = {
    "categories": {"category": ["shirt", "lamp"] * (COUNT // 2)},
    "prices": {"price": (np.exp(np.random.default_rng(7).normal(3, 0.5, COUNT)) * 1.8).tolist()},
    "lengths": {"length": np.random.default_rng(7).poisson(70, COUNT).astype(np.int32)},
    "embeddings": {"vector": MOVED},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_is_found_and_nothing_else(what: str) -> None:
    found = compare(products(0), products(1, start=COUNT, **CHANGES[what]))
    assert [one.what for one in found if one.index > 0.25 and one.proven] == [what]


def test_what_is_no_longer_filled_has_drifted() -> None:
    found = by_name(products(0), products(1, category=[None] * COUNT, price=[float("nan")] * COUNT))
    for what in ("categories", "prices"):
        assert found[what].proven and found[what].now[found[what].bins.index("none")] == 1


def test_what_was_never_filled_has_not() -> None:
    empty = {"category": pa.nulls(COUNT, pa.string()), "price": pa.nulls(COUNT, pa.float64())}
    found = by_name(products(0, **empty), products(1, **empty))
    for what in ("categories", "prices"):
        assert (found[what].bins, found[what].index, found[what].p) == (["none"], 0, 1)


def test_a_few_products_prove_nothing() -> None:
    """Index over the limit, yet it may well be chance."""
    then, now = products(0).slice(0, 9), products(1).slice(0, 9)
    found = by_name(then, now)
    assert found["prices"].index > 0.25
    assert not any(one.proven for one in found.values())
    assert found["embeddings"].bins == ["all"]


def test_many_categories_share_a_bin() -> None:
    many = [f"kind {n % 100}" for n in range(COUNT)]
    found = by_name(products(0, category=many), products(0, category=many))["categories"]
    assert len(found.bins) == 51 and found.bins[-1] == "others"
    assert found.then[-1] == pytest.approx(0.5) and found.index == 0


values = st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=40)


@given(values, values)
def test_laws(then: list[float | None], now: list[float | None]) -> None:
    def table(prices: list[float | None]) -> pa.Table:
        rows = products(0).slice(0, len(prices))
        return rows.set_column(2, "price", pa.array(prices, pa.float64()))

    found, back = by_name(table(then), table(now))["prices"], by_name(table(now), table(now))["prices"]
    assert found.index >= 0 and 0 <= found.p <= 1
    assert len(found.bins) == len(found.then) == len(found.now) == len(set(found.bins))
    assert found.then.sum() == pytest.approx(1) and found.now.sum() == pytest.approx(1)
    assert (found.then + found.now > 0).all()
    assert back.index == 0


class TestProfile:
    def test_says_what_is_compared(self, tiny_tables: Tables, write_data: Callable[[Tables], Path]) -> None:
        rows = tiny_tables["products"]
        rows[0] |= {"category": "clothing/shirt", "price": 9.5, "description": "With two  pockets"}
        found = profile(write_data(tiny_tables), 100)
        assert found["product_id"].to_pylist() == [row["product_id"] for row in rows]
        assert found["category"].to_pylist()[0] == "clothing/shirt"
        assert found["price"].to_pylist()[0] == 9.5
        assert found["length"].to_pylist() == [len(product_text(row)) for row in rows]

    def test_draws_the_same_products_of_a_larger_catalogue(
        self, tiny_tables: Tables, write_data: Callable[[Tables], Path]
    ) -> None:
        drawn = set(profile(write_data(tiny_tables), 6)["product_id"].to_pylist())
        assert len(drawn) == 6
        tiny_tables["products"] += [
            tiny_tables["products"][0] | {"product_id": f"new {n}", "title": f"new {n}"} for n in range(4)
        ]
        more = profile(write_data(tiny_tables), 6)["product_id"].to_pylist()
        assert len(more) == 6
        assert all(key in drawn for key in more if not key.startswith("new"))
        tiny_tables["products"].reverse()
        assert set(more) == set(profile(write_data(tiny_tables), 6)["product_id"].to_pylist())

    def test_takes_vectors_by_id(self, tiny_tables: Tables, write_data: Callable[[Tables], Path]) -> None:
        own = profile(write_data(tiny_tables), 100)
        backwards = own["product_id"].to_pylist()[::-1]
        vectors = pa.table(
            {
                "product_id": backwards,
                "vector": pa.array([[float(n)] for n in range(12)], pa.list_(pa.float32(), 1)),
            }
        )
        found = with_vectors(own, vectors)
        assert pc.list_flatten(found["vector"]).to_pylist() == [11 - n for n in range(12)]
