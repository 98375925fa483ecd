"""The split of a query is decided once, whatever comes later."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import store
from catalog.schema import QUERIES, SPLITS, DataError
from catalog.sources import import_data
from catalog.splits import SALT, SHARES, assign_splits, choose_salt, find_split, read_salt

Texts = st.lists(st.text(max_size=8), unique=True)


@given(Texts, Texts)
def test_more_keys_move_no_key_once_the_salt_is_chosen(first: list[str], more: list[str]) -> None:
    salt = choose_salt(first)
    before = {key: find_split(key, salt) for key in first}
    after = {key: find_split(key, salt) for key in [*more, *first]}
    assert before.items() <= after.items()


@given(st.lists(st.text(max_size=8), min_size=3, unique=True))
def test_no_split_of_three_keys_or_more_is_empty(keys: list[str]) -> None:
    splits = assign_splits(keys)
    assert splits.keys() == set(keys)
    assert set(splits.values()) == set(SPLITS)


@given(st.lists(st.text(max_size=8), min_size=3, unique=True))
def test_the_salt_does_not_depend_on_the_order(keys: list[str]) -> None:
    assert choose_salt(keys) == choose_salt(reversed(keys))


def test_the_shares_are_met_in_expectation_and_large_data_need_no_salt() -> None:
    keys = [f"query {number}" for number in range(20_000)]
    assert choose_salt(keys) == 0
    counts = Counter(assign_splits(keys).values())
    for split, share in SHARES.items():
        assert abs(counts[split] / len(keys) - share) < 0.015  # four standard errors


def test_splits_that_have_queries_need_no_key() -> None:
    key = next(key for key in map(str, range(100)) if find_split(key) == "train")
    assert choose_salt([key], present=SPLITS) == 0
    salt = choose_salt([key], present=("train", "valid"))
    assert find_split(key, salt) == "test"


def test_too_few_keys_are_no_endless_search() -> None:
    assert assign_splits(["a", "b"]).keys() == {"a", "b"}
    assert assign_splits([]) == {}


def test_a_salt_that_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queries").mkdir()
    for number, salt in enumerate((b"7", b"x", None)):
        schema = QUERIES.with_metadata({SALT: salt} if salt else None)
        pq.write_table(pa.Table.from_pylist([], schema), tmp_path / "queries" / f"{number}.parquet")
    with pytest.raises(DataError, match=r"metadata vitrine\.split_salt is '7 and x', not a number"):
        read_salt(tmp_path)
    (tmp_path / "queries" / "1.parquet").unlink()
    assert read_salt(tmp_path) == 7


def test_the_salt_survives_in_the_files(tmp_path: Path) -> None:
    for name, metadata in (("with", {SALT: b"3"}), ("without", None)):
        with store.TableWriter(tmp_path / name, "queries", metadata=metadata) as table:
            table.write({"query_id": "q", "text": "t", "split": "train"})
    assert (read_salt(tmp_path / "with"), read_salt(tmp_path / "without")) == (3, None)


def test_queries_of_a_table_with_the_same_picture_or_text_are_in_one_split(
    tmp_path: Path, png: Callable[..., bytes]
) -> None:
    """The text of a query with a picture may repeat; a given split counts for all queries of the text."""
    (tmp_path / "products.csv").write_text("product_id,title\np,thing of oak\n")
    rows = ["query_id,text,image,split"]
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        rows += [f"a{number},the same in red,{number}.png,", f"b{number},,{number}.png,"]
        rows += [f"c{number},Text {number},,", f"d{number}, text  {number},,{'valid' * (number == 0)}"]
    (tmp_path / "queries.csv").write_text("\n".join(rows))
    import_data("table", tmp_path / "products.csv", tmp_path / "data", queries=tmp_path / "queries.csv")
    queries = store.read_table(tmp_path / "data", "queries").to_pylist()
    splits = {row["query_id"]: row["split"] for row in queries}
    assert len(splits) == 80
    for number in range(20):
        assert splits[f"a{number}"] == splits[f"b{number}"]
        assert splits[f"c{number}"] == splits[f"d{number}"]
        assert number == 0 or splits[f"c{number}"] == find_split(f"text {number}")
    assert splits["c0"] == "valid"
    assert len({splits[f"a{number}"] for number in range(20)}) == 3
