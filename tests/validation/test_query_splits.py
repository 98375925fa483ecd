"""Queries that moved to another split since the champion was trained."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog.images import Limits
from components.params import ValidateParams
from components.validate import ValidationFailed, validate
from validation import champion_comparison
from validation.champion_comparison import ChampionComparison
from validation.data_profile import profile_data
from validation.drift import EMBEDDINGS, Drift
from validation.query_splits import QUERY_SPLITS, find_moved, hash_splits

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]


def draw(number: int) -> dict[str, Any]:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": "x.png"}


def read_queries(data: Path) -> Any:
    return profile_data(data, Limits())["queries"]


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch) -> Callable[[pa.Table | None], None]:
    """Make a champion with a record of its queries' splits; its other findings are good."""
    shares = np.array([1.0])
    drift = Drift(EMBEDDINGS, ["all"], shares, shares, 0.0, 1.0)
    good = ChampionComparison("3", [drift], pa.table({"product_id": ["p0"], "match": [1.0]}), 0.25)

    def make(query_splits: pa.Table | None) -> None:
        comparison = replace(good, query_splits=query_splits)
        monkeypatch.setattr(champion_comparison, "compare_with_champion", lambda *_: comparison)

    return make


def test_data_in_which_a_query_moved_are_refused(
    tiny_tables: Tables, write_data: Write, tmp_path: Path, champion: Callable[[pa.Table | None], None]
) -> None:
    data = write_data(tiny_tables)
    validate(data, ValidateParams(), tmp_path / "first")
    champion(pq.read_table(tmp_path / "first" / QUERY_SPLITS))
    validate(data, ValidateParams(), tmp_path / "same")
    queries = tiny_tables["queries"]
    queries[0]["split"], queries[4]["split"] = queries[4]["split"], queries[0]["split"]
    with pytest.raises(ValidationFailed) as caught:
        validate(
            write_data(tiny_tables),
            ValidateParams(severity={"leaked_targets": "warning"}),
            tmp_path / "moved",
        )
    (line,) = (line for line in str(caught.value).splitlines() if "moved_queries" in line)
    assert (
        "must stay in the split that it had when the champion was trained (give it that split again" in line
    )
    assert f"2 of 6 (33.3 %) fail: q0: {queries[0]['text']} (train → test), q4: " in line
    assert "(test → train)" in line


def test_queries_that_come_and_go_do_not_move(tiny_tables: Tables, write_data: Write) -> None:
    before = hash_splits(read_queries(write_data(tiny_tables)))
    del tiny_tables["queries"][1]
    tiny_tables["queries"].append({"query_id": "new", "text": "something new", "split": "test"})
    moved = find_moved(read_queries(write_data(tiny_tables)), before)
    assert len(moved) == 5 and moved.moved.isna().all()


def test_a_query_is_its_text_and_its_picture(tiny_tables: Tables, write_data: Write) -> None:
    """Not its id, nor its letters' case; the text alone does not identify a composed query."""
    queries = tiny_tables["queries"]
    queries[0] |= {"text": "the same in red", "image": draw(0)}
    queries[1] |= {"text": None, "image": draw(1)}
    before = hash_splits(read_queries(write_data(tiny_tables)))
    assert len(before) == 6
    queries[0] |= {"query_id": "renamed", "image": draw(2)}
    queries[1] |= {"query_id": "picture", "split": "valid"}
    queries[2] |= {"query_id": "shout", "text": f"  {queries[2]['text'].upper()} ", "split": "test"}
    moved = find_moved(read_queries(write_data(tiny_tables)), before).set_index("query").moved.dropna()
    assert set(moved.index) == {"picture", "shout"}
    assert moved["picture"] == "a picture (train → valid)"


def test_the_record_holds_no_words(tiny_data: Path) -> None:
    table = hash_splits(read_queries(tiny_data))
    assert table["query"].type == pa.uint64()
    assert table["query"].to_pylist() == sorted(table["query"].to_pylist())
    assert set(table["split"].to_pylist()) == {"train", "valid", "test"}


def test_a_champion_without_a_record_is_mentioned(
    tiny_data: Path,
    tmp_path: Path,
    champion: Callable[[pa.Table | None], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    champion(None)
    validate(tiny_data, ValidateParams(), tmp_path / "report")
    assert "version 3, has no record of its queries' splits; whether a query moved is not checked" in (
        capsys.readouterr().err
    )
