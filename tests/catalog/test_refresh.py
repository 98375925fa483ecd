"""New test queries in place of those that were used too often."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from catalog import refresh, store
from catalog.__main__ import main
from catalog.queries import add_derived_queries
from catalog.refresh import refresh_judgements
from catalog.schema import DERIVED, EXACT, DataError
from catalog.text import normalise
from components.params import ValidateParams
from components.validate import validate

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "MIN_QUERIES", 5)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 products with titles of their own, 60 of them in groups of brand and category; 60 derived queries."""
    root = tmp_path_factory.mktemp("shop")
    tables: dict[str, Rows] = {"products": [], "queries": [], "judgements": []}
    for number in range(300):
        product = {"product_id": f"p{number}", "title": f"a{number} b{number} c{number} d{number}"}
        group = {"brand": f"brand{number % 3}", "category": f"home/kind{number % 2}"}
        tables["products"].append(product | (group if number < 60 else {}))
    for name, rows in tables.items():
        with store.TableWriter(root / "products-only", name) as table:
            for row in rows:
                table.write(row)
    add_derived_queries(root / "products-only", root / "data", most=60)
    return root / "data"


def read(data: Path, table: str) -> Rows:
    return store.read_table(data, table).to_pylist()


def read_targets(data: Path) -> dict[str, set[str]]:
    """The titles of the exact matches of each query."""
    titles = {row["product_id"]: row["title"] for row in read(data, "products")}
    targets: dict[str, set[str]] = {row["query_id"]: set() for row in read(data, "queries")}
    for row in read(data, "judgements"):
        if row["grade"] == EXACT:
            targets[row["query_id"]].add(titles[row["product_id"]])
    return targets


def test_judged_test_queries_are_replaced_and_all_others_stay(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = refresh_judgements(shop, tmp_path / "new", most=40)
    before, after = (
        {row["query_id"]: row for row in read(data, "queries")} for data in (shop, tmp_path / "new")
    )
    retired = {key for key, row in before.items() if row["split"] == "test"}
    assert {key: row for key, row in before.items() if key not in retired}.items() <= after.items()
    added = after.keys() - before.keys()
    assert count == len(added) >= 5 and not retired & after.keys()
    assert {(after[key]["split"], after[key]["judged_by"]) for key in added} == {("test", DERIVED)}
    judged = {row["query_id"] for row in read(tmp_path / "new", "judgements")}
    assert judged == after.keys()
    assert f"test queries: retired {len(retired)}, added {count}\n" in capsys.readouterr().err
    first = shop / "products" / "00000.parquet"
    assert first.samefile(tmp_path / "new" / "products" / first.name)
    validate(tmp_path / "new", ValidateParams(), tmp_path / "report")


def test_retired_queries_and_their_products_never_come_back(shop: Path, tmp_path: Path) -> None:
    versions = [shop, *(tmp_path / str(seed) for seed in (1, 2, 3))]
    for seed, (data, out) in enumerate(pairwise(versions), start=1):
        refresh_judgements(data, out, most=40, seed=seed)
    rows = [[row for row in read(data, "queries") if row["split"] == "test"] for data in versions]
    texts = Counter(normalise(row["text"]) for version in rows for row in version)
    ids = Counter(row["query_id"] for version in rows for row in version)
    assert max(texts.values()) == max(ids.values()) == 1
    tested = [
        {title for row in version for title in read_targets(data)[row["query_id"]]}
        for data, version in zip(versions, rows, strict=True)
    ]
    assert sum(map(len, tested)) == len(set[str]().union(*tested))
    assert len(read(versions[-1], "retired")) == sum(map(len, rows[:-1]))


def test_later_queries_do_not_take_the_place_of_retired_ones(shop: Path, tmp_path: Path) -> None:
    """`catalog queries --clicks` knows the retired texts, too."""
    retired = next(row["text"] for row in read(shop, "queries") if row["split"] == "test")
    refresh_judgements(shop, tmp_path / "new", most=40)
    (tmp_path / "log.csv").write_text(f"query,product_id,position,clicked\n{retired},p1,1,1\nother,p1,1,1\n")
    out = tmp_path / "more"
    assert (
        main(["queries", str(tmp_path / "new"), "--out", str(out), "--clicks", str(tmp_path / "log.csv")])
        == 0
    )
    assert [row["text"] for row in read(out, "queries") if row["judged_by"] == "implicit"] == ["other"]
    assert read(out, "retired") == read(tmp_path / "new", "retired") != []


def test_new_queries_come_from_a_log_of_clicks(shop: Path, tmp_path: Path) -> None:
    known = [row["text"] for row in read(shop, "queries")]
    log = ["query,product_id,position,clicked"]
    log += [
        f"{text},p{number},1,1" for number, text in enumerate([*known, *(f"search {n}" for n in range(40))])
    ]
    (tmp_path / "log.csv").write_text("\n".join(log))
    words = [
        "refresh-judgements",
        str(shop),
        "--out",
        str(tmp_path / "new"),
        "--clicks",
        str(tmp_path / "log.csv"),
    ]
    assert main(words) == 0
    tests = [row for row in read(tmp_path / "new", "queries") if row["split"] == "test"]
    assert len(tests) >= 5 and all(row["text"].startswith("search ") for row in tests)
    assert {(row["judged_by"], row["frequency"], row["cluster"]) for row in tests} == {("implicit", 1, None)}


def test_queries_without_judgements_are_no_evidence_and_stay(
    tiny_tables: dict[str, Rows], write_data: Callable[[dict[str, Rows]], Path], tmp_path: Path
) -> None:
    tiny_tables["queries"].append({"query_id": "new", "text": "not judged yet", "split": "test"})
    data = write_data(tiny_tables)
    log = ["query,product_id,position,clicked", *(f"search {n},p1,1,1" for n in range(40))]
    (tmp_path / "log.csv").write_text("\n".join(log))
    refresh_judgements(data, tmp_path / "new", tmp_path / "log.csv")
    assert "new" in {row["query_id"] for row in read(tmp_path / "new", "queries")}
    assert {row["query_id"]: row["targets"] for row in read(tmp_path / "new", "retired")} == {
        "q4": ["p8", "p9"],
        "q5": ["p10", "p11"],
    }


def test_too_few_new_queries_are_one_error(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refresh, "MIN_QUERIES", 50)
    assert main(["refresh-judgements", str(shop), "--out", str(tmp_path / "new"), "--most", "8"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"vitrine: {shop}: gives ")
    assert message.endswith(
        " new test queries, but at least 50 are needed; give another --seed, a larger --most, or a log of clicks"
    )
    assert not (tmp_path / "new").exists()
    (tmp_path / "log.csv").write_text("query,product_id,position,clicked\na,p1,1,1\n")
    with pytest.raises(
        DataError, match=r"log\.csv: gives \d new test queries, .*; give a longer or later log"
    ):
        refresh_judgements(shop, tmp_path / "new", tmp_path / "log.csv")


def test_data_without_judged_test_queries_cannot_be_refreshed(
    tiny_tables: dict[str, Rows], write_data: Callable[[dict[str, Rows]], Path], tmp_path: Path
) -> None:
    tiny_tables["judgements"] = [row for row in tiny_tables["judgements"] if row["query_id"] in ("q0", "q1")]
    with pytest.raises(
        DataError, match="no test query has judgements; add some with python -m catalog queries"
    ):
        refresh_judgements(write_data(tiny_tables), tmp_path / "new")
