"""What stands before the header of a table, its delimiter, damaged rows, and JSON of several shapes."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.files import Fault, Files
from catalog.reading import read_rows
from catalog.reading.delimited import read_delimited
from catalog.reading.layout import detect_layout
from catalog.reading.records import Header, Record
from catalog.schema import DataError


def read(content: str, name: str = "t.csv", **style: Any) -> tuple[list[list[Any]], list[str]]:
    """Values of the rows, and the reasons of the faults with their lines."""
    items = [*read_delimited(io.StringIO(content, newline=""), name, **style)]
    rows = [list(item.values.values()) for item in items if isinstance(item, Record)]
    return rows, [f"{item.where}: {item.reason}" for item in items if isinstance(item, Fault)]


def read_file(folder: Path, name: str, content: str) -> tuple[list[dict[str, Any]], list[str]]:
    (folder / name).write_text(content)
    files = Files(folder)
    rows = [record.values for record in read_rows(files, name)]
    return rows, [f"{fault.where}: {fault.reason}" for fault in files.faults]


@pytest.mark.parametrize(
    "head",
    [
        "",
        "\n\n",
        "sep=;\n",
        '"sep=;"\r\n',
        "# export of our shop, 2026\n# two lines\n",
        ";;\n",
        "Products of our shop\n\n",
        "sep=;\n\n# comment\n",
    ],
)
def test_lines_before_the_header_are_skipped(head: str) -> None:
    rows, faults = read(head + "id;title;price\n1;Mug, blue;12,50\n2;Cup;9,99\n")
    assert rows == [["1", "Mug, blue", "12,50"], ["2", "Cup", "9,99"]] and not faults


def test_a_header_may_begin_with_a_hash() -> None:
    header, *_ = read_delimited(io.StringIO("#id,title\n1,Mug\n"), "t.csv")
    assert header == Header(["id", "title"])


@pytest.mark.parametrize("delimiter", ",;\t|")
def test_the_delimiter_is_that_of_the_columns(delimiter: str) -> None:
    others = [choice for choice in ",;\t|" if choice != delimiter]
    names = [f'"title{other} short"' for other in others]
    values = [f'"a{other}b{other}c"' for other in others]
    lines = [delimiter.join(["id", *names]), *(delimiter.join([str(n), *values]) for n in range(3))]
    assert detect_layout(lines) == (0, delimiter)


def test_a_delimiter_at_the_end_is_no_column() -> None:
    for header in ("id;title;price", "id;title;price;", "id;title;price;;"):
        rows, faults = read(f"{header}\n1;Mug;12,50;\n2;Cup;9,99\n3;Bowl;1;;;\n")
        assert rows == [["1", "Mug", "12,50"], ["2", "Cup", "9,99"], ["3", "Bowl", "1"]] and not faults


def test_columns_without_a_name_or_with_the_same_name_are_kept() -> None:
    (header, row) = read_delimited(io.StringIO(",id,size,size\n0,1,S,M\n"), "t.csv")
    assert header == Header(["column 1", "id", "size", "size"])
    assert isinstance(row, Record) and row.values == {"column 1": "0", "id": "1", "size": "S", "size 2": "M"}


def test_a_table_without_a_header() -> None:
    assert read("1,Mug\n2,Cup\n", header=["id", "title"]) == ([["1", "Mug"], ["2", "Cup"]], [])


@pytest.mark.parametrize(
    "damaged",
    [
        '2,Cup,"not closed',
        '2,Cup,"closed" early',
        '2,"Cup"s,fine',
        '2,Cup,"12" wide"',
    ],
)
@pytest.mark.parametrize("following", ["3,Bowl,fine", '3,Bowl,"fine, good"', '"3","Bowl","two\r\nlines"'])
@pytest.mark.parametrize("end", ["", "4,Dish,x\r\n", '4,"Dish ""XL""",x\r\n'])
def test_a_stray_quote_costs_its_own_row(damaged: str, following: str, end: str) -> None:
    rows, faults = read(f'id,title,text\r\n1,Mug,"line 1\r\nline 2"\r\n{damaged}\r\n{following}\r\n{end}')
    assert [row[0] for row in rows] == ["1", "3", "4"][: 3 if end else 2]
    assert rows[0][2] == "line 1\r\nline 2"
    (fault,) = faults
    assert fault.startswith("t.csv line 4: a stray quote, probably in column t")


@settings(deadline=None)
@given(
    st.lists(st.lists(st.text('ab",\n ', max_size=5), min_size=3, max_size=3), min_size=1, max_size=8),
    st.integers(0, 7),
)
def test_rows_before_a_stray_quote_are_read(table: list[list[str]], at: int) -> None:
    """And rows after it, unless quotes that follow make another reading of it possible."""
    lines = [",".join('"' + value.replace('"', '""') + '"' for value in ["x", *row]) for row in table]
    at = min(at, len(lines))
    content = "\n".join(["id,a,b,c", *lines[:at], 'x,y,z,"stray', *lines[at:]]) + "\n"
    rows, faults = read(content)
    assert rows[:at] == [["x", *row] for row in table[:at]] and faults
    assert rows[at:] == [["x", *row] for row in table[at:]]


def test_quotes_after_a_backslash() -> None:
    content = 'id,title,text\n1,"Pipe 1\\" steel",a\n2,"Bolt ""M5""",b\n3,"5\\", 10\\" pipe",c\n4,"C:\\",d\n'
    rows, faults = read(content)
    assert [row[1] for row in rows] == ['Pipe 1" steel', 'Bolt "M5"', '5", 10" pipe', "C:\\"] and not faults


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("1,Mug,https://a.test/p.jpg?crop=1,2,x0,5", "image"),
        ("1,Mug, blue and white,https://a.test/p.jpg,5", "title"),
        ("1,Mug,p.jpg,12,50", "price"),
    ],
)
def test_the_column_with_a_delimiter_is_named(line: str, column: str) -> None:
    rows, faults = read(f"id,title,image,price\n{line}\n2,Cup,q.jpg,3\n")
    assert [row[0] for row in rows] == ["2"]
    count = line.count(",") + 1
    assert faults == [
        f"t.csv line 2: {count} values, but the header has 4; column {column} seems to contain ',': put it in quotes"
    ]


ROWS = [{"id": 1, "title": "Mug"}, {"id": 2, "title": "Cup"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: rows,
        lambda rows: {"products": rows},
        lambda rows: {"count": 2, "items": rows, "facets": [{"name": "brand"}]},
        lambda rows: {"data": {"products": rows, "page": 1}},
    ],
)
@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.txt"])
def test_documents_with_a_list_of_rows(wrap: Any, indent: int | None, name: str, tmp_path: Path) -> None:
    assert read_file(tmp_path, name, json.dumps(wrap(ROWS), indent=indent)) == (ROWS, [])


def test_a_document_can_be_a_row(tmp_path: Path) -> None:
    row = {"id": 1, "title": "Mug", "variants": [{"size": "S"}, {"size": "M"}]}
    for content in (json.dumps(row), json.dumps(row, indent=2), json.dumps(row) + "\n"):
        assert read_file(tmp_path, "t.json", content) == ([row], [])
    assert read_file(tmp_path, "t.json", "\n".join([json.dumps(row, indent=2)] * 2)) == ([row, row], [])
    assert read_file(tmp_path, "t.json", json.dumps([1, row])) == (
        [row],
        ["t.json item 1: not a JSON object"],
    )


def test_several_lists_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"t.json: several lists, mugs, cups; write the one of the rows to a file"
    ):
        read_file(tmp_path, "t.json", json.dumps({"mugs": ROWS, "cups": ROWS}, indent=1))


def test_content_decides_what_a_file_is(tmp_path: Path) -> None:
    assert read_file(tmp_path, "t.txt", "id\ttitle\n1\tMug\n")[0] == [{"id": "1", "title": "Mug"}]
    assert read_file(tmp_path, "t.tsv", "id,title\n1,Mug\n")[0] == [{"id": "1", "title": "Mug"}]
    assert read_file(tmp_path, "t.csv", '{"id": 1}\n{"id": 2}\n')[0] == [{"id": 1}, {"id": 2}]
    assert read_file(tmp_path, "t.csv", "[id],[title]\n1,Mug\n")[0] == [{"[id]": "1", "[title]": "Mug"}]
    with pytest.raises(
        DataError, match=r"t.csv is an archive or an Excel workbook, not text; export it as CSV"
    ):
        read_file(tmp_path, "t.csv", "PK\x03\x04 and so on")


def test_json_lines_in_another_encoding(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"id": n, "title": title}, ensure_ascii=False) + "\n"
        for n, title in enumerate(["Красное платье", "Белая кружка"])
    )
    (tmp_path / "t.jsonl").write_bytes(lines.encode("cp1251"))
    rows = [record.values["title"] for record in read_rows(Files(tmp_path), "t.jsonl")]
    assert rows == ["Красное платье", "Белая кружка"]
