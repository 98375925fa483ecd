import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import score
from vitrine_judge.parquet_files import read_table
from vitrine_judge.rankings import Qrels, Run

Nested = dict[str, dict[str, float]]
Kind = type[Run] | type[Qrels]

WORDS = st.text("abé09_/\"',", min_size=1, max_size=4)  # ids that every format can hold
NESTED = st.dictionaries(
    WORDS,
    st.dictionaries(WORDS, st.integers(-9, 9) | st.floats(-1e9, 1e9), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
    "lz4": lambda content: pa.compress(content, "lz4", asbytes=True),
    "two members of gzip": lambda content: gzip.compress(content[:7]) + gzip.compress(content[7:]),
}
MARKS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "utf-8": lambda content: codecs.BOM_UTF8 + content,
    "utf-16": lambda content: content.decode().encode("utf-16"),
    "utf-16, big endian": lambda content: codecs.BOM_UTF16_BE + content.decode().encode("utf-16-be"),
}


def pairs_of(nested: Nested) -> list[tuple[str, str, float]]:
    return [(query, product, value) for query, pairs in nested.items() for product, value in pairs.items()]


def lines(nested: Nested, form: str) -> bytes:
    return "".join(form.format(q=q, p=p, v=repr(v)) for q, p, v in pairs_of(nested)).encode()


def table(nested: Nested, delimiter: str, header: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    if delimiter == ",":
        csv.writer(text).writerows([header, *pairs_of(nested)])
    else:
        text.writelines("\t".join(map(str, row)) + "\n" for row in [header, *pairs_of(nested)])
    return text.getvalue().encode()


def json_lines(nested: Nested, header: tuple[str, ...]) -> bytes:
    rows = [json.dumps(dict(zip(header, pair, strict=True)) | {"more": [1]}) for pair in pairs_of(nested)]
    return "\n".join(rows).encode()


def parquet(nested: Nested, header: tuple[str, ...], *kinds: pa.DataType) -> bytes:
    columns = zip(*pairs_of(nested), strict=True)
    table = pa.table({name: pa.array(column) for name, column in zip(header, columns, strict=True)})
    table = table.cast(pa.schema(list(zip(header, kinds or table.schema.types, strict=True))))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def value_name(kind: Kind) -> str:
    return kind.LAYOUT.value


FORMATS: dict[str, Callable[[Kind, Nested], bytes]] = {
    "TREC": lambda kind, nested: lines(nested, "{q} Q0 {p} 1 {v} x\n" if kind is Run else "{q} 0 {p} {v}\n"),
    "TREC, short": lambda kind, nested: lines(
        nested, "{q} Q0 {p} 1 {v}\n" if kind is Run else "{q} {p} {v}\n"
    ),
    "TREC, any blanks": lambda kind, nested: lines(
        nested, " {q}  Q0\t{p} 1 {v} x \r\n\r\n" if kind is Run else " {q}  0 {p}\t {v} \r\n\r\n"
    ),
    "TREC, tabs": lambda kind, nested: lines(
        nested, "{q}\tQ0\t{p}\t1\t{v}" + "\tx\n" if kind is Run else "{q}\t{p}\t{v}\n"
    ),
    "TREC, comments": lambda kind, nested: (
        b"# one\n"
        + lines(nested, "{q} Q0 {p} 1 {v} my own  tag\n #\n" if kind is Run else "{q} 0 {p} {v}\n#q 0 p 1\n")
    ),
    "JSON": lambda kind, nested: b"\n " + json.dumps(nested, indent=1).encode(),
    "JSON lines": lambda kind, nested: json_lines(nested, ("query_id", "product_id", value_name(kind))),
    "CSV": lambda kind, nested: table(nested, ",", ("query_id", "product_id", value_name(kind))),
    "TSV": lambda kind, nested: table(nested, "\t", ("query_id", "product_id", value_name(kind))),
    "ranx": lambda kind, nested: table(nested, ",", ("q_id", "doc_id", "score" if kind is Run else "rel")),
    "ir_measures": lambda kind, nested: json_lines(
        nested, ("query_id", "doc_id", "score" if kind is Run else "relevance")
    ),
    "parquet": lambda kind, nested: parquet(nested, ("query_id", "product_id", value_name(kind))),
    "parquet, other types": lambda kind, nested: parquet(
        nested,
        ("query_id", "product_id", value_name(kind)),
        pa.large_string(),
        pa.string_view(),
        pa.float64(),
    ),
}


@pytest.mark.parametrize("kind", [Run, Qrels])
@pytest.mark.parametrize("form", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(nested=NESTED, compression=st.sampled_from(list(COMPRESSIONS)), mark=st.sampled_from(list(MARKS)))
def test_any_format_and_compression_gives_the_same(
    tmp_path: Path, kind: Kind, form: str, nested: Nested, compression: str, mark: str
) -> None:
    content = FORMATS[form](kind, nested)
    if not form.startswith("parquet"):
        content = MARKS[mark](content)
    path = tmp_path / "content says what this is.txt"
    path.write_bytes(COMPRESSIONS[compression](content))
    assert kind.from_file(path).to_dict() == nested


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["q", "#", "\u00a0r"]), st.sampled_from([" ", "  ", "\t", " \t"]), st.booleans()
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrow_and_the_parser_of_lines_agree(tmp_path: Path, rows: list, newline: str) -> None:
    path = tmp_path / "run.txt"
    texts = [
        sep.join([f"{query}{row}", "Q0", "d", "1", str(row), *(["tag"] if has_tag else [])])
        for row, (query, sep, has_tag) in enumerate(rows)
    ]

    def read() -> dict | str:
        try:
            return Run.from_trec(path).to_dict()
        except JudgeError as error:
            return str(error)

    path.write_text(newline.join(texts), newline="")
    expected = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrine_judge.text_files._parse_regular", lambda *_: None)
        assert read() == expected
    if len({has_tag for query, _, has_tag in rows if query != "#"}) == 1:
        assert expected == {f"{q}{row}": {"d": float(row)} for row, (q, *_) in enumerate(rows) if q != "#"}


def test_ids_with_blanks_between_tabs(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text("red shoe\tQ0\ta 1\t1\t0.5\nblue hat \tQ0\tb\t1\t0.25\n")
    assert Run.from_trec(path).to_dict() == {"red shoe": {"a 1": 0.5}, "blue hat": {"b": 0.25}}


@pytest.mark.parametrize(
    "grades",
    [
        pa.array([Decimal("1.5"), Decimal("2.0")]),
        pa.array([1.5, 2.0], pa.float32()),
        pa.array([1.5, 2.0]).dictionary_encode(),
        pa.array([1.5, 2.0], pa.float16()),
    ],
)
def test_numbers_of_any_type(tmp_path: Path, grades: pa.Array) -> None:
    ids = pa.array(["a", "b"], pa.string_view())
    columns = {"query_id": pa.array(["q", "q"]).dictionary_encode(), "product_id": ids, "grade": grades}
    pq.write_table(pa.table(columns), tmp_path / "qrels.parquet")
    assert Qrels.from_file(tmp_path / "qrels.parquet").to_dict() == {"q": {"a": 1.5, "b": 2.0}}
    assert Qrels.from_table(pa.table(columns)).to_dict() == {"q": {"a": 1.5, "b": 2.0}}


def test_grades_that_are_true_or_false() -> None:
    for grades in (pa.array([True, False]), [True, False]):
        assert Qrels.from_arrays(["q", "q"], ["a", "b"], grades).to_dict() == {"q": {"a": 1.0, "b": 0.0}}


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "2026").mkdir()
    (tmp_path / "_SUCCESS").write_text("")
    with pytest.raises(JudgeError, match="holds no parquet files"):
        Run.from_file(tmp_path)
    Run.from_dict({"q": {"a": 1.0}, "p": {"a": 1.0}}).to_parquet(tmp_path / "part-0")
    Run.from_dict({"q": {"b": 2.0}}).to_parquet(tmp_path / "2026" / "part-1.parquet")
    assert Run.from_file(tmp_path).to_dict() == {"q": {"b": 2.0, "a": 1.0}, "p": {"a": 1.0}}


def test_a_path_as_text(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("q Q0 a 1 0.5\n")
    assert Run.from_file(str(tmp_path / "run.txt")).to_dict() == {"q": {"a": 0.5}}


TREC = b"q1 Q0 a 1 0.5 x\nq1 Q0 b 2 0.25 x\n"
PARQUET = parquet({"q": {"a": 1.0}}, ("query_id", "product_id", "score"))
TWO_COLUMNS = pa.BufferOutputStream()
pq.write_table(
    pa.Table.from_arrays(
        [pa.array(["q"]), pa.array(["a"]), *[pa.array([1.0])] * 2],
        ["query_id", "product_id", "score", "score"],
    ),
    TWO_COLUMNS,
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no scores"),
        (b"# nothing\n\n", "holds no scores"),
        (b"{}", "holds no scores"),
        (b'{"q": {"a": 1, "b": 2, "a": 3}}', "key 'a' occurs twice in an object"),
        (b'{"q": {"a": 1}, "q": {"b": 2}}', "key 'q' occurs twice in an object"),
        (b'{"q": {"a": NaN}}', "holds NaN; give finite numbers"),
        (b'{"q": {"a": -Infinity}}', "holds -Infinity"),
        (b'{"q": {"a": 1e999}}', "query 'q', product 'a': the score is inf"),
        (b'{"q": {"a": null}}', "query 'q', product 'a': the score None is not a number"),
        (b'{"q": {"a": 1, "b": "2"}}', "query 'q', product 'b': the score '2' is not a number"),
        (b'{"q": {"a": {"b": 1}}}', "the score {'b': 1} is not a number"),
        (b'{"q": {"a": 1}, "r": 2}', "query 'r': expected {query: {product: number}}"),
        (b'{"q": {"a": 1}', "not readable as JSON"),
        (b'{"q": ' * 100_000, "not readable as JSON"),
        (
            b'{"query_id": "q", "product_id": "a", "score": 1}\n{"query_id": "q"}',
            "line 2: column 'product_id' is missing",
        ),
        (b'{"query_id": "q", "product_id": "a", "score": 1}\n[1]', "line 2: expected an object"),
        (b'{"query_id": "q", "product_id": "a", "score": "1"}', "line 1: '1' is not a number"),
        (b'{"query_id": "q", "product_id": "a", "score": NaN}', "line 1: holds NaN"),
        (b'{"query_id": "q", "query_id": "r", "score": 1}', "line 1: key 'query_id' occurs twice"),
        (b'{"query_id": "q", "product_id": null, "score": 1}', "product ids: row 0 has no id"),
        (
            b'{"query_id": "q", "product_id": [1], "score": 1}',
            "product ids: must be all text or all integers",
        ),
        (b"query_id,product_id,score\nq,a,1\nq,b\n", "line 3: 2 columns, but the header has 3"),
        (b"query_id,product_id,score\nq,a,high\n", "line 2: 'high' is not a number"),
        (b"query_id,product_id,score\nq,,1\n", "product ids: '' is not an id"),
        (b'query_id,product_id,score\n"q,a,1\n', "line 2: unexpected end of data"),
        (b"query_id,product_id\nq,a\n", "column 'score' is missing"),
        (b"query_id,product_id,grade\nq,a,1\n", "holds judgements; give a run here"),
        (b"query_id,product_id,score\n", "holds no scores"),
        (b"query-id\tcorpus-id\tscore\nq\ta\t1\n", "holds judgements; give a run here"),
        (b"q Q0 a 1 nan x\n", "query 'q', product 'a': the score is nan"),
        (b"q Q0 a 1 1_0 x\n", "line 1: '1_0' is not a number"),
        (b"\nq Q0 a 1 1 x\nq Q0 b 1\n", "line 3: 4 columns, but the first line has 6"),
        (b"q Q0 a 1 1 x\n q Q0 b 1 1\n", "line 2: 5 columns, but the first line has 6"),
        (b"q Q0 a 1 1\nq Q0 b 1 1 x\n", "line 2: 6 columns, but the first line has 5"),
        (b"q Q0 a 1 1 x\nq Q0 b 2 1 x\nq Q0 a 3 0 x\n", "query 'q', product 'a': duplicate pair"),
        (b"q Q0 a 1 1 x\nq Q0 \xe9 1 1 x\n", "line 2: not utf-8 text"),
        (codecs.BOM_UTF16_LE + b"q", "line 1: not utf-16"),
        (gzip.compress(TREC)[:-9], "damaged or truncated gzip"),
        (gzip.compress(TREC)[:20] + b"\0\0\0" + gzip.compress(TREC)[23:], "damaged or truncated gzip"),
        (bz2.compress(TREC)[:-9], "damaged or truncated bz2"),
        (lzma.compress(TREC)[:-9], "damaged or truncated xz"),
        (lzma.compress(TREC)[:30] + b"\0\0\0" + lzma.compress(TREC)[33:], "damaged or truncated xz"),
        (pa.compress(TREC, "zstd", asbytes=True)[:-9], "damaged or truncated zstd"),
        (gzip.compress(bytes(1 << 27)), "expands more than 200-fold"),
        (PARQUET[:-9], "not a readable parquet file"),
        (gzip.compress(PARQUET[:-9]), "not a readable parquet file"),
        (b"PAR1", "not a readable parquet file"),
        (TWO_COLUMNS.getvalue().to_pybytes(), "two columns have the name 'score'"),
        (parquet({"q": {"a": float("nan")}}, ("query_id", "product_id", "score")), "the score is nan"),
        (
            parquet({"q": {"a": "1"}}, ("query_id", "product_id", "score")),
            "scores must be numbers, not string",
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run"
    path.write_bytes(content)
    with pytest.raises(JudgeError) as error:
        Run.from_file(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [{"q": {"a": 1.0}}, [1], None, 3])
def test_data_in_place_of_a_path(data: object) -> None:
    for read in (
        Run.from_file,
        Run.from_trec,
        Run.from_parquet,
        Qrels.from_beir,
        lambda path: list(Run.batches(path)),
    ):
        with pytest.raises(JudgeError, match=rf"expected the path of a file, not {type(data).__name__}"):
            read(data)


@pytest.mark.parametrize("data", ["run.txt", Path("run.txt"), [("q", "a", 1.0)], None])
def test_a_path_in_place_of_data(data: object) -> None:
    with pytest.raises(JudgeError, match=rf"Run from a dict: expected .* not {type(data).__name__}"):
        Run.from_dict(data)
    with pytest.raises(JudgeError, match=rf"table: expected an Arrow table, not {type(data).__name__}"):
        Run.from_table(data)


def test_data_in_place_of_rankings() -> None:
    nested = {"q": {"a": 1.0}}
    run, qrels = Run.from_dict(nested), Qrels.from_dict(nested)
    for bad_run, bad_qrels, message in (
        (nested, qrels, "expected Run, not dict; use Run.from_dict"),
        (run, nested, "expected Qrels, not dict; use Qrels.from_dict"),
        ("run.txt", qrels, "expected Run, not str; use Run.from_file"),
        (Path("run.txt"), qrels, "expected Run, not PosixPath; use Run.from_dict, from_arrays or from_file"),
        (qrels, run, "expected Qrels, not Run"),
        (qrels, qrels, "expected Run, not Qrels"),
        ([run, nested], qrels, "expected Run, not dict"),
    ):
        with pytest.raises(JudgeError, match=message):
            score(bad_run, bad_qrels, ["mrr"])


def test_more_text_than_arrow_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: object) -> None:
        raise pa.ArrowInvalid("array cannot contain\nmore than 2147483646 bytes")  # with two GiB of ids

    monkeypatch.setattr("vitrine_judge.id_codes._encode", encode)
    message = (
        "query ids: too long \\(array cannot contain more than .*\\); all unique ids together may have 2 GiB"
    )
    with pytest.raises(JudgeError, match=message):
        Run.from_arrays(["q"], ["a"], [1.0])


def test_trec_cannot_hold_a_query_that_looks_like_a_comment(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="query '#1' would be a comment"):
        Run.from_dict({"#1": {"a": 1.0}}).to_trec(tmp_path / "run.txt")


def test_parquet_without_pandas(tmp_path: Path) -> None:
    """Pandas is installed here, and takes time to import."""
    Run.from_dict({"q": {"a": 1.0}}).to_parquet(tmp_path / "run.parquet")
    Qrels.from_dict({"q": {"a": 1.0}}).to_parquet(tmp_path / "qrels.parquet")
    Run.from_dict({"q": {"a": 1.0}}).to_trec(tmp_path / "run.txt")
    code = """
import importlib.util, sys
from vitrine_judge.__main__ import main
for run in sys.argv[1:3]:
    main(["score", run, sys.argv[3]])
assert importlib.util.find_spec("pandas")
print(*sys.modules)
"""
    files = [str(tmp_path / name) for name in ("run.parquet", "run.txt", "qrels.parquet")]
    result = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    unwanted = {"pandas", "matplotlib", "jinja2", "pyarrow.dataset", "numpy.ma", "concurrent.futures.thread"}
    assert not unwanted & set(result.stdout.split())


def test_read_table_keeps_other_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x", "y", "x"], "b": [1, 2, 3]}), tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet").to_pydict() == {"a": ["x", "y", "x"], "b": [1, 2, 3]}
    assert read_table(tmp_path / "table.parquet", ["b", "c"]).to_pydict() == {"b": [1, 2, 3]}
