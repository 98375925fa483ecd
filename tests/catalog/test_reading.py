"""Tables in all formats and encodings, and file names that lead out of the folder."""

import csv
import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog import files as catalog_files
from catalog.files import Files
from catalog.reading import delimited, json_rows, read_rows
from catalog.schema import DataError

TABLE = [{"id": "1", "title": "Köln, 5 €"}, {"id": "2", "title": 'a "b"\nc'}]


def write_csv(delimiter: str = ",") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["id", "title"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(TABLE)
    return stream.getvalue()


def read(
    folder: Path, name: str, content: bytes, **style: str
) -> tuple[list[dict[str, object]], list[tuple[str, str]]]:
    (folder / name).write_bytes(content)
    files = Files(folder)
    rows = [record.values for record in read_rows(files, name, **style)]
    return rows, [tuple(fault) for fault in files.faults]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_as_excel_writes_it(encoding: str, delimiter: str, tmp_path: Path) -> None:
    content = write_csv(delimiter).encode(encoding)
    assert read(tmp_path, "t.csv", content) == (TABLE, [])
    assert read(tmp_path, "t.csv.gz", gzip.compress(content)) == (TABLE, [])


def test_an_encoding_can_be_given(tmp_path: Path) -> None:
    content = write_csv().encode("utf-8").replace("ö".encode(), b"\xbe").replace("€".encode(), b"?")
    rows, _ = read(tmp_path, "t.csv", content, encoding="cp850")
    assert rows[0]["title"] == "K¥ln, 5 ?"
    with pytest.raises(DataError, match="--encoding nonesuch: Python does not know this encoding"):
        read(tmp_path, "t.csv", content, encoding="nonesuch")


def test_rows_at_fault_are_noted_with_their_line(tmp_path: Path) -> None:
    rows, faults = read(tmp_path, "t.csv", b"id,title\n1,a\n2\n\n3,b,c\n4,d\n")
    assert [row["id"] for row in rows] == ["1", "4"]
    assert faults == [
        ("t.csv line 3", "1 values, but the header has 2"),
        ("t.csv line 5", "3 values, but the header has 2"),
    ]
    rows, faults = read(tmp_path, "t.jsonl", b'{"id": 1}\n{"id": \n[1]\n\n{"id": 2}\n' + b"[" * 100_000)
    assert [row["id"] for row in rows] == [1, 2]
    assert [where for where, _ in faults] == [f"t.jsonl line {n}" for n in (2, 3, 6)]


def test_what_is_too_long_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (delimited, json_rows):
        monkeypatch.setattr(module, "MAX_LINE_CHARS", 100)
    monkeypatch.setattr(delimited, "MAX_FIELD_CHARS", 50)
    row = json.dumps({"id": 1, "title": "x" * 300}).encode()
    rows, faults = read(tmp_path, "t.jsonl", row + b'\n{"id": 2}\n')
    assert rows == [{"id": 2}] and faults == [("t.jsonl line 1", "longer than 100 characters")]
    rows, faults = read(tmp_path, "t.csv", b"id,title\n1," + b"x" * 60 + b"\n2,b\n")
    assert [row["id"] for row in rows] == ["2"] and "field larger than field limit" in faults[0][1]
    rows, _ = read(tmp_path, "t.csv", b"id,title\n1," + b"x" * 10_000 + b"\n2,b\n")
    assert [row["id"] for row in rows] == ["2"]


def test_too_many_faults_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_files, "MAX_FAULTS", 10)
    with pytest.raises(
        DataError, match=r"more than 10 consecutive rows cannot be read; t\.csv line 12: 1 values"
    ):
        read(tmp_path, "t.csv", b"id,title\n" + b"x\n" * 20)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"id,name\n1,a\n", "t.csv: no column title; it has id, name"),
        ("t.csv", b"", "t.csv: no column id, title"),
        ("t.csv", b"id,title,id\n1,a,2\n", "t.csv: two columns are named 'id'"),
        ("t.xlsx", b"PK", r"t.xlsx is not one of .csv"),
        ("t.parquet", b"PAR1 nothing", "t.parquet: not a parquet file"),
        ("t.csv.gz", b"no gzip", "t.csv.gz cannot be read"),
        ("t.csv.gz", gzip.compress(b"id,title\n" + os.urandom(9000))[:-2000], "t.csv.gz cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_message(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(Files(tmp_path), name, ["id", "title"]))


def test_parquet(tmp_path: Path) -> None:
    table = [{"id": n, "title": f"t{n}", "tags": ["a"]} for n in range(3000)]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), stream)
    assert read(tmp_path, "t.parquet", stream.getvalue()) == (table, [])
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(tmp_path / "t.parquet", "down/t.parquet")
    with Files(tmp_path / "t.zip") as files:
        assert [record.values for record in read_rows(files, files.require("t.parquet"))] == table


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2),
        min_size=1,
    )
)
def test_what_csv_writes_is_read(tmp_path: Path, table: list[tuple[str, str]]) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([("id", "title"), *table])
    rows, faults = read(tmp_path, "t.csv", stream.getvalue().encode(), encoding="utf-8")
    assert [tuple(row.values()) for row in rows] == [row for row in table if any(row)] and not faults


def test_names_do_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.txt").write_text("a")
    (inside / "out.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "folder").symlink_to(tmp_path)
    with Files(inside) as files:
        assert files.read("a.txt") == b"a" and files.find_all("*.txt") == ["a.txt"]
        outside = [
            "../secret.txt",
            str(tmp_path / "secret.txt"),
            "out.txt",
            "folder/secret.txt",
            "loop",
            "a\0.txt",
            ".",
            "",
        ]
        for name in outside:
            assert not files.has(name)
            with pytest.raises(ValueError, match="no such file"):
                files.read(name)
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../secret.txt")
        archive.writestr("../up.txt", "up")
        archive.writestr("big", bytes(1000))
    with Files(tmp_path / "t.zip") as files:
        for name in ("link.txt", "../secret.txt", "nothing"):
            with pytest.raises(ValueError, match="no such file"):
                files.read(name)
        with pytest.raises(ValueError, match="big: more than 999 bytes"):
            files.read("big", 999)
    assert not (tmp_path.parent / "up.txt").exists()
