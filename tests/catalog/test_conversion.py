"""Conversion: what is left out and printed, and how a killed import resumes."""

import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from catalog import conversion, store
from catalog.__main__ import main
from catalog.conversion import Rejection, Row, convert
from catalog.files import Fault, Media
from catalog.sources import import_data


def read_rejected(data: Path) -> set[tuple[Any, ...]]:
    rows = pq.read_table(data / "rejected.parquet").to_pylist()
    return {(row["table"], row["where"], row["column"], row["reason"]) for row in rows}


def test_what_is_left_out_is_listed(tmp_path: Path, png: Callable[..., bytes]) -> None:
    def gone() -> bytes:
        raise ValueError("a.png: no such file")

    picture = Media("p.png", lambda: png(1))
    rows = [
        Row(
            "products",
            "1",
            {"product_id": "p1", "title": "A", "price": "free", "images": [picture], "odd": 1},
        ),
        Row("products", "2", {"product_id": "p1", "title": "B"}),
        Row("products", "3", {"product_id": "p3", "title": " "}),
        Row("products", "4", {"product_id": "p4", "title": "D", "images": [Media("a.png", gone)]}),
        Row("products", "5", {"product_id": "p5", "title": "E\udcff"}),
        Row("products", "6", {"product_id": 6, "title": 6.5, "attributes": {"a": 1, "b": None}}),
        Row("queries", "7", {"query_id": "q1", "text": "a", "split": "train"}),
        Row("queries", "8", {"query_id": "q2", "split": "train", "image": Media("a.png", gone)}),
        Row("queries", "9", {"query_id": "q3", "split": "train"}),
        Row("queries", "10", {"query_id": "q4", "text": "a", "split": "dev"}),
        Row("judgements", "11", {"query_id": "q1", "product_id": "p1", "grade": "3"}),
        Row("judgements", "12", {"query_id": "q1", "product_id": "p1", "grade": 2}),
        Row("judgements", "13", {"query_id": "q1", "product_id": "p3", "grade": 2}),
        Row("judgements", "14", {"query_id": "q1", "product_id": "p4", "grade": "7"}),
    ]
    counts = convert("own", rows, [Fault("0", "not JSON")], tmp_path / "data", {})
    assert counts == {"products": 3, "queries": 1, "judgements": 1, "rejected": 12}
    assert read_rejected(tmp_path / "data") == {
        (None, "0", None, "not JSON"),
        ("products", "1", "price", "'free' is not a price"),
        ("products", "2", None, "duplicate"),
        ("products", "3", None, "no title"),
        ("products", "4", "images", "a.png: no such file"),
        ("products", "5", None, "title: bytes that are invalid in the file's encoding; give --encoding"),
        ("queries", "8", None, "a.png: no such file"),
        ("queries", "9", None, "neither text nor picture"),
        ("queries", "10", None, "split: 'dev' is not one of train, valid, test"),
        ("judgements", "12", None, "duplicate"),
        ("judgements", "13", None, "product_id p3 is not in products"),
        ("judgements", "14", None, "grade: '7' is not one of 0, 1, 2, 3"),
    }
    products = {row["product_id"]: row for row in store.read_table(tmp_path / "data", "products").to_pylist()}
    assert (
        products["p1"]["images"] == [{"bytes": png(1), "path": "p.png"}] and products["p1"]["price"] is None
    )
    assert products["6"]["title"] == "6.5" and products["6"]["attributes"] == [("a", "1")]


def test_currencies_come_from_a_column_or_the_price(tmp_path: Path) -> None:
    cases: list[tuple[Any, Any, str | None, str | None]] = [
        ("€ 12", None, "EUR", None),
        ("€ 12", " ", "EUR", None),
        ("12", "usd", "USD", None),
        (12.0, None, None, None),
        ("$12", "€", "EUR", None),
        ("$12", None, None, "'$' can be several currencies; give USD or another code"),
        ("€ 12", "USD", None, "'USD', but the price is in EUR"),
        ("12", "points", None, "'points' is not a currency; give its ISO 4217 code"),
    ]
    rows = [
        Row("products", str(n), {"product_id": n, "title": "t", "price": price, "currency": currency})
        for n, (price, currency, *_) in enumerate(cases)
    ]
    convert("own", rows, [], tmp_path / "data", {})
    products = store.read_table(tmp_path / "data", "products").to_pylist()
    assert [row["currency"] for row in products] == [code for _, _, code, _ in cases]
    assert {row["price"] for row in products} == {12.0}
    assert read_rejected(tmp_path / "data") == {
        ("products", str(n), "currency", reason) for n, (*_, reason) in enumerate(cases) if reason
    }


def test_prices_are_read_in_the_currency_of_the_row(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], tuple[float | None, float | None, str | None]]] = [
        ({"price": "1.299", "currency": "EUR"}, (1299, None, "EUR")),
        ({"price": "1.299", "currency": "KWD"}, (1.299, None, "KWD")),
        ({"price": "1.299"}, (None, None, None)),
        ({"price": "€12 – €15"}, (12, 15, "EUR")),
        ({"price": 12, "max_price": "15"}, (12, 15, None)),
        ({"price": 12, "max_price": 12}, (12, None, None)),
        ({"price": float("inf")}, (None, None, None)),
        ({"price": -1}, (None, None, None)),
        ({"price": float("nan"), "max_price": float("nan")}, (None, None, None)),
    ]
    rows = [
        Row("products", str(n), {"product_id": n, "title": "t", **case}) for n, (case, _) in enumerate(cases)
    ]
    convert("own", rows, [], tmp_path / "data", {})
    products = store.read_table(tmp_path / "data", "products").to_pylist()
    assert [(row["price"], row["max_price"], row["currency"]) for row in products] == [
        right for _, right in cases
    ]
    assert {(where, column) for _, where, column, _ in read_rejected(tmp_path / "data")} == {
        ("2", "price"), ("6", "price"), ("7", "price")
    }  # fmt: skip


def test_categories_are_paths(tmp_path: Path) -> None:
    cases: list[tuple[Any, str | None]] = [
        ("Home > Kitchen &amp; Dining > Mugs", "Home/Kitchen & Dining/Mugs"),
        (["Home", "A|B", "C/D", "<b>E</b>"], "Home/A|B/C-D/E"),
        ("clothing/shirt", "clothing/shirt"),
        (" > ", None),
    ]
    rows = [
        Row("products", "1", {"product_id": n, "title": "t", "category": case})
        for n, (case, _) in enumerate(cases)
    ]
    convert("own", rows, [], tmp_path / "data", {})
    products = store.read_table(tmp_path / "data", "products").to_pylist()
    assert [row["category"] for row in products] == [path for _, path in cases]


def test_what_a_source_leaves_out_is_listed(tmp_path: Path) -> None:
    product = Row("products", "1", {"product_id": 1, "title": "t"})
    rows = [product, Rejection("products", "2", "p2", None, "a draft")]
    assert convert("own", rows, [], tmp_path / "data", {})["rejected"] == 1
    assert read_rejected(tmp_path / "data") == {("products", "2", None, "a draft")}


@pytest.mark.parametrize(
    ("value", "frequency"),
    [
        (12, 12),
        ("12", 12),
        (12.0, 12),
        ("12.0", 12),
        (0, 0),
        (None, None),
        ("", None),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_frequency_is_a_whole_number(value: Any, frequency: int | None, tmp_path: Path) -> None:
    row = {"query_id": "q", "text": "t", "split": "test", "frequency": value}
    convert("own", [Row("queries", "1", row)], [], tmp_path / "data", {})
    assert store.read_table(tmp_path / "data", "queries", ["frequency"]).to_pylist() == [
        {"frequency": frequency}
    ]
    assert not (tmp_path / "data" / "rejected.parquet").exists()


@pytest.mark.parametrize("value", [-1, 1.5, "1,299", "often", True, float("inf"), 2**63])
def test_what_is_no_frequency(value: Any, tmp_path: Path) -> None:
    row = {"query_id": "q", "text": "t", "split": "test", "frequency": value}
    convert("own", [Row("queries", "1", row)], [], tmp_path / "data", {})
    assert store.read_table(tmp_path / "data", "queries", ["frequency"]).to_pylist() == [{"frequency": None}]
    assert read_rejected(tmp_path / "data") == {
        ("queries", "1", "frequency", f"'{value}' is not a whole number of 0 or more")
    }


@pytest.mark.parametrize("stop", [1, 7, 13, 24])
def test_a_killed_import_goes_on(
    stop: int,
    tmp_path: Path,
    png: Callable[..., bytes],
    draw_clip: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = {"a.gif": draw_clip("GIF"), "b.mp4": draw_clip("MP4", 20), "c.webm": b"broken"}
    monkeypatch.setattr(conversion, "CHUNK_ROWS", 5)
    monkeypatch.setattr(conversion, "WINDOW_ROWS", 2)
    read: list[int] = []

    def rows(dies_at: int | None) -> list[Row]:
        def picture(n: int) -> bytes:
            if n == dies_at:
                raise KeyboardInterrupt
            read.append(n)
            return b"broken" if n % 10 == 3 else png(n)

        def product(n: int) -> dict[str, Any]:
            name = sorted(clips)[n % 3]
            return {
                "product_id": str(n),
                "title": "t",
                "images": [Media("p", lambda: picture(n))],
                "video": Media(name, lambda: clips[name]) if n % 2 else None,
            }

        duplicate = Row("products", "duplicate", {"product_id": "1", "title": "t"})
        return [*(Row("products", str(n), product(n)) for n in range(23)), duplicate, duplicate]

    convert("own", rows(None), [], tmp_path / "whole", {"a": 1})
    if stop < 23:
        with pytest.raises(KeyboardInterrupt):
            convert("own", rows(stop), [], tmp_path / "data", {"a": 1})
        assert not (tmp_path / "data").exists()
    read.clear()
    convert("own", rows(None), [], tmp_path / "data", {"a": 1})
    assert min(read) == (stop // 5 * 5 if stop < 23 else 0)
    assert store.fingerprint(tmp_path / "data") == store.fingerprint(tmp_path / "whole")
    videos = store.read_table(tmp_path / "data", "products", ["video"]).to_pydict()["video"]
    assert [len(video or ()) for video in videos] == [0, 16, 0, 6, 0, 0] * 3 + [0, 16, 0, 6, 0]


def test_another_source_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "CHUNK_ROWS", 1)

    def dies() -> Any:
        yield Row("products", "1", {"product_id": "old", "title": "t"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert("own", dies(), [], tmp_path / "data", {"a": 1})
    convert(
        "own", [Row("products", "1", {"product_id": "new", "title": "t"})], [], tmp_path / "data", {"a": 2}
    )
    assert store.read_table(tmp_path / "data", "products").column("product_id").to_pylist() == ["new"]


class TestTableOfYourOwn:
    def test_as_excel_writes_it(
        self, tmp_path: Path, png: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = "SKU;Name;Preis;Farbe;image\r\nA1;Stuhl „Köln“;1.299,00 €;rot;photos/a.png\r\nA2;Tisch;9;;x.png\r\n"
        (tmp_path / "products.csv").write_bytes(content.encode("cp1252"))
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.writestr("photos/a.png", png(1))
        words = [
            "--map",
            "product_id=SKU",
            "--map",
            "title=Name",
            "--map",
            "price=Preis",
            "--map",
            "color=Farbe",
        ]
        out = tmp_path / "data"
        assert (
            main(
                [
                    "import",
                    "table",
                    str(tmp_path / "products.csv"),
                    "--out",
                    str(out),
                    *words,
                    "--pictures",
                    str(tmp_path / "p.zip"),
                ]
            )
            == 0
        )
        first, second = store.read_table(out, "products").to_pylist()
        assert (first["product_id"], first["title"], first["price"], first["color"], first["currency"]) == (
            "A1",
            "Stuhl „Köln“",
            1299.0,
            "rot",
            "EUR",
        )
        assert first["images"] == [{"bytes": png(1), "path": "a.png"}] and second["images"] is None
        assert read_rejected(out) == {("products", "products.csv line 3", "images", "x.png: no such file")}
        assert "table: 2 products, 0 queries, 0 judgements" in capsys.readouterr().err

    def test_with_queries_and_judgements(self, tmp_path: Path, png: Callable[..., bytes]) -> None:
        (tmp_path / "products.jsonl").write_text(
            '{"product_id": 1, "title": "a", "size": "XL"}\n{"product_id": 2, "title": "b"}\n'
        )
        (tmp_path / "1.png").write_bytes(png(1))
        queries = "query_id,search,split,frequency\n" + "".join(
            f"q{n},words {n},{'test' if n == 9 else ''},{n or ''}\n" for n in range(10)
        )
        (tmp_path / "queries.csv").write_text(queries)
        (tmp_path / "judgements.csv").write_text("query_id,product_id,grade\nq1,1,3\nq1,2,0\nq1,3,3\n")
        counts = import_data(
            "table",
            tmp_path / "products.jsonl",
            tmp_path / "data",
            map=["queries.text=search"],
            queries=tmp_path / "queries.csv",
            judgements=tmp_path / "judgements.csv",
        )
        assert counts == {"products": 2, "queries": 10, "judgements": 2, "rejected": 1}
        first = store.read_table(tmp_path / "data", "products").to_pylist()[0]
        assert first["images"][0]["path"] == "1.png" and first["attributes"] == [("size", "XL")]
        splits = store.read_table(tmp_path / "data", "queries").to_pylist()
        assert {row["split"] for row in splits} == {"train", "valid", "test"} and splits[9]["split"] == "test"
        assert [row["frequency"] for row in splits] == [None, *range(1, 10)]

    def test_queries_of_a_cluster_or_with_one_text_are_in_one_split(self, tmp_path: Path) -> None:
        (tmp_path / "products.csv").write_text("product_id,title\n1,a\n")
        rows = [
            (n, f"text {n // 2 * 2 if n % 4 == 1 else n}", f"c{n // 3}" if n < 60 else "") for n in range(90)
        ]
        lines = ["query_id,text,cluster", *(f"q{n},{text},{cluster}" for n, text, cluster in rows)]
        (tmp_path / "queries.csv").write_text("\n".join(lines))
        out = tmp_path / "data"
        import_data("table", tmp_path / "products.csv", out, queries=tmp_path / "queries.csv")
        queries = store.read_table(out, "queries").to_pylist()
        assert [row["cluster"] for row in queries] == [cluster or None for _, _, cluster in rows]
        for name in ("text", "cluster"):
            splits: dict[str | None, set[str]] = defaultdict(set)
            for row in queries:
                splits[row[name]].add(row["split"])
            splits.pop(None, None)
            assert len(splits) >= 20 and all(len(names) == 1 for names in splits.values())
        assert {row["split"] for row in queries} == {"train", "valid", "test"}

    def test_a_row_of_json_may_lack_what_is_optional(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text(
            '{"id": 1, "name": "a", "cost": 2}\n{"id": 2, "name": "b"}\n{"id": 3}\n'
        )
        mapping = ["product_id=id", "title=name", "price=cost"]
        import_data("table", tmp_path / "p.jsonl", tmp_path / "data", map=mapping)
        assert [row["price"] for row in store.read_table(tmp_path / "data", "products").to_pylist()] == [
            2.0,
            None,
        ]
        assert read_rejected(tmp_path / "data") == {("products", "p.jsonl line 3", None, "no title")}

    def test_clips_in_a_column_or_by_id(self, tmp_path: Path, draw_clip: Callable[..., bytes]) -> None:
        (tmp_path / "clips").mkdir()
        for name, clip in {
            "turn.gif": draw_clip("GIF", 3),
            "a2.mp4": draw_clip("MP4", 20),
            "still.gif": draw_clip("GIF", 1),
            "a4.webm": draw_clip("WebM", 4)[:200],
        }.items():
            (tmp_path / "clips" / name).write_bytes(clip)
        rows = ["a1,One,turn.gif", "a2,Two,", "a3,Three,still.gif", "a4,Four,", "a5,Five,gone.mp4", "a6,Six,"]
        (tmp_path / "products.csv").write_text("\n".join(["product_id,title,clip", *rows]))
        import_data(
            "table",
            tmp_path / "products.csv",
            tmp_path / "data",
            map=["video=clip"],
            pictures=tmp_path / "clips",
        )
        videos = {
            row["product_id"]: [frame["path"] for frame in row["video"] or ()]
            for row in store.read_table(tmp_path / "data", "products").to_pylist()
        }
        assert videos == {
            "a1": ["turn-0.webp", "turn-1.webp", "turn-2.webp"],
            "a2": [f"a2-{number}.webp" for number in range(16)],
            **{key: [] for key in ("a3", "a4", "a5", "a6")},
        }
        reasons = {where: (column, reason) for _, where, column, reason in read_rejected(tmp_path / "data")}
        assert reasons["products.csv line 4"] == ("video", "too few frames (1); a clip has 2 or more")
        assert reasons["products.csv line 5"][0] == "video"
        assert reasons["products.csv line 6"] == ("video", "gone.mp4: no such file")
        assert len(reasons) == 3

    def test_a_clip_that_is_no_path(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text(
            '{"product_id": 1, "title": "a", "video": [1], "image": {"bytes": ""}}\n'
        )
        import_data("table", tmp_path / "p.jsonl", tmp_path / "data")
        assert read_rejected(tmp_path / "data") == {
            ("products", "p.jsonl line 1", "video", "a int, not the path or address of a clip"),
            ("products", "p.jsonl line 1", "images", "a dict, not a picture"),
        }

    def test_without_pyav_is_one_message_and_goes_on_once_it_is_there(
        self,
        tmp_path: Path,
        draw_clip: Callable[..., bytes],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "products.csv").write_text("product_id,title\n1,a\n")
        (tmp_path / "1.mp4").write_bytes(draw_clip("MP4"))
        words = ["import", "table", str(tmp_path / "products.csv"), "--out", str(tmp_path / "data")]
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "av", None)
            assert main(words) == 1
        (message,) = capsys.readouterr().err.splitlines()
        assert message.endswith("pip install 'vitrine[video]', then run the same command again")
        assert not (tmp_path / "data").exists()
        assert main(words) == 0
        assert len(store.read_table(tmp_path / "data", "products").to_pylist()[0]["video"]) == 6

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--map", "name=Name"], "--map name=Name: not COLUMN=NAME with one of our columns"),
            (["--map", "title"], "--map title: not COLUMN=NAME"),
            (["--map", "title=Nmae"], "products.csv: no column Nmae; it has product_id, Name"),
            (["--pictures", "nowhere"], "nowhere: no such file or folder"),
        ],
    )
    def test_what_is_wrong_is_one_message(
        self, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "products.csv").write_text("product_id,Name\n1,a\n")
        assert (
            main(["import", "table", str(tmp_path / "products.csv"), "--out", str(tmp_path / "data"), *words])
            == 1
        )
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["products.csv"]


def test_texts_are_cleaned_and_identifiers_are_not(tmp_path: Path) -> None:
    values = {
        "product_id": "a&amp;b",
        "title": "<b>Red</b>\u200b mug",
        "description": "<p>For tea.</p><p>ＵＳＢ</p>",
        "attributes": {"set&nbsp;of": "<i>4</i>"},
    }
    invisible = {"product_id": "2", "title": "\x00\u200b"}
    rows = [Row("products", str(number), row) for number, row in enumerate((values, invisible))]
    convert("own", rows, [], tmp_path / "data", {})
    (product,) = store.read_table(tmp_path / "data", "products").to_pylist()
    assert (product["product_id"], product["title"]) == ("a&amp;b", "Red mug")
    assert (product["description"], product["attributes"]) == ("For tea. USB", [("set of", "4")])
    (rejected,) = pq.read_table(tmp_path / "data" / "rejected.parquet").to_pylist()
    assert (rejected["id"], rejected["reason"]) == ("2", "no title")
