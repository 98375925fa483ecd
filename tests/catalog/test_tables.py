"""Tables of shops whose columns have other names than ours: matching, mapping, previews, and cases that failed."""

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import store
from catalog.__main__ import main
from catalog.columns import SYNONYMS, match_columns, simplify_name
from catalog.conversion import split_reason
from catalog.schema import TABLES, DataError
from catalog.sources import import_data
from catalog.tables import COLUMNS


def import_table(folder: Path, name: str, content: str | bytes, **options: Any) -> list[dict[str, Any]]:
    """Import a table of products; returns them without nulls."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return import_file(folder / name, folder / "data", **options)


def import_file(source: Path, data: Path, **options: Any) -> list[dict[str, Any]]:
    import_data("table", source, data, **options)
    rows = store.read_table(data, "products").to_pylist()
    return [{column: value for column, value in row.items() if value is not None} for row in rows]


def read_reasons(data: Path) -> list[tuple[str | None, str]]:
    path = data / "rejected.parquet"
    return (
        [(row["column"], row["reason"]) for row in pq.read_table(path).to_pylist()] if path.exists() else []
    )


@pytest.mark.parametrize(
    "header",
    [
        "product_id,title,price,brand",
        "Product_ID,Title,Price,Brand",
        " product id , TITLE ,price, Brand ",
        "Product-Id,title,PRICE,brand",
        "SKU,Name,Price,Manufacturer",
        "id,product_name,sale_price,brand",
        "item id,Item Name,Current Price,brand name",
        "Artikelnummer,Bezeichnung,Preis,Marke",
        "商品编号,商品名称,价格,品牌",
    ],
)
def test_columns_are_matched_whatever_their_case_and_name(header: str, tmp_path: Path) -> None:
    products = import_table(tmp_path, "p.csv", f"{header}\n1,Mug,12,Acme\n")
    assert products == [{"product_id": "1", "title": "Mug", "price": 12.0, "brand": "Acme"}]


@given(
    st.sampled_from(
        [(t, c, n) for t, cs in SYNONYMS.items() for c, ls in cs.items() for n in " ".join(ls).split()]
    )
)
def test_each_synonym_is_of_one_column(synonym: tuple[str, str, str]) -> None:
    table, ours, name = synonym
    matches = match_columns("t.csv", table, [name.upper().replace("_", " ")], COLUMNS[table], {})
    assert list(matches) == [ours] or simplify_name(name) in {
        simplify_name(column) for column in COLUMNS[table]
    }


def test_exact_names_win_and_earlier_lines_of_synonyms() -> None:
    header = [
        "Title",
        "name",
        "title",
        "id",
        "image_link",
        "image",
        "google_product_category",
        "product_type",
    ]
    assert match_columns("t.csv", "products", header, COLUMNS["products"], {}) == {
        "title": "title",
        "product_id": "id",
        "images": "image",
        "category": "product_type",
    }


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            ["id", "sku", "title"],
            "t.csv: 'id' and 'sku' could be product_id; choose one: --map product_id=id or --map",
        ),
        (
            ["a", "b"],
            "t.csv: no column for product_id and title; the header is a, b; name it: --map product_id=NAME",
        ),
    ],
)
def test_what_is_not_clear_is_one_message(header: list[str], message: str) -> None:
    with pytest.raises(DataError) as error:
        match_columns("t.csv", "products", header, COLUMNS["products"], {}, ["product_id", "title"])
    assert str(error.value).startswith(message)
    assert (
        len(
            match_columns(
                "t.csv", "products", ["id", "sku", "title"], COLUMNS["products"], {"product_id": "SKU"}
            )
        )
        == 2
    )


def test_a_dry_run_shows_the_columns_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "p.csv"
    table.write_text(
        "Art Nr;Name;Preis;Größe;Bild\n" + "".join(f"{n};Mug {n};{n},50 €;XL;{n}.jpg\n" for n in range(5))
    )
    words = ["import", "table", str(table), "--dry-run", "--map", "product_id=art nr"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "p.csv: Art Nr, Name, Preis, Größe, Bild" in output
    assert "  product_id   = Art Nr\n" in output and "  attributes   = Größe\n" in output
    assert "  title        : Mug 2\n" in output and "Mug 3" not in output
    assert "  price        : 1.5\n" in output and "  images       : 0.jpg\n" in output
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv"}
    options = shlex.split(output.splitlines()[-1].removeprefix("options: "))
    assert main(["import", "table", str(table), "--out", str(tmp_path / "data"), *options]) == 0
    assert store.read_table(tmp_path / "data", "products").column("title").to_pylist()[0] == "Mug 0"
    assert main(["import", "table", str(table)]) == 1
    assert "give --out DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a,b\n1,2\n",
            "no column for product_id and title; the header is a, b; name it: --map product_id=NAME",
        ),
        ("product_id,title\n", "no rows that can be read; the header is product_id, title"),
        ("product_id,title\n1\n2\n", "p.csv line 2: 1 values, but the header has 2"),
        ("", "no rows that can be read"),
        (
            "product_id,title\n,a\n,b\n",
            "2 × products, row: no product_id (first p.csv line 2); the header is product_id",
        ),
        ("{\n", "no rows that can be read"),
    ],
)
def test_no_usable_row_is_an_error_and_leaves_nothing(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text(content)
    assert main(["import", "table", str(tmp_path / "p.csv"), "--out", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and error.startswith("vitrine: ")
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv"}


def test_a_table_without_a_header(tmp_path: Path) -> None:
    assert import_table(tmp_path, "p.csv", "1,Mug\n2,Cup\n", header="product_id, title")[1] == {
        "product_id": "2",
        "title": "Cup",
    }


def test_nested_values_and_lists_are_kept(tmp_path: Path) -> None:
    row = {
        "id": 1,
        "title": "Mug",
        "price": {"value": 12, "currency": "EUR"},
        "brand": {"name": "Acme"},
        "category": ["Home", "Kitchen"],
        "tags": ["a", 5, True, None],
        "specs": {"size": {"w": 5, "h": 7}, "new": False},
        "variants": [{"sku": "x"}, {"sku": "y"}],
        "options": [{"name": "Glaze", "value": "blue"}],
        "attributes": {"material": ["clay", "glass"], "n": 5},
    }
    (product,) = import_table(tmp_path, "p.json", json.dumps([row]))
    attributes = dict(product.pop("attributes"))
    assert product == {
        "product_id": "1",
        "title": "Mug",
        "price": 12.0,
        "currency": "EUR",
        "brand": "Acme",
        "category": "Home/Kitchen",
    }
    assert attributes == {
        "material": "clay; glass",
        "n": "5",
        "tags": "a; 5; true",
        "specs.size.w": "5",
        "specs.size.h": "7",
        "specs.new": "false",
        "variants.1.sku": "x",
        "variants.2.sku": "y",
        "options.Glaze": "blue",
    }


def test_judgements_name_queries_by_their_text(tmp_path: Path) -> None:
    """As Quepid writes ratings; the ids depend on the text only."""
    (tmp_path / "products.csv").write_text("id,title\np1,Mug\np2,Cup\n")
    (tmp_path / "ratings.csv").write_text(
        "query,docid,rating\n"
        + "".join(f"mug {n // 2},p{n % 2 + 1},{n % 4}\n" for n in range(8))
        + "Mug 0,p1,3\n"
    )
    counts = import_data(
        "table", tmp_path / "products.csv", tmp_path / "data", judgements=tmp_path / "ratings.csv"
    )
    assert counts == {"products": 2, "queries": 4, "judgements": 8, "rejected": 1}
    queries = {row["text"]: row for row in store.read_table(tmp_path / "data", "queries").to_pylist()}
    assert {row["split"] for row in queries.values()} == {"train", "valid", "test"}
    ids = {row["query_id"] for row in store.read_table(tmp_path / "data", "judgements").to_pylist()}
    assert ids == {row["query_id"] for row in queries.values()}
    (tmp_path / "queries.csv").write_text("qid,search term,split\n7,MUG 1,test\n")
    import_data(
        "table",
        tmp_path / "products.csv",
        tmp_path / "more",
        queries=tmp_path / "queries.csv",
        judgements=tmp_path / "ratings.csv",
        map=["judgements.query=query"],
    )
    ids_by_text = {
        row["text"]: row["query_id"] for row in store.read_table(tmp_path / "more", "queries").to_pylist()
    }
    assert ids_by_text == {text: row["query_id"] for text, row in queries.items() if text != "mug 1"} | {
        "MUG 1": "7"
    }


@pytest.mark.parametrize(
    ("reason", "parts"),
    [
        (
            "https://a.test:81/x y.jpg?v=1: the server answered 404",
            ("a.test:81: the server answered 404", "https://a.test:81/x y.jpg?v=1"),
        ),
        (
            "picture 2: HTTP://a.test/x: cannot be downloaded (E)",
            ("a.test: cannot be downloaded (E)", "HTTP://a.test/x"),
        ),
        ("'free' is not a price", ("'…' is not a price", "free")),
        ("photos/a 1.png: no such file", ("no such file", "photos/a 1.png")),
        ("1,234 characters; the limit is 9", ("N characters; the limit is N", "")),
    ],
)
def test_rejections_are_grouped_by_reason_and_server(reason: str, parts: tuple[str, str]) -> None:
    assert split_reason(reason) == parts


def test_the_summary_names_columns_and_shows_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(
        f"{n},Mug,{price}\n" for n, price in enumerate(["free", "ask", "free", "call us", "later", 5])
    )
    import_table(tmp_path, "p.csv", f"product_id,title,price\n{rows}")
    assert (
        "  5 × products, price: '…' is not a price (first p.csv line 2: free, ask, call us)"
        in capsys.readouterr().err
    )


OUTCOMES: dict[str, list[dict[str, Any]]] = {
    "enc/gbk.csv": [
        {"product_id": "00123", "title": "红色连衣裙 夏季 新款", "category": "衣服/裙子"},
        {"product_id": "00124", "title": "蓝色运动鞋 男", "category": "鞋/运动鞋"},
        {"product_id": "00125", "title": "不锈钢保温杯 500ml", "category": "厨房/杯子"},
    ],
    "enc/cp1251.csv": [
        {"product_id": "00123", "title": "Красное платье летнее", "category": "Одежда/Платья"},
        {"product_id": "00124", "title": "Синие кроссовки", "category": "Обувь/Кроссовки"},
    ],
    "enc/tis620.csv": [{"product_id": "00123", "title": "ชุดเดรสสีแดง", "category": "เสื้อผ้า/ชุด"}],
    "enc/sjis.csv": [
        {"product_id": "00123", "title": "赤いワンピース 夏", "category": "服/ワンピース"},
        {"product_id": "00124", "title": "青いスニーカー メンズ", "category": "靴/スニーカー"},
    ],
    "odd/array.json": [{"product_id": "1", "title": "a mug"}, {"product_id": "2", "title": "a cup"}],
    "odd/backslash.csv": [
        {"product_id": "1", "title": 'Pipe 1" steel'},
        {"product_id": "2", "title": 'Bolt 5 "mm"'},
    ],
    "odd/blankfirst.csv": [{"product_id": "1", "title": "Mug"}],
    "odd/caps.csv": [{"product_id": "1", "title": "Mug", "price": 12.0, "brand": "Acme"}],
    "odd/sep.csv": [{"product_id": "1", "title": "Mug"}],
    "odd/spaces.csv": [{"product_id": "1", "title": "Mug", "price": 12.0}],
    "odd/tab.txt": [{"product_id": "1", "title": "Mug"}],
    "odd/trailing.csv": [
        {"product_id": "1", "title": "Mug", "price": 12.5},
        {"product_id": "2", "title": "Cup", "price": 9.99},
    ],
}


@pytest.mark.real
class TestCases:
    """Files that failed; `shared/cases/README.md` says how."""

    @pytest.mark.parametrize("name", OUTCOMES)
    def test_the_right_outcome(self, name: str, cases: Path, tmp_path: Path) -> None:
        assert import_file(cases / name, tmp_path / "data") == OUTCOMES[name]
        assert read_reasons(tmp_path / "data") == []

    def test_a_header_with_delimiters_in_its_names(self, cases: Path, tmp_path: Path) -> None:
        source = cases / "odd" / "commaheader.csv"
        with pytest.raises(DataError, match=r"the header is product_id, 'title, short', .*--map title=NAME"):
            import_file(source, tmp_path / "data")
        (product,) = import_file(source, tmp_path / "data", map=["title=title, short"])
        assert (product["product_id"], product["title"]) == ("1", "Mug")

    def test_a_quote_that_is_not_closed(self, cases: Path, tmp_path: Path) -> None:
        products = import_file(cases / "odd" / "crlf_in_quotes.csv", tmp_path / "data")
        assert [product["product_id"] for product in products] == ["1", "3", "4"]
        ((_, reason),) = read_reasons(tmp_path / "data")
        assert reason.startswith("a stray quote, probably in column description")

    def test_names_of_files_are_no_mail(
        self, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("catalog.download.Downloader.get", lambda *_: b"")
        products = import_file(cases / "odd" / "url2x.csv", tmp_path / "data")
        assert [product["title"] for product in products] == ["Mug", "Cup"]

    def test_a_comma_in_an_address(
        self, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("catalog.download.Downloader.get", lambda *_: b"")
        products = import_file(cases / "odd" / "urlcomma.csv", tmp_path / "data")
        assert [product["product_id"] for product in products] == ["2"]
        assert any(
            "column image seems to contain ','" in reason for _, reason in read_reasons(tmp_path / "data")
        )

    def test_breadcrumbs_and_markup(self, cases: Path, tmp_path: Path) -> None:
        first, *_ = import_file(cases / "odd" / "crumb.csv", tmp_path / "data")
        assert first["category"] == "Home/Kitchen/Mugs" and "<" not in first["description"]

    def test_a_zero_byte_is_no_encoding(self, cases: Path, tmp_path: Path) -> None:
        products = import_file(cases / "odd" / "nul.csv", tmp_path / "data")
        assert [product["product_id"] for product in products] == ["1", "2"]

    def test_lists_and_nested_values(self, cases: Path, tmp_path: Path) -> None:
        products = {p["product_id"]: p for p in import_file(cases / "odd" / "odd.jsonl", tmp_path / "data")}
        assert dict(products["attr"]["attributes"]) == {"size": "XL", "tags": "a; b", "n": "5"}
        assert dict(products["bool"]["attributes"]) == {"rating": "4.5", "sizes": "S; M", "specs.w": "5"}
        assert products["bool"]["available"] is True
        assert products["list"]["category"] == "Home/Kitchen/Mugs"
        assert (products["dictprice"]["price"], products["dictprice"]["currency"]) == (12.0, "EUR")


def test_each_of_our_columns_is_known() -> None:
    assert set(SYNONYMS["products"]) <= set(TABLES["products"].names)
