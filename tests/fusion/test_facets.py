from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion.encoders.vocabulary import PAD, Vocabulary
from fusion.facets import CATEGORY, COLUMNS, WORDS, Facets, together

F = len(COLUMNS)
values = hnp.arrays(np.int32, st.tuples(st.integers(0, 6), st.just(F)), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=100)
@given(values, values)
def test_fit_and_may_fit(stated: np.ndarray, asked: np.ndarray) -> None:
    facets, rows = replace(Facets.none(0), values=stated), np.arange(len(stated))
    fits, may_fit = facets.fit(asked, rows), facets.may_fit(asked, rows)
    assert fits.shape == may_fit.shape == (len(asked), len(stated))
    for i, query in enumerate(asked.tolist()):
        for j, product in enumerate(stated.tolist()):
            pairs = [(q, p) for q, p in zip(query, product, strict=True) if q]
            assert fits[i, j] == all(q == p for q, p in pairs)
            assert may_fit[i, j] == (bool(pairs) and all(p in (0, q) for q, p in pairs))


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Products as featurize passes them on, in two files."""
    columns = {
        "category": ["clothing/Shirt", "shoes/Boot", None, "clothing/shirt", "a/Unheard"],
        "color": ["Navy Blue", None, "red", "red", "navy blue"],
    }
    table = pa.table(columns)
    (tmp_path / "products").mkdir()
    pq.write_table(table[:3], tmp_path / "products" / "000000.parquet")
    pq.write_table(table[3:], tmp_path / "products" / "000001.parquet")
    return tmp_path


def test_load(features: Path) -> None:
    vocabulary = Vocabulary(["shirt", "boot", "red", "navy", "blue"])
    facets = Facets.load(features, vocabulary)
    assert facets.values.shape == (5, F)
    category, colour = facets.values[:, CATEGORY], facets.values[:, COLUMNS.index("color")]
    assert category[0] == category[3] != category[1]
    assert category[[2, 4]].tolist() == [0, 0], "not stated, and not a known word"
    assert colour[0] == colour[4] != colour[2] == colour[3]
    assert colour[1] == 0
    names = facets.names[CATEGORY][category[0]], facets.names[COLUMNS.index("color")][colour[0]]
    assert [name[name != PAD].tolist() for name in names] == [[2], [5, 6]]
    others = [number for number, column in enumerate(COLUMNS) if column not in ("category", "color")]
    assert (facets.values[:, others] == 0).all(), "columns that no shop has state nothing"


def test_together() -> None:
    tokens = np.array([[PAD, 5, PAD, 3], [1, 2, 3, 4], [PAD] * 4])
    assert together(tokens).tolist() == [[5, 3, PAD, PAD], [1, 2, 3, 4], [PAD] * 4]


def test_attributes_are_columns_where_they_describe(features: Path) -> None:
    for path, rows in zip(sorted((features / "products").iterdir()), (slice(0, 3), slice(3, 5)), strict=True):
        attributes = [
            [("gender", "Women"), ("model", "a1")],
            [("gender", "men"), ("gender", "women")],
            None,
            [("gender", "men"), ("season", "summer")],
            [],
        ]
        kind = pa.map_(pa.string(), pa.string())
        pq.write_table(
            pq.read_table(path).append_column("attributes", pa.array(attributes[rows], kind)), path
        )
    facets = Facets.load(features, Vocabulary(["men", "women", "summer", "a1"]))
    assert facets.columns == (*COLUMNS, "attributes.gender"), "a key needs two values to tell products apart"
    gender = facets.values[:, -1]
    assert gender[0] == gender[1] != gender[3] and gender[[2, 4]].tolist() == [0, 0]
    assert facets.names[-1][gender[0]].tolist() == [3] + [PAD] * (WORDS - 1)
    assert facets.labels[-1][gender[0] - 1] == "women"
