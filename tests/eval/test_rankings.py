from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.combine import rrf
from vitrine_judge.errors import JudgeError
from vitrine_judge.rankings import Qrels, Run

NESTED = st.dictionaries(
    st.text("abcé 0", min_size=1, max_size=4),
    st.dictionaries(st.text("xyz09", min_size=1, max_size=4), st.floats(-1e9, 1e9), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)


def test_a_query_is_sorted_by_score_descending_then_id_ascending() -> None:
    run = Run.from_arrays(["q", "q", "q", "p"], ["c", "b", "a", "z"], [1.0, 2.0, 1.0, 0.0])
    assert run.query_ids.tolist() == ["q", "p"]
    assert run.product_ids.tolist() == ["b", "a", "c", "z"]
    assert run.values.tolist() == [2.0, 1.0, 1.0, 0.0]
    assert run.offsets.tolist() == [0, 3, 4]
    assert run.counts.tolist() == [3, 1]
    assert run.ranks.tolist() == [1, 2, 3, 1]
    assert run.query_index.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("kind", [Run, Qrels])
@pytest.mark.parametrize("queries", [["q", "p", "q"], [7, 2, 7], [-7, 2, -7], [10**12, 2, 10**12]])
def test_the_pairs_of_a_query_stand_together(kind: type[Run] | type[Qrels], queries: list) -> None:
    pairs = kind.from_arrays(queries, ["b", "z", "a"], [3, 2, 1])
    assert pairs.to_dict() == {str(queries[0]): {"b": 3.0, "a": 1.0}, str(queries[1]): {"z": 2.0}}
    assert pairs.values.dtype == np.float64
    query = pairs.pairs_of(str(queries[0]))
    assert pairs.product_ids[query].tolist() == ["b", "a"]
    assert pairs.product_ids[pairs.pairs_of("x")].tolist() == []


def test_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = {f"q{n}": {f"p{i}": float(-i) for i in range(1 + n % 5)} for n in range(20)}
    path = tmp_path / "run.parquet"
    Run.from_dict(nested).to_parquet(path)
    assert len(list(Run.batches(path))) == 1
    monkeypatch.setattr("vitrine_judge.ranking_files.BATCH", 9)
    parts = [run.to_dict() for run in Run.batches(path)]
    assert len(parts) > 4
    assert [item for part in parts for item in part.items()] == list(nested.items())
    assert all(sum(map(len, part.values())) <= 18 for part in parts)
    pq.write_table(pq.read_table(path).slice(7), path)  # begins within a query
    assert sum(len(pairs) for run in Run.batches(path) for pairs in run.to_dict().values()) == 53
    monkeypatch.setattr("vitrine_judge.ranking_files.BATCH", 3)
    with pytest.raises(JudgeError, match=r"run.parquet: query 'q.' has more than 3 products"):
        list(Run.batches(path))


def test_batches_of_what_is_not_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine_judge.ranking_files.BATCH", 1)
    Run.from_dict({"q": {"a": 1.0, "b": 0.0}}).to_trec(tmp_path / "run.txt")
    (run,) = Run.batches(tmp_path / "run.txt")
    assert run.to_dict() == {"q": {"a": 1.0, "b": 0.0}}


@given(NESTED)
def test_split(nested: dict) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrine_judge.rankings.BLOCK", 24)  # three pairs at a time
        parts = list(Run.from_dict(nested).split())
    run = Run.from_dict(nested)
    assert [run.query_ids[rows].tolist() for rows, _ in parts] == [
        part.query_ids.tolist() for _, part in parts
    ]
    assert [item for _, part in parts for item in part.to_dict().items()] == list(run.to_dict().items())


@given(NESTED, st.booleans(), st.data())
def test_the_ranks_of_products(nested: dict, ranked: bool, data: st.DataObject) -> None:
    if ranked:  # best first: the products of such a run stay without codes
        nested = {query: {item: -rank for rank, item in enumerate(pairs)} for query, pairs in nested.items()}
    run = Run.from_dict(nested)
    assert not (ranked and run.is_coded)
    run = run.select(np.array(data.draw(st.permutations(range(len(nested))))))
    ids = pa.array(["x", "y", "z", "0", "9", "xy"])
    rows = np.array(data.draw(st.lists(st.integers(0, len(nested) - 1), min_size=6, max_size=6)))
    expected = [
        run.product_ids[run.offsets[row] : run.offsets[row + 1]].tolist().index(item) + 1
        if item in nested[run.query_ids[row]]
        else 0
        for row, item in zip(rows.tolist(), ids.to_pylist(), strict=True)
    ]
    index, numbers = run.index_products(ids)
    assert index.find_ranks(rows, numbers).tolist() == expected


@given(NESTED)
def test_a_run_without_codes_is_the_same_run(nested: dict) -> None:
    nested = {query: {item: -rank for rank, item in enumerate(pairs)} for query, pairs in nested.items()}
    run = Run.from_dict(nested)
    columns = ([q for q, pairs in nested.items() for _ in pairs], run.product_ids.tolist(), run.values)
    coded = Run.from_arrays(*columns)
    assert coded.is_coded and run.to_dict() == coded.to_dict()
    assert rrf([run, run]).to_dict() == rrf([coded, coded]).to_dict()
    with TemporaryDirectory() as folder:
        run.to_parquet(Path(folder) / "run.parquet")
        assert Run.from_parquet(Path(folder) / "run.parquet").to_dict() == run.to_dict()


def test_integers_and_their_digits_are_one_id() -> None:
    assert Qrels.from_arrays([7], [10], [1]).to_dict() == {"7": {"10": 1.0}}
    assert Run.from_dict({7: {9: 1.0, 10: 1.0}}).product_ids.tolist() == ["10", "9"]  # as text, not by size


def test_a_query_without_products_is_not_in_it() -> None:
    assert Run.from_dict({"empty": {}, "q": {"a": 1.0}}).query_ids.tolist() == ["q"]


@given(NESTED, st.randoms(use_true_random=False))
def test_order_of_rows_plays_no_part(nested: dict, random: object) -> None:
    rows = [(q, i, v) for q, pairs in nested.items() for i, v in pairs.items()]
    expected = Run.from_arrays(*zip(*rows, strict=True)).to_dict()
    random.shuffle(rows)
    shuffled = Run.from_arrays(*zip(*rows, strict=True)).to_dict()
    assert {q: list(p.items()) for q, p in shuffled.items()} == {
        q: list(p.items()) for q, p in expected.items()
    }
    assert expected == nested


@pytest.mark.parametrize("kind", [Run, Qrels])
def test_parquet_and_back(tmp_path: Path, kind: type[Run] | type[Qrels]) -> None:
    nested = {"red shoe": {"a": 0.1, "b": 1 / 3}, "é": {"a": -1e-300}}
    kind.from_dict(nested).to_parquet(tmp_path / "it.parquet")
    assert kind.from_parquet(tmp_path / "it.parquet").to_dict() == nested


@pytest.mark.parametrize("kind", [Run, Qrels])
def test_trec_and_back(tmp_path: Path, kind: type[Run] | type[Qrels]) -> None:
    nested = {"q1": {"a": 0.1, '"b"': 1 / 3}, "NA": {"null": -1e-300, "nan": 2.0}}
    kind.from_dict(nested).to_trec(tmp_path / "it.txt")
    assert kind.from_trec(tmp_path / "it.txt").to_dict() == nested


def test_trec_files_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_bytes(b" q1 Q0  a 9 0.5 x\r\n\r\nq1\tQ0\tb\t1\t2e0\tx  \r\n007 Q0 c 1 1 x")
    assert Run.from_trec(path).to_dict() == {"007": {"c": 1.0}, "q1": {"b": 2.0, "a": 0.5}}
    path.write_text("q1 0 a 3\nq1 0 b -1\n")
    assert Qrels.from_trec(path).to_dict() == {"q1": {"a": 3.0, "b": -1.0}}


def test_trec_layout(tmp_path: Path) -> None:
    Run.from_dict({"q": {"a": 1.0, "b": 2.0}}).to_trec(tmp_path / "run.txt")
    assert (tmp_path / "run.txt").read_text() == "q Q0 b 1 2 vitrine\nq Q0 a 2 1 vitrine\n"
    Qrels.from_dict({"q": {"a": 3}}).to_trec(tmp_path / "qrels.txt")
    assert (tmp_path / "qrels.txt").read_text() == "q 0 a 3\n"


def test_beir(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq 1\td 1\t1\nq 1\td 2\t0\n")
    assert Qrels.from_beir(path).to_dict() == {"q 1": {"d 1": 1.0, "d 2": 0.0}}


def test_a_data_frame() -> None:
    frame = pd.DataFrame({"query_id": ["q"], "product_id": [7], "score": [0.5]}, index=[3])
    assert Run.from_pandas(frame).to_dict() == {"q": {"7": 0.5}}
    with pytest.raises(JudgeError, match="data frame: holds a run; give judgements here"):
        Qrels.from_pandas(frame)
    with pytest.raises(JudgeError, match="data frame: column 'product_id' is missing"):
        Run.from_pandas(frame[["query_id", "score"]])


def test_any_column_of_ids_will_do() -> None:
    ids = ["b", "a", "b"]
    expected = {"a": {"2": 1.0}, "b": {"1": 1.0, "3": 1.0}}
    for column in (
        np.array(ids),
        np.array(ids, object),
        pa.array(ids),
        pa.array(ids).dictionary_encode(),
        pa.DictionaryArray.from_arrays([0, 1, 2], ["b", "a", "b"]),
        pa.chunked_array([ids[:1], ids[1:]]),
        pa.array(ids, pa.large_string()),
    ):
        assert Qrels.from_arrays(column, pa.array([1, 2, 3], pa.int8()), np.ones(3)).to_dict() == expected


@pytest.mark.parametrize(
    ("queries", "items", "values", "message"),
    [
        ([], [], [], "nothing to judge"),
        (["q"], ["a", "b"], [1.0], "1 query ids, 2 product ids and 1 scores"),
        (["q", "q"], ["a", "a"], [1.0, 2.0], "query 'q', product 'a': duplicate pair"),
        (["q", "q"], ["1", "a"], [1.0, np.nan], "query 'q', product 'a': the score is nan"),
        (["q"], ["a"], [-np.inf], "the score is -inf"),
        (["q"], ["a"], ["much"], "query 'q', product 'a': the score 'much' is not a number"),
        (["q", "q"], ["a", "b"], [1.0, "2"], "query 'q', product 'b': the score '2' is not a number"),
        (["q"], ["a"], pa.array(["1"]), "scores must be numbers, not string"),
        (["q"], ["a"], [None], "the score None is not a number"),
        (["q", "p"], ["a", "b"], [[1.0], [2.0, 3.0]], "scores must be numbers"),
        (["q"], ["a"], [10**400], "is not a number"),
        (["q", "p"], ["a", "b"], np.ma.array([1.0, 2.0], mask=[0, 1]), "scores: row 1 is masked"),
        (np.ma.array([1, 2], mask=[1, 0]), ["a", "b"], [1.0, 2.0], "query ids: row 0 is masked"),
        ("q", "a", [1.0], "query ids: expected a column of ids, not str; use from_file or from_dict"),
        ({"q": {"a": 1}}, ["a"], [1.0], "query ids: expected a column of ids, not dict"),
        (1, 2, 3, "three columns of equal length"),
        (["q", "q"], ["1", "a"], pa.array([1, None]), "query 'q', product 'a': the score is nan"),
        (["q"], ["a"], [[1.0]], "one number per pair"),
        ([1.5], ["a"], [1.0], "query ids: must be all text or all integers, not double"),
        (["q"], [b"a"], [1.0], "product ids: must be all text or all integers, not binary"),
        (["q", 1], ["a", "b"], [1.0, 1.0], "query ids: must be all text or all integers"),
        (["q", None], ["a", "b"], [1.0, 1.0], "query ids: row 1 has no id"),
        (["q"], [""], [1.0], "product ids: '' is not an id"),
        (["q"], ["a\0"], [1.0], "is not an id"),
    ],
)
def test_bad_arrays(queries: list, items: list, values: list, message: str) -> None:
    with pytest.raises(JudgeError, match="Run from arrays: ") as error:
        Run.from_arrays(queries, items, values)
    assert message in str(error.value)


def test_an_integer_and_its_digits_are_duplicates() -> None:
    with pytest.raises(JudgeError, match="must be all text or all integers"):
        Qrels.from_dict({1: {"a": 1}, "1": {"a": 1}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "q Q0 a 1 0.5 x\nq Q0 b 2 0.4\n",
            "line 2: 5 columns, but the first line has 6: query_id, iteration,",
        ),
        ("\nq Q0 a 1 high x\n", "line 2: 'high' is not a number"),
        ("q Q0 a 1 NA x\n", "line 1: 'NA' is not a number"),
        ("q Q0 a 1 nan x\n", "product 'a': the score is nan"),
        ("q Q0 a 1 1 x\nq Q0 a 2 1 x\n", "duplicate pair"),
        ("", "holds no scores"),
        (
            "q a 1\n",
            "the first line has 3 columns; expected query_id iteration product_id rank score tag, the same",
        ),
    ],
)
def test_bad_trec_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(text)
    with pytest.raises(JudgeError) as error:
        Run.from_trec(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_files_that_are_not_there_or_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="No such file"):
        Run.from_trec(tmp_path / "absent")
    with pytest.raises(JudgeError, match=r"absent: not a readable parquet file"):
        Run.from_parquet(tmp_path / "absent")
    pq.write_table(pa.table({"query_id": ["q"], "product_id": ["a"]}), tmp_path / "short.parquet")
    with pytest.raises(JudgeError, match=r"short.parquet: column 'score' is missing"):
        Run.from_parquet(tmp_path / "short.parquet")
    (tmp_path / "headless.tsv").write_text("q\td\t1\nq\te\t1\n")
    with pytest.raises(JudgeError, match="column 'query_id' is missing; needed are query_id"):
        Qrels.from_beir(tmp_path / "headless.tsv")


def test_trec_cannot_hold_blanks(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="'red shoe' holds a blank"):
        Run.from_dict({"red shoe": {"a": 1.0}}).to_trec(tmp_path / "run.txt")
