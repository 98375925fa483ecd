from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.schema import JUDGEMENTS, PRODUCTS, DataError
from catalog.store import (
    TableWriter,
    atomic_dir,
    fingerprint,
    list_files,
    new_atomic_dir,
    read_batches,
    read_table,
    resume_if_same,
)


def put(data: Path, table: str, columns: dict[str, Any], name: str = "0.parquet") -> Path:
    (data / table).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), data / table / name)
    return data / table / name


# atomic_dir, new_atomic_dir


@pytest.mark.parametrize("create", [atomic_dir, new_atomic_dir])
def test_a_folder_appears_when_done(create: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with create(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("create", [atomic_dir, new_atomic_dir])
def test_a_failure_leaves_what_was_there(create: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), create(target) as partial:
        (partial / "new").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]


@pytest.mark.parametrize(("create", "names"), [(atomic_dir, ["left", "new"]), (new_atomic_dir, ["new"])])
def test_only_atomic_dir_keeps_an_earlier_attempt(
    create: Callable[..., Any], names: list[str], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError), create(tmp_path / "out") as partial:
        (partial / "left").mkdir()
        raise RuntimeError
    with create(tmp_path / "out") as partial:
        (partial / "new").touch()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_resuming_needs_the_same_provenance(tmp_path: Path) -> None:
    assert not resume_if_same(tmp_path, {"seed": 1, "data": "ab"})
    (tmp_path / "half").touch()
    assert resume_if_same(tmp_path, {"data": "ab", "seed": 1})
    assert (tmp_path / "half").exists()
    assert not resume_if_same(tmp_path, {"data": "ab", "seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["made_from.json"]


def test_the_new_replaces_the_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with new_atomic_dir(tmp_path / "out") as partial:
            (partial / name).touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write here"), atomic_dir(tmp_path / "file" / "out"):
        pass


# read_batches, read_table


def test_optional_columns_come_as_nulls_in_order_of_the_schema(tmp_path: Path) -> None:
    put(tmp_path, "products", {"title": ["mug"], "product_id": ["p1"], "shelf": [3]})
    table = read_table(tmp_path, "products")
    assert table.schema.names == PRODUCTS.names
    assert table.schema.types == PRODUCTS.types
    assert {name: value for name, value in table.to_pylist()[0].items() if value is not None} == {
        "product_id": "p1",
        "title": "mug",
    }


def test_types_are_cast_where_nothing_is_lost(tmp_path: Path) -> None:
    columns = {
        "product_id": pa.array(["p"], pa.large_string()),
        "title": ["t"],
        "price": pa.array([3], pa.int32()),
    }
    put(tmp_path, "products", columns)
    assert read_table(tmp_path, "products", ["price"]).to_pylist() == [{"price": 3.0}]


def test_a_column_of_another_type(tmp_path: Path) -> None:
    path = put(tmp_path, "products", {"product_id": ["p"], "title": ["t"], "price": ["cheap"]})
    with pytest.raises(DataError, match=rf"{path}: column 'price' is string, not double"):
        read_table(tmp_path, "products")


def test_a_required_column_is_missing(tmp_path: Path) -> None:
    path = put(tmp_path, "products", {"product_id": ["p"]})
    with pytest.raises(DataError, match=rf"{path}: column 'title' is missing; products needs it"):
        read_table(tmp_path, "products")
    assert read_table(tmp_path, "products", ["product_id"]).num_rows == 1


@pytest.mark.parametrize("table", ["products", "queries", "judgements"])
def test_a_required_table_is_missing(table: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parquet files"):
        read_table(tmp_path, table)


def test_an_optional_table_may_be_missing(tmp_path: Path) -> None:
    assert list_files(tmp_path, "satisfaction") == []
    assert read_table(tmp_path, "satisfaction").num_rows == 0


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_empty_and_truncated_files(keep: int, tmp_path: Path) -> None:
    path = put(tmp_path, "judgements", {"query_id": ["q"], "product_id": ["p"], "grade": [3]})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{path}: not a readable parquet file"):
        read_table(tmp_path, "judgements")


def test_a_file_damaged_in_the_middle(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        "judgements",
        {"query_id": [f"q{n}" for n in range(9999)], "product_id": ["p"] * 9999, "grade": [3] * 9999},
    )
    content = bytearray(path.read_bytes())
    content[4:4000] = bytes(3996)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: cannot be read to its end"):
        read_table(tmp_path, "judgements")


def test_files_are_read_in_order_and_in_batches(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(
            tmp_path,
            "judgements",
            {"query_id": [name] * 5, "product_id": list("vwxyz"), "grade": [1] * 5},
            f"{name}.parquet",
        )
    parts = list(read_batches(tmp_path, "judgements", rows=2))
    assert max(part.num_rows for part in parts) == 2
    assert [row["query_id"] for part in parts for row in part.to_pylist()] == ["a"] * 5 + ["b"] * 5 + [
        "c"
    ] * 5


# fingerprint


def test_fingerprint_is_of_names_and_contents(tmp_path: Path) -> None:
    for folder, order in (("one", "ab"), ("two", "ba")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for name in order:
            (tmp_path / folder / "deep" / name).write_text(f"content of {name}")
    first, second = tmp_path / "one", tmp_path / "two"
    before = fingerprint(first)
    assert before == fingerprint(second)
    assert len(before) == 32
    (second / "deep" / "a").write_text("content of A")
    changed = fingerprint(second)
    (second / "deep" / "a").write_text("content of a")
    (second / "deep" / "b").rename(second / "deep" / "c")
    assert len({before, changed, fingerprint(second)}) == 3


def test_fingerprint_does_not_run_files_together(tmp_path: Path) -> None:
    for folder, contents in (("one", ("xy", "z")), ("two", ("x", "yz"))):
        (tmp_path / folder).mkdir()
        for name, content in zip("ab", contents, strict=True):
            (tmp_path / folder / name).write_text(content)
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


# TableWriter


def judgement(number: int) -> dict[str, Any]:
    return {"query_id": f"q{number}", "product_id": "p", "grade": number % 4}


@pytest.mark.parametrize(("rows", "sizes"), [(0, [0]), (3, [3]), (4, [4]), (9, [4, 4, 1]), (12, [4, 4, 4])])
def test_a_new_file_begins_after_so_many_rows(rows: int, sizes: list[int], tmp_path: Path) -> None:
    with TableWriter(tmp_path, "judgements", rows_per_file=4, rows_per_group=2) as writer:
        for number in range(rows):
            writer.write(judgement(number))
    paths = list_files(tmp_path, "judgements")
    assert [path.name for path in paths] == [f"{n:05d}.parquet" for n in range(len(sizes))]
    assert [pq.read_metadata(path).num_rows for path in paths] == sizes
    assert read_table(tmp_path, "judgements").to_pylist() == [judgement(number) for number in range(rows)]


def test_a_file_ends_with_a_row_group(tmp_path: Path) -> None:
    with TableWriter(tmp_path, "judgements", rows_per_file=4, rows_per_group=3) as writer:
        for number in range(13):
            writer.write(judgement(number))
    assert [pq.read_metadata(path).num_rows for path in list_files(tmp_path, "judgements")] == [6, 3, 3, 1]
    assert read_table(tmp_path, "judgements").to_pylist() == [judgement(number) for number in range(13)]


def test_absent_columns_are_null_and_the_schema_is_kept(tmp_path: Path) -> None:
    with TableWriter(tmp_path, "products") as writer:
        writer.write({"product_id": "p", "title": "t", "attributes": [("size", "M")]})
    assert pq.read_schema(list_files(tmp_path, "products")[0]).equals(PRODUCTS)
    row = read_table(tmp_path, "products").to_pylist()[0]
    assert row["attributes"] == [("size", "M")]
    assert row["images"] is None


def test_a_row_of_another_type_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowException), TableWriter(tmp_path, "judgements") as writer:
        writer.write({"query_id": "q", "product_id": "p", "grade": "good"})


def test_tables_are_written_as_declared(tiny_data: Path) -> None:
    assert pq.read_schema(list_files(tiny_data, "judgements")[0]).equals(JUDGEMENTS)


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "queries").mkdir()
    table = pa.table({"query_id": ["q"], "split": ["test"], "text": ["a"]})
    pq.write_table(table, tmp_path / "queries" / "00000.parquet")
    (row,) = read_table(tmp_path, "queries").to_pylist()
    assert (row["text"], row["frequency"], row["segment"]) == ("a", None, None)
