from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vitrine_judge.rankings import Qrels

from catalog import store
from catalog.schema import DataError
from fusion.features import Items
from scoring.judgements import (
    MISSING_MODALITY,
    find_missing_modalities,
    is_held_out,
    read_judgements,
    read_judgements_by_judge,
)

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
        columns = {"image": "images", "video": "video"}
        expected = [name for name, column in columns.items() if not all(row[column] for row in good)]
        assert missing[query] == (", ".join(expected) or "none")
    assert len(set(missing.values())) > 1
    assert MISSING_MODALITY in (evaluation / "report.html").read_text()


def test_queries_without_a_segment_are_in_the_segment_all(tiny_tables: Tables, write_data: Write) -> None:
    for row in tiny_tables["queries"]:
        row["segment"] = None
    qrels, segments, clusters, _ = read_judgements(write_data(tiny_tables), "test")
    assert list(qrels.query_ids) == ["q4", "q5"]
    assert segments.tolist() == ["all", "all"]
    assert clusters is None
    assert isinstance(qrels, Qrels)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_the_holdout_and_the_rest_are_all_queries(data: Path, share: float) -> None:
    tested = read_judgements_by_judge(data, "test", share)
    held = read_judgements_by_judge(data, "test", share, held=True)
    (judge, *_) = tested
    parts = [set(part[judge].qrels.query_ids.tolist()) for part in (tested, held) if part]
    assert set.union(*parts) == set(read_judgements(data, "test").qrels.query_ids.tolist())
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert bool(held) == (share > 0)


def test_the_share_is_held_and_never_changes() -> None:
    held = [is_held_out(f"q{number}", 0.3) for number in range(5000)]
    assert np.mean(held) == pytest.approx(0.3, abs=0.02)
    assert held[:8] == [False, False, False, True, False, True, False, False]
    assert all(is_held_out(f"q{number}", 0.5) for number in np.flatnonzero(held))


def test_a_cluster_stays_together(tiny_tables: Tables, write_data: Write) -> None:
    for row in tiny_tables["queries"]:
        row["cluster"] = "shoes"
    folder = write_data(tiny_tables)
    clusters = read_judgements(folder, "test").clusters
    assert clusters is not None and clusters.tolist() == ["shoes", "shoes"]
    assert is_held_out("shoes", 0.9) and not is_held_out("shoes", 0.1)
    assert not read_judgements_by_judge(folder, "test", 0.1, held=True)
    with pytest.raises(DataError, match="no judged query has the split 'test'"):
        read_judgements(folder, "test", 0.9)
