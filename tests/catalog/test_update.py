"""Products that are added, replaced and removed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog import store, update
from catalog.__main__ import main
from catalog.queries import add_derived_queries
from catalog.schema import EXACT, IRRELEVANT, DataError
from catalog.splits import read_salt
from catalog.update import read_id_words, update_products
from components.params import ValidateParams
from components.validate import validate

Rows = list[dict[str, Any]]


def read(data: Path, table: str) -> Rows:
    return store.read_table(data, table).to_pylist()


def write(folder: Path, products: Rows, queries: Rows | None = None, judgements: Rows | None = None) -> Path:
    for name, rows in (("products", products), ("queries", queries or []), ("judgements", judgements or [])):
        with store.TableWriter(folder, name, rows_per_file=10, rows_per_group=5) as table:
            for row in rows:
                table.write(row)
    return folder


def product(number: int, **values: Any) -> dict[str, Any]:
    return {"product_id": f"p{number}", "title": f"thing {number} of oak and steel", **values}


def judge(query: str, *numbers: int, grade: int = EXACT) -> Rows:
    return [{"query_id": query, "product_id": f"p{number}", "grade": grade} for number in numbers]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """30 products in three files; two queries per split, of people."""
    splits = ("train", "train", "valid", "valid", "test", "test")
    queries = [
        {"query_id": f"q{number}", "text": f"text {number}", "split": split}
        for number, split in enumerate(splits)
    ]
    judgements = [row for number in range(6) for row in judge(f"q{number}", number, number + 10)]
    judgements += [row for number in range(6) for row in judge(f"q{number}", 20, grade=IRRELEVANT)]
    return write(tmp_path / "shop", [product(number) for number in range(30)], queries, judgements)


def test_products_are_added_replaced_and_removed(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = write(tmp_path / "new", [product(3, title="better"), product(30)])
    newer = write(
        tmp_path / "newer", [product(3, title="best")], [{"query_id": "x", "text": "x", "split": "test"}]
    )
    counts = update_products(shop, tmp_path / "out", [new, newer], {"p0", "p20"})
    assert counts == {"added": 1, "replaced": 1, "removed": 2, "judgements": 7, "queries": 0}
    titles = {row["product_id"]: row["title"] for row in read(tmp_path / "out", "products")}
    assert titles.keys() == {f"p{number}" for number in range(31)} - {"p0", "p20"}
    assert titles["p3"] == "best" and titles["p4"] == product(4)["title"]
    assert len(read(tmp_path / "out", "products")) == len(titles)
    assert {row["product_id"] for row in read(tmp_path / "out", "judgements")}.isdisjoint({"p0", "p20"})
    assert read(tmp_path / "out", "queries") == read(shop, "queries")
    errors = capsys.readouterr().err
    assert f"{newer}: its 1 queries are not read; only products are\n" in errors
    assert (
        "products: 1 added, 1 replaced, 2 removed\njudgements: dropped 7: 7 of removed products\n" in errors
    )


def test_files_in_which_nothing_changes_are_linked(shop: Path, tmp_path: Path) -> None:
    update_products(shop, tmp_path / "out", removed={"p15"})
    linked = [
        (shop / "products" / f"0000{number}.parquet").samefile(
            tmp_path / "out" / "products" / f"0000{number}.parquet"
        )
        for number in range(3)
    ]
    assert linked == [True, False, True]


def test_a_query_without_an_exact_match_is_retired_and_keeps_its_split(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update_products(shop, tmp_path / "out", removed={"p4", "p14"})
    assert "q4" not in {row["query_id"] for row in read(tmp_path / "out", "queries")}
    assert "q4" not in {row["query_id"] for row in read(tmp_path / "out", "judgements")}
    assert read(tmp_path / "out", "retired") == [
        {"query_id": "q4", "text": "text 4", "targets": None, "split": "test", "cluster": None}
    ]
    errors = capsys.readouterr().err
    assert "dropped 3: 2 of removed products, 1 of retired queries" in errors
    assert "queries: retired 1 that lost their last exact match (1 test): q4" in errors
    log = tmp_path / "log.csv"
    log.write_text("query,product_id,position,clicked\nText 4,p5,1,1\n")
    assert (
        main(["queries", str(tmp_path / "out"), "--out", str(tmp_path / "back"), "--clicks", str(log)]) == 0
    )
    queries = {row["query_id"]: row for row in read(tmp_path / "back", "queries")}
    assert (queries["q4"]["split"], queries["q4"]["judged_by"]) == ("test", "implicit")
    assert read(tmp_path / "back", "retired") == []


def test_an_update_that_empties_a_split_is_refused(shop: Path, tmp_path: Path) -> None:
    removed = {f"p{number}" for number in (4, 5, 14, 15)}
    with pytest.raises(
        DataError, match="the update leaves no test query with an exact match; add queries first"
    ):
        update_products(shop, tmp_path / "out", removed=removed)
    assert not (tmp_path / "out").exists()


def test_the_salt_of_the_splits_is_kept(tmp_path: Path) -> None:
    products = [product(number, title=f"a{number} b{number} c{number} d{number}") for number in range(12)]
    data = tmp_path / "data"
    add_derived_queries(write(tmp_path / "shop", products), data, most=20)
    target = next(
        row["product_id"]
        for row in read(data, "judgements")
        if row["grade"] == EXACT and row["query_id"] == "derived-0"
    )
    update_products(data, tmp_path / "out", removed={target})
    assert len(read(tmp_path / "out", "retired")) == 1
    assert read_salt(tmp_path / "out") == read_salt(data) is not None


def test_a_replaced_product_does_not_carry_a_title_into_another_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [
        {"query_id": f"derived-{n}", "text": f"t{n}", "split": split, "judged_by": "derived"}
        for n, split in enumerate(("train", "train", "valid", "test"))
    ]
    judgements = [
        *judge("derived-0", 0),
        *judge("derived-1", 1, 2),
        *judge("derived-2", 3),
        *judge("derived-3", 4),
    ]
    data = write(tmp_path / "data", [product(number) for number in range(6)], queries, judgements)
    new = write(tmp_path / "new", [product(1, title=product(4)["title"]), product(4)])
    update_products(data, tmp_path / "out", [new])
    pairs = {(row["query_id"], row["product_id"]) for row in read(tmp_path / "out", "judgements")}
    assert pairs == {("derived-0", "p0"), ("derived-1", "p2"), ("derived-2", "p3"), ("derived-3", "p4")}
    assert (
        "dropped 1: 1 of replaced products with the title or picture of another split"
        in capsys.readouterr().err
    )
    validate(tmp_path / "out", ValidateParams(), tmp_path / "report")


def test_pictures_that_get_lost_are_a_warning(
    tmp_path: Path, png: Callable[..., bytes], capsys: pytest.CaptureFixture[str], shop: Path
) -> None:
    picture = {"bytes": png(1), "path": "1.png"}
    data = write(tmp_path / "data", [product(1, images=[picture]), product(2, images=[picture]), product(3)])
    new = write(tmp_path / "new", [product(1), product(2, images=[picture]), product(3)])
    update_products(data, tmp_path / "out", [new])
    assert "warning: 1 products had a picture, and their replacements have none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to change: give --products, --remove or both"),
        (
            ["--remove", "p1", *(f"x{n}" for n in range(7))],
            "has no product x0, x1, x2, x3, x4 and 2 more; nothing was",
        ),
        (["--remove", "p1", "--products", "NEW"], "--remove: product p1 is also in --products"),
        (["--products", "TABLE"], "not a data set; import it first: python -m catalog import table"),
        (["--products", "TWICE"], "has product p1 more than once; keep one of each"),
        (["--products", "NOTHING"], "no parquet files; a data set needs products/"),
        (["--remove", "ALL"], "would have no product"),
        (["--remove", "EMPTY"], "has no id; give one product id per line"),
        (["--remove", "BINARY"], "not UTF-8 text"),
    ],
)
def test_a_wrong_update_is_one_line_and_writes_nothing(
    words: list[str], message: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "NEW", [product(1)])
    write(tmp_path / "TWICE", [product(1), product(1)])
    (tmp_path / "NOTHING").mkdir()
    (tmp_path / "TABLE").write_text("product_id,title\n1,x\n")
    (tmp_path / "ALL").write_text("\n".join(row["product_id"] for row in read(shop, "products")))
    (tmp_path / "EMPTY").write_text("\n \n")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\xfd")
    paths = [str(tmp_path / word) if word.isupper() else word for word in words]
    assert main(["update", str(shop), "--out", str(tmp_path / "out"), *paths]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitrine: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ids_are_words_or_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\ufeffa\r\n b \r\n\r\nc", "utf-8")
    assert read_id_words([str(tmp_path / "ids.txt"), "d", "e"]) == {"a", "b", "c", "d", "e"}


def test_an_interrupted_update_leaves_nothing(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(update, "_write_judgements", interrupt)
    assert main(["update", str(shop), "--out", str(tmp_path / "out"), "--remove", "p0"]) == 130
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert main(["update", str(shop), "--out", str(tmp_path / "out"), "--remove", "p0"]) == 0
    assert len(read(tmp_path / "out", "products")) == 29
