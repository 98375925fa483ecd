"""Texts of queries that are in no data set get the vectors that a search would give them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.__main__ import main
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed


def test_the_command_embeds_as_a_search_does(saved: Path, tmp_path: Path) -> None:
    texts = ["red shirt", "blue", "navy or green clothing", "red shirt", "unknown"]
    pq.write_table(pa.table({"query_id": list("abcde"), "text": texts}), tmp_path / "queries.parquet")
    paths = [f"--queries={tmp_path / 'queries.parquet'}", f"--vectors={tmp_path / 'vectors.parquet'}"]
    assert main(["embed-texts", f"--model={saved}", *paths]) == 0
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert table["query_id"].to_pylist() == list("abcde")
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    rows = [{"query_id": "x", "text": text, "split": "", "segment": "", "image": None} for text in texts]
    items, _ = Featurizer.load(saved).featurize_rows("queries", rows)
    expected = embed(ProductSearchModel.load(saved), items, "query")
    assert np.allclose(vectors, expected, atol=1e-6)
    assert (vectors[0] == vectors[3]).all() and not np.allclose(vectors[0], vectors[1])
    assert main(["embed-texts", f"--model={tmp_path}", *paths]) == 1
