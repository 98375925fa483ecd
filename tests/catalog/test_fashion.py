import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import fashion_queries, store
from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SPLITS, SUBSTITUTE, TEXT_COLUMNS, DataError
from catalog.sources import import_data
from catalog.sources.fashion import HEADER
from components.params import ValidateParams
from components.validate import validate

ARTICLES = {"Shirts": "Topwear", "Jeans": "Bottomwear", "Tops": "Topwear"}
Files = dict[str, bytes]


@pytest.fixture
def published(png: Callable[..., bytes]) -> Files:
    """The published layout, by path: 2 genders × 3 articles × 4 colours, 4 products each, ids 1 … 96.

    Titles and pixels repeat within a combination and across some; then a row for each defect.
    """
    lines, pictures = [HEADER], {}
    number = 0
    for gender in ("Men", "Women"):
        for article, sub in ARTICLES.items():
            for colour in ("Red", "Navy Blue", "Black", "White"):
                for n in range(4):
                    number += 1
                    title = (
                        f"Brand {n % 3} {gender} {article}"
                        if colour in ("Red", "Black") and n
                        else f"{number}, unquoted"
                    )
                    lines.append(
                        f"{number},{gender},Apparel,{sub},{article},{colour},Summer,2012,Casual,{title}"
                    )
                    pictures[f"images/{number}.jpg"] = png(1 if number in (5, 40) else number)
    del pictures["images/7.jpg"]
    pictures["images/8.jpg"] = b"no picture"
    pictures["images/999.jpg"] = png(999)
    lines += [
        "200,Men,Apparel",
        "x1,Men,Apparel,Topwear,Shirts,Red,,,,No number",
        lines[1],
        "201,Men,A,B,C,D,,,,",
    ]
    return {"styles.csv": "\n".join(lines).encode(), **pictures}


def folder(files: Files, path: Path, inside: str = ".") -> Path:
    for name, content in files.items():
        target = path / inside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path


def zipped(files: Files, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return path


def tables(data: Path) -> str:
    return store.fingerprint(*(data / name for name in ("products", "queries", "judgements")))


def rows(data: Path, table: str) -> list[dict[str, Any]]:
    return store.read_table(data, table).to_pylist()


def test_folder_and_zip_give_the_same_data_and_seeds_other_data(published: Files, tmp_path: Path) -> None:
    sources = [
        folder(published, tmp_path / "a"),
        folder(published, tmp_path / "b", "down"),
        zipped(published, tmp_path / "c.zip"),
        zipped(published, tmp_path / "d.zip", "down/"),
    ]
    fingerprints = []
    for n, source in enumerate(sources):
        import_data("fashion", source, tmp_path / f"out{n}")
        fingerprints.append(tables(tmp_path / f"out{n}"))
    assert len(set(fingerprints)) == 1
    import_data("fashion", sources[0], tmp_path / "other", seed=1)
    assert tables(tmp_path / "other") != fingerprints[0]


def test_every_defect_is_told_and_skipped(
    published: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_data("fashion", folder(published, tmp_path / "src"), tmp_path / "data")
    assert "fashion: 96 products" in capsys.readouterr().err
    left = pq.read_table(tmp_path / "data" / "rejected.parquet").to_pylist()
    assert {(row["where"], row["column"], row["reason"]) for row in left} == {
        ("styles.csv line 98", None, "too few columns"),
        ("styles.csv line 99", None, "an id that is not a number"),
        ("styles.csv line 100", None, "a duplicate id"),
        ("styles.csv line 101", None, "no title"),
        ("images/999.jpg", None, "no product with this id"),
        ("styles.csv, id 7", "images", "images/7.jpg: no such file"),
        ("styles.csv, id 8", "images", "not a JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF picture"),
    }
    assert len(rows(tmp_path / "data", "products")) == 96


def test_products_keep_their_words_and_pictures_and_hide_what_judgements_come_from(
    published: Files, tmp_path: Path
) -> None:
    import_data("fashion", zipped(published, tmp_path / "src.zip"), tmp_path / "data")
    products = {row["product_id"]: row for row in rows(tmp_path / "data", "products")}
    first = products["5"]
    assert first["title"] == "5, unquoted"
    assert first["category"] == "Apparel/Topwear/Shirts"
    assert dict(first["attributes"])["baseColour"] == "Navy Blue"
    assert {name for name in TEXT_COLUMNS if first[name]} == {"title", "category"}
    assert first["images"][0]["bytes"] == published["images/5.jpg"]
    assert products["7"]["images"] is None


def test_derived_queries_pass_validation_and_follow_the_law_of_grades(
    published: Files, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    import_data("fashion", zipped(published, tmp_path / "src.zip"), data)
    # One picture repeats and one is broken, of 96: more than a shop is allowed.
    validate(data, ValidateParams(max_broken_images=0.05, max_duplicate_images=0.05), tmp_path / "report")

    lines = [line.split(",") for line in published["styles.csv"].decode().splitlines()[1:97]]
    annotations = {line[0]: line for line in lines}
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows(data, "judgements"):
        grades[row["query_id"]][row["product_id"]] = row["grade"]
    for grades_by_product in grades.values():
        exact = {key for key, grade in grades_by_product.items() if grade == EXACT}
        _, gender, _, sub, article, colour, *_ = annotations[next(iter(exact))]
        for key, line in annotations.items():
            same = (line[1] == gender) + (line[5] == colour)
            if line[4] == article:
                expected = (IRRELEVANT, SUBSTITUTE, EXACT)[same]
            else:
                expected = COMPLEMENT if line[3] == sub and same == 2 else IRRELEVANT
            assert grades_by_product.get(key, expected) == expected
            assert key in grades_by_product or expected != EXACT

    products = {row["product_id"]: row for row in rows(data, "products")}
    queries = rows(data, "queries")
    assert {row["split"] for row in queries} == set(SPLITS)
    assert {row["segment"] for row in queries} == {"derived-text", "derived-image"}
    clusters = defaultdict(set)
    for row in queries:
        for key in (key for key, grade in grades[row["query_id"]].items() if grade == EXACT):
            clusters[annotations[key][9]].add(row["cluster"])  # the title
    assert all(len(names) == 1 for names in clusters.values())
    # Of 24 combinations, 6 red ones share titles with black ones; 3 groups share the pixels of products 1, 5 and 40.
    assert len(set[str]().union(*clusters.values())) == 24 - 6 - 2
    for row in queries:
        if row["image"]:
            donor = row["image"]["path"].removesuffix(".jpg")
            assert products[donor]["images"] is None
            assert grades[row["query_id"]][donor] == EXACT
            assert donor not in {"5", "40"}  # whose pixels are not theirs alone


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b""}, "no styles.csv"),
        ({"styles.csv": b"id;title\n"}, "does not begin with"),
        ({"styles.csv": f"{HEADER}\n1,\xff".encode("latin-1")}, "cannot be read as UTF-8"),
        ({"styles.csv": f"{HEADER}\n1,Men,A,B,C,Red,,,,One of a kind".encode()}, "3 to 100 products"),
    ],
)
def test_another_layout_is_a_clear_error(files: Files, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        import_data("fashion", zipped(files, tmp_path / "src.zip"), tmp_path / "data")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_broken_zip_is_a_clear_error(published: Files, tmp_path: Path) -> None:
    path = zipped(published, tmp_path / "src.zip")
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(DataError, match="not a readable zip"):
        import_data("fashion", path, tmp_path / "data")
    path.write_bytes(content.replace(published["images/9.jpg"][100:200], bytes(100)))
    import_data("fashion", path, tmp_path / "data")
    left = pq.read_table(tmp_path / "data" / "rejected.parquet").to_pylist()
    assert any(re.match(r"images/9\.jpg: cannot be read \(.*CRC", row["reason"]) for row in left)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_connect_joins_what_is_linked_and_nothing_else(links: list[tuple[int, int]]) -> None:
    roots = fashion_queries.connected_components(links)
    groups: dict[Any, set[int]] = defaultdict(set)
    for node, root in roots.items():
        groups[root].add(node)
    assert all(roots[node] == roots[other] for node, other in links)
    for group in groups.values():  # reachable from any one of its nodes
        seen: set[int] = set()
        border = {next(iter(group))}
        while border:
            seen |= border
            border = {b for pair in links for a, b in (pair, pair[::-1]) if a in border} - seen
        assert seen == group


@given(st.integers(0, 2**32), st.integers(60, 300))
def test_splits_come_close_to_their_shares(seed: int, number: int) -> None:
    combos = [fashion_queries.Combo("Men", f"a{n}", "Red") for n in range(number)]
    styles = [
        fashion_queries.Style(str(n), *c[:1], "m", "s", *c[1:], "", "", "", f"t{n // 2}")
        for n, c in enumerate(combos)
    ]
    splits = fashion_queries.split_combos(combos, styles, {}, np.random.default_rng(seed))
    for split, share in fashion_queries.SHARES.items():
        assert abs(list(splits.values()).count(split) - share * number) <= 2
    assert all(splits[combos[n]] == splits[combos[n - 1]] for n in range(1, number, 2))


ROWS = 6_000  # of 40,013


def write_part(source: Path, path: Path) -> None:
    """The first rows of the published data set and their pictures, in the same layout."""
    with zipfile.ZipFile(source) as complete, zipfile.ZipFile(path, "w") as part:
        names = complete.namelist()
        styles = next(name for name in names if name.endswith("styles.csv"))
        lines = complete.read(styles).splitlines(keepends=True)[: ROWS + 1]
        part.writestr(styles, b"".join(lines))
        ids = {line.partition(b",")[0].decode() for line in lines}
        for name in names:
            if name.endswith(".jpg") and Path(name).stem in ids:
                part.writestr(name, complete.read(name))


@pytest.mark.slow
@pytest.mark.real
def test_a_part_of_the_published_data_set(real_data: Path, tmp_path: Path) -> None:
    write_part(real_data / "fashion-product-images-small.zip", tmp_path / "part.zip")
    import_data("fashion", tmp_path / "part.zip", tmp_path / "data")
    validate(tmp_path / "data", ValidateParams(), tmp_path / "report")
    products = store.read_table(tmp_path / "data", "products", ["product_id"])
    queries = store.read_table(tmp_path / "data", "queries", ["text", "split"]).to_pandas()
    assert len(products) == ROWS
    assert 550 <= len(queries) <= 600
    assert 0.4 < queries.text.notna().mean() < 0.6
    for split, share in fashion_queries.SHARES.items():
        assert abs((queries.split == split).mean() - share) < 0.02
