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
from fusion.facets import CATEGORY, COLUMNS, NAME_TOKENS, Facets, move_padding_last

F = len(COLUMNS)
values = hnp.arrays(np.int32, st.tuples(st.integers(0, 6), st.just(F)), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=100)
@given(values, values)
def test_matches_and_may_match(product_values: np.ndarray, queries: np.ndarray) -> None:
    facets, rows = replace(Facets.empty(0), values=product_values), np.arange(len(product_values))
    matches, may_match = facets.matches(queries, rows), facets.may_match(queries, rows)
    assert matches.shape == may_match.shape == (len(queries), len(product_values))
    for i, query in enumerate(queries.tolist()):
        for j, product in enumerate(product_values.tolist()):
            pairs = [(q, p) for q, p in zip(query, product, strict=True) if q]
            assert matches[i, j] == all(q == p for q, p in pairs)
            assert may_match[i, j] == (bool(pairs) and all(p in (0, q) for q, p in pairs))


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Products as featurize writes them, in two files."""
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
    vocabulary = Vocabulary.learn(["shirt boot red navy blue"], size=1000, min_count=1)
    facets = Facets.load(features, vocabulary)
    assert facets.values.shape == (5, F)
    category, colour = facets.values[:, CATEGORY], facets.values[:, COLUMNS.index("color")]
    assert category[0] == category[3] != category[1]
    assert category[2] == 0 < category[4], "no value, and an unheard word, which is several pieces"
    assert colour[0] == colour[4] != colour[2] == colour[3]
    assert colour[1] == 0
    names = facets.names[CATEGORY][category[0]], facets.names[COLUMNS.index("color")][colour[0]]
    shirt, navy, blue = vocabulary.encode(["shirt", "navy", "blue"], 1)[:, 0].tolist()
    assert [name[name != PAD].tolist() for name in names] == [[shirt], [navy, blue]]
    others = [number for number, column in enumerate(COLUMNS) if column not in ("category", "color")]
    assert (facets.values[:, others] == 0).all(), "missing columns have no values"


def test_move_padding_last() -> None:
    tokens = np.array([[PAD, 5, PAD, 3], [1, 2, 3, 4], [PAD] * 4])
    assert move_padding_last(tokens).tolist() == [[5, 3, PAD, PAD], [1, 2, 3, 4], [PAD] * 4]


def test_attributes_with_several_values_are_columns(features: Path) -> None:
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
    vocabulary = Vocabulary.learn(["men women summer a1"], size=1000, min_count=1)
    facets = Facets.load(features, vocabulary)
    assert facets.columns == (*COLUMNS, "attributes.gender"), "a key needs at least two values"
    gender = facets.values[:, -1]
    assert gender[0] == gender[1] != gender[3] and gender[[2, 4]].tolist() == [0, 0]
    assert facets.names[-1][gender[0]].tolist() == vocabulary.encode(["women"], NAME_TOKENS)[0].tolist()
    assert facets.labels[-1][gender[0] - 1] == "women"
