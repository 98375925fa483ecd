"""Queries for catalogues that have none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog import store
from catalog.__main__ import main
from catalog.conversion import Row, convert
from catalog.files import Media
from catalog.queries import add_click_queries, add_derived_queries
from catalog.sample import write_sample
from catalog.schema import EXACT, IRRELEVANT, SUBSTITUTE, DataError
from catalog.update import update_products
from components.params import ValidateParams
from components.validate import validate

KINDS, COLORS = ("chair", "table", "lamp"), ("red", "blue", "green", "black")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """3 kinds × 4 colours × 5 products, and no queries; two of each five share a title."""
    rows = [
        Row(
            "products",
            str(number),
            {
                "product_id": f"{kind}-{color}-{n}",
                "title": f"The {color} {kind} of series {max(n, 1)} by Acme",
                "category": f"home/{kind}",
                "color": color,
                "brand": "Acme",
            },
        )
        for number, (kind, color, n) in enumerate((k, c, n) for k in KINDS for c in COLORS for n in range(5))
    ]
    convert("own", rows, [], tmp_path / "shop", {})
    return tmp_path / "shop"


def read_grades(data: Path) -> dict[str, dict[str, int]]:
    texts = {row["query_id"]: row["text"] for row in store.read_table(data, "queries").to_pylist()}
    grades: dict[str, dict[str, int]] = {text: {} for text in texts.values()}
    for row in store.read_table(data, "judgements").to_pylist():
        grades[texts[row["query_id"]]][row["product_id"]] = row["grade"]
    return grades


def test_what_is_derived_follows_from_the_products(shop: Path, tmp_path: Path) -> None:
    assert add_derived_queries(shop, tmp_path / "data", most=100) == len(read_grades(tmp_path / "data"))
    validate(tmp_path / "data", ValidateParams(), tmp_path / "report")
    assert {row["judged_by"] for row in store.read_table(tmp_path / "data", "queries").to_pylist()} == {
        "derived"
    }
    grades = read_grades(tmp_path / "data")
    assert {
        f"{color} {kind}" for color in COLORS for kind in KINDS
    } <= grades.keys()  # the brand tells nothing apart
    for product, grade in grades["red chair"].items():
        kind, color, _ = product.split("-")
        assert grade == (
            EXACT if (kind, color) == ("chair", "red") else SUBSTITUTE if kind == "chair" else IRRELEVANT
        )
    assert sum(grade == EXACT for grade in grades["red chair"].values()) == 5
    titled = grades.keys() - {f"{color} {kind}" for color in COLORS for kind in KINDS}
    assert titled and all(3 <= len(text.split()) <= 5 for text in titled)
    first = shop / "products" / "00000.parquet"
    assert first.samefile(tmp_path / "data" / "products" / first.name)


def test_queries_of_scripts_without_blanks_have_none(tmp_path: Path) -> None:
    """As people type them; and a Chinese title of one run has pieces."""
    colours, kinds = ("红色", "蓝色", "黑色", "白色"), ("连衣裙", "保温杯", "跑步鞋")
    rows = [
        Row(
            "products",
            f"{color} {kind} {n}",
            {
                "product_id": f"{kind}-{color}-{n}",
                "title": f"{color}简约时尚{kind}新款第{'一二三四五'[n]}代大容量",
                "category": f"商品/{kind}",
                "color": color,
            },
        )
        for color in colours
        for kind in kinds
        for n in range(5)
    ]
    convert("own", rows, [], tmp_path / "shop", {})
    add_derived_queries(tmp_path / "shop", tmp_path / "data", most=60)
    texts = read_grades(tmp_path / "data").keys()
    attributes = {f"{color}{kind}" for color in colours for kind in kinds}
    assert len(texts - attributes) > 5 and texts & attributes
    assert not any(" " in text for text in texts)


def test_derived_queries_of_the_same_products_are_a_cluster(shop: Path, tmp_path: Path) -> None:
    """Each kind and colour has five products; two of these share a title."""
    add_derived_queries(shop, tmp_path / "data", most=100)
    clusters = {
        row["text"]: row["cluster"] for row in store.read_table(tmp_path / "data", "queries").to_pylist()
    }
    grades = read_grades(tmp_path / "data")
    for text, products in grades.items():
        (group,) = {tuple(key.split("-")[:2]) for key, grade in products.items() if grade == EXACT}
        assert clusters[text] == f"the {group[1]} {group[0]} of series 1 by acme"


def test_a_new_derived_query_joins_the_cluster_of_its_products(shop: Path, tmp_path: Path) -> None:
    queries = [
        {"query_id": f"x{split}", "text": split, "split": split, "judged_by": "derived", "cluster": cluster}
        for split, cluster in (("train", None), ("valid", "of mine"), ("test", None))
    ]
    products = {"xtrain": "lamp-red-0", "xvalid": "chair-red-0", "xtest": "table-red-0"}
    with store.new_atomic_dir(tmp_path / "own") as folder:
        for name, rows in (
            ("products", store.read_table(shop, "products").to_pylist()),
            ("queries", queries),
            ("judgements", [{"query_id": q, "product_id": p, "grade": EXACT} for q, p in products.items()]),
        ):
            with store.TableWriter(folder, name) as table:
                for row in rows:
                    table.write(row)
    add_derived_queries(tmp_path / "own", tmp_path / "data", most=100)
    rows = {row["text"]: row for row in store.read_table(tmp_path / "data", "queries").to_pylist()}
    assert (rows["red chair"]["split"], rows["red chair"]["cluster"]) == ("valid", "of mine")
    assert (rows["red lamp"]["split"], rows["red lamp"]["cluster"]) == (
        "train",
        "the red lamp of series 1 by acme",
    )


def test_a_seed_decides(shop: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        add_derived_queries(shop, tmp_path / name, most=20, seed=seed)
    fingerprints = [store.fingerprint(tmp_path / name) for name in "abc"]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_queries_beside_others_keep_to_their_splits(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", products=200, seed=3, queries=60, workers=1)
    more = add_derived_queries(tmp_path / "sample", tmp_path / "data", most=200)
    before, after = (store.read_table(tmp_path / name, "queries").num_rows for name in ("sample", "data"))
    assert more > 5 and after == before + more
    validate(tmp_path / "data", ValidateParams(), tmp_path / "report")


def read_splits(data: Path) -> dict[str, str]:
    return {row["text"]: row["split"] for row in store.read_table(data, "queries").to_pylist()}


def test_deriving_again_from_the_same_products_adds_nothing(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = add_derived_queries(shop, tmp_path / "data", most=100)
    assert add_derived_queries(tmp_path / "data", tmp_path / "again", most=100) == 0
    assert f"queries: {count} are known and stay in their splits; they get 0 new" in capsys.readouterr().err
    for name in ("queries", "judgements"):
        assert store.read_table(tmp_path / "data", name) == store.read_table(tmp_path / "again", name)


def test_deriving_again_from_new_products_moves_no_query(shop: Path, tmp_path: Path) -> None:
    """A new red chair is an exact match of "red chair"; a new kind of thing gets queries."""
    add_derived_queries(shop, tmp_path / "data", most=100)
    rows = [
        {"product_id": f"{kind}-red-{n}", "title": f"The red {kind} of series {n} by Acme"}
        | {"category": f"home/{kind}", "color": "red", "brand": "Acme"}
        for kind, n in (("chair", 7), *(("sofa", n) for n in range(3)))
    ]
    convert("own", [Row("products", "1", row) for row in rows], [], tmp_path / "new", {})
    update_products(tmp_path / "data", tmp_path / "more", [tmp_path / "new"])
    assert add_derived_queries(tmp_path / "more", tmp_path / "again", most=100) > 0
    before, after = read_splits(tmp_path / "data"), read_splits(tmp_path / "again")
    assert before.items() < after.items()
    grades = read_grades(tmp_path / "data")
    for text, products in read_grades(tmp_path / "again").items():
        assert grades.get(text, {}).items() <= products.items()
    assert read_grades(tmp_path / "again")["red chair"]["chair-red-7"] == EXACT
    validate(tmp_path / "again", ValidateParams(), tmp_path / "report")


def test_few_changes_of_products_change_few_of_many_titles(tmp_path: Path) -> None:
    """What is derived is a sample; another sample each week would be all new queries."""
    texts = []
    for name, numbers in (("a", range(400)), ("b", range(20, 420))):
        rows = [
            Row("products", "1", {"product_id": f"{n}", "title": f"a{n} b{n} c{n} d{n}"}) for n in numbers
        ]
        convert("own", rows, [], tmp_path / name, {})
        add_derived_queries(tmp_path / name, tmp_path / f"{name}-queries", most=100)
        texts.append(set(read_splits(tmp_path / f"{name}-queries").items()))
    assert len(texts[0] & texts[1]) >= 85


def test_a_product_of_two_groups_moves_neither(
    tmp_path: Path, png: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the title of one and the picture of the other; queries about it fit into no split."""
    rows = [
        Row(
            "products",
            "1",
            {
                "product_id": f"{n}",
                "title": f"a{n} b{n} c{n} d{n}",
                "images": [Media("p.png", lambda n=n: png(n))],
            },
        )
        for n in range(12)
    ]
    convert("own", rows, [], tmp_path / "shop", {})
    add_derived_queries(tmp_path / "shop", tmp_path / "data", most=24)
    splits = read_splits(tmp_path / "data")
    groups = {text.split()[0][1:]: split for text, split in splits.items()}
    train, test = (next(n for n, split in groups.items() if split == name) for name in ("train", "test"))
    joining = {
        "product_id": "x",
        "title": rows[int(train)].values["title"],
        "images": rows[int(test)].values["images"],
    }
    convert("own", [Row("products", "1", joining)], [], tmp_path / "new", {})
    update_products(tmp_path / "data", tmp_path / "more", [tmp_path / "new"])
    add_derived_queries(tmp_path / "more", tmp_path / "again", most=24, seed=1)
    after = read_splits(tmp_path / "again")
    assert splits.items() <= after.items()
    assert "x" not in {
        row["product_id"]
        for row in store.read_table(tmp_path / "again", "judgements").to_pylist()
        if row["grade"] == EXACT
    }
    assert "or products of another split" in capsys.readouterr().err
    validate(tmp_path / "again", ValidateParams(max_duplicate_images=0.5), tmp_path / "report")


def test_too_little_to_ask(tmp_path: Path) -> None:
    convert(
        "own",
        [Row("products", "1", {"product_id": "1", "title": "One thing only"})],
        [],
        tmp_path / "shop",
        {},
    )
    with pytest.raises(DataError, match="gives 1 queries, but none for"):
        add_derived_queries(tmp_path / "shop", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_clicks_become_marked_queries(shop: Path, tmp_path: Path) -> None:
    rows = [
        f"{color} {kind},{kind}-{color_shown}-0,{position},{int(color_shown == color and turn % 2)}"
        for color in COLORS
        for kind in KINDS
        for turn in range(20)
        for position, color_shown in enumerate((COLORS[turn % 4 :] + COLORS[: turn % 4]), start=1)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["query,product_id,position,clicked", *rows]))
    assert add_click_queries(shop, tmp_path / "log.csv", tmp_path / "data") == 12
    queries = store.read_table(tmp_path / "data", "queries").to_pylist()
    assert {row["judged_by"] for row in queries} == {"implicit"}
    assert {row["frequency"] for row in queries} == {20}
    assert read_grades(tmp_path / "data")["red chair"] == {
        "chair-red-0": EXACT,
        **{f"chair-{color}-0": IRRELEVANT for color in COLORS[1:]},
    }
    validate(tmp_path / "data", ValidateParams(), tmp_path / "report")


def test_next_weeks_log_moves_no_query_and_adds_judgements(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "query,product_id,position,clicked"
    first = [f"search {n},chair-red-0,1,1" for n in range(30)]
    second = [f"search {n},lamp-red-0,1,1\nsearch {n},chair-red-0,2,1" for n in range(20, 50)]
    for name, rows in (("first", first), ("second", second)):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]))
    add_click_queries(shop, tmp_path / "first.csv", tmp_path / "data")
    assert add_click_queries(tmp_path / "data", tmp_path / "second.csv", tmp_path / "more") == 20
    assert read_splits(tmp_path / "data").items() < read_splits(tmp_path / "more").items()
    assert read_grades(tmp_path / "more")["search 25"] == {"chair-red-0": EXACT, "lamp-red-0": EXACT}
    message = "queries: 10 are known and stay in their splits; they get 10 new judgements, and keep 10 that they have"
    assert message in capsys.readouterr().err
    (tmp_path / "both.csv").write_text("\n".join([header, *second, *first]))
    add_click_queries(shop, tmp_path / "both.csv", tmp_path / "both")
    assert read_splits(tmp_path / "both") == read_splits(tmp_path / "more")


def test_clicks_tell_the_frequency_of_queries_that_are_there(
    tmp_path: Path, png: Callable[..., bytes]
) -> None:
    picture = Media("p.png", lambda: png(1))
    queries: list[dict[str, Any]] = [
        {"query_id": "q1", "text": "Red  chair", "split": "train"},
        {"query_id": "q2", "text": "lamp", "split": "valid", "frequency": 7},
        {"query_id": "q3", "text": "lamp", "split": "test", "image": picture},
        {"query_id": "q4", "text": "table", "split": "test"},
    ]
    rows = [Row("products", "1", {"product_id": "p", "title": "t"})]
    convert("own", rows + [Row("queries", "1", query) for query in queries], [], tmp_path / "shop", {})
    log = ["query,product_id,position,clicked", *["red chair,p,1,0"] * 3, "lamp,p,1,1"]
    (tmp_path / "log.csv").write_text("\n".join(log))
    add_click_queries(tmp_path / "shop", tmp_path / "log.csv", tmp_path / "data")
    queries = store.read_table(tmp_path / "data", "queries").to_pylist()
    assert {row["query_id"]: row["frequency"] for row in queries} == {
        "q1": 3,
        "q2": 7,
        "q3": None,
        "q4": None,
    }


def test_commands(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queries", str(shop), "--out", str(tmp_path / "a"), "--most", "30"]) == 0
    assert "derived; judgements: " in capsys.readouterr().err
    (tmp_path / "log.csv").write_text("query,product_id,position,clicked\na,chair-red-0,1,0\n")
    words = ["queries", str(shop), "--out", str(tmp_path / "b"), "--clicks", str(tmp_path / "log.csv")]
    assert main(words) == 1
    assert capsys.readouterr().err == f"vitrine: {shop}: gives 0 queries, but none for test, train, valid\n"
