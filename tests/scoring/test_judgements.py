from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from vitrine_judge.rankings import Qrels

from catalog import store
from fusion.features import Items
from scoring.judgements import MISSING_MODALITY, find_missing_modalities, read_judgements

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]


def test_missing_modalities_of_relevant_products(evaluation: Path, features: Path, data: Path) -> None:
    qrels = read_judgements(data, "test").qrels
    missing = dict(
        zip(
            np.sort(qrels.query_ids).tolist(),
            find_missing_modalities(Items.load(features, "products"), qrels, 3),
            strict=True,
        )
    )
    rows = {row["product_id"]: row for row in store.read_table(data, "products").to_pylist()}
    for query, grades in qrels.to_dict().items():
        good = [rows[product] for product, grade in grades.items() if grade >= 3]
        expected = [name for name in ("image", "video") if not all(row[name] for row in good)]
        assert missing[query] == (", ".join(expected) or "none")
    assert len(set(missing.values())) > 1
    assert MISSING_MODALITY in (evaluation / "report.html").read_text()


def test_queries_without_a_segment_are_in_the_segment_all(tiny_tables: Tables, write_data: Write) -> None:
    for row in tiny_tables["queries"]:
        row["segment"] = None
    qrels, segments, clusters = read_judgements(write_data(tiny_tables), "test")
    assert list(qrels.query_ids) == ["q4", "q5"]
    assert segments.tolist() == ["all", "all"]
    assert clusters is None
    assert isinstance(qrels, Qrels)
