import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog.sample.pictures import draw_picture
from catalog.schema import EXACT, DataError
from components.params import ValidateParams
from components.validate import ValidationFailed, validate

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]
Png = Callable[..., bytes]


def check(data: Path, **params: Any) -> dict[str, Any]:
    """Validate and read the report, of success or of failure."""
    report = data.parent / "validate"
    try:
        validate(data, ValidateParams(**params), report)
    except ValidationFailed:
        report = report.with_name("validate-failed")
    assert (report / "data.html").is_file()
    return json.loads((report / "report.json").read_text())


def broken(report: dict[str, Any]) -> dict[str, list[str]]:
    """Rule → examples, of the rules that fail."""
    return {rule["rule"]: rule["examples"] for rule in report["rules"] if not rule["passed"]}


def bomb(side: int) -> bytes:
    """A PNG whose header promises `side` × `side` pixels, and which holds none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10)))


def rewrite(data: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> Path:
    path = data / table / "00000.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return path


def test_good_data_passes_and_the_report_is_the_same_every_time(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [tmp_path / "one", tmp_path / "two"]
    for report in reports:
        validate(tiny_data, ValidateParams(), report)
    assert capsys.readouterr().err == ""

    pages = [{p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()} for r in reports]
    assert pages[0] == pages[1]
    report = json.loads(pages[0][Path("report.json")])
    assert report["passed"] and not broken(report)
    assert report["counts"]["tables"] == {"products": 12, "queries": 6, "judgements": 24}
    assert report["counts"]["splits"] == {"train": 2, "valid": 2, "test": 2}
    assert Path("data_docs/index.html") not in pages[0]


def test_the_page_shows_what_is_wrong_with_pictures_of_the_products(
    tiny_tables: Tables, write_data: Write, tmp_path: Path
) -> None:
    tiny_tables["products"][3] |= {"price": -1.0, "title": "<b>Navy</b> & co"}
    data = write_data(tiny_tables)
    report = check(data)
    (rule,) = (rule for rule in report["rules"] if rule["rule"] == "prices")
    assert (rule["expected"], rule["products"], rule["examples"]) == ("0 or more", ["p3"], ["p3: -1"])
    page = (data.parent / "validate-failed" / "data.html").read_text()
    assert "1 rule fails: the data cannot be used" in page
    assert "&lt;b&gt;Navy&lt;/b&gt; &amp; co" in page and "<b>Navy" not in page
    assert page.count("data:image/jpeg;base64,") == 1, "the picture of p3"
    assert "prices must be 0 or more" in page and "1 of 12 rows fail (8.33 %)" in page
    assert "default-src 'none'" in page and "http" not in re.sub(r"http-equiv|www\.w3\.org", "", page)


def test_great_expectations_own_results_are_kept(tiny_data: Path) -> None:
    check(tiny_data)
    suites = json.loads((tiny_data.parent / "validate" / "expectations.json").read_text())
    assert all(suite["success"] for suite in suites)
    names = {suite["suite_name"] for suite in suites}
    assert {"products", "queries", "judgements", "exact_matches", "unexpected_columns"} <= names
    (products,) = (suite for suite in suites if suite["suite_name"] == "products")
    assert products["statistics"]["evaluated_expectations"] == len(products["results"]) > 5


def test_data_docs_are_an_option_with_the_day_and_the_names_of_the_data(tiny_data: Path) -> None:
    check(tiny_data, data_docs=True)
    docs = tiny_data.parent / "validate" / "data_docs"
    pages = "".join(page.read_text() for page in docs.rglob("*.html"))
    assert f"{datetime.now(UTC):%Y-%m-%d}" in pages and "1970-01-01" not in pages
    assert "Data asset: products" in pages and "Data asset: None" not in pages
    assert "amazonaws" not in pages and "great-expectations-web-assets" not in pages
    assert "data_docs/index.html" in (tiny_data.parent / "validate" / "data.html").read_text()


@pytest.mark.parametrize("broken", [False, True])
def test_everybody_can_use_the_page(
    browser: "Chrome",
    axe: Callable[[], list[str]],
    requested: Callable[[], list[str]],
    width: int,
    tiny_tables: Tables,
    write_data: Write,
    broken: bool,
) -> None:
    if broken:
        tiny_tables["products"][3] |= {"price": -1.0}
        tiny_tables["products"][5] |= {"images": [{"bytes": b"no picture", "path": None}]}
    data = write_data(tiny_tables)
    check(data)
    browser.get((data.parent / ("validate-failed" if broken else "validate") / "data.html").as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert axe() == []
    assert requested() == []
    assert browser.execute_script("const d = document.documentElement; return d.scrollWidth <= d.clientWidth")


# Each makes one row fail one rule; the other rows pass.
CHANGES_OF_ROWS = [
    ("products", 3, {"product_id": "p2"}, "duplicate_ids", "p2"),
    ("products", 5, {"title": "  "}, "missing_values", "p5"),
    ("products", 6, {"price": -1.0}, "prices", "p6: -1"),
    ("queries", 2, {"text": " "}, "empty_queries", "q2"),
    ("queries", 3, {"split": "dev"}, "splits", "q3: dev"),
    ("judgements", 1, {"grade": 7}, "grades", "q0 p1: 7"),
    ("judgements", 2, {"product_id": "p99"}, "unknown_products", "q0 p99: p99"),
    ("judgements", 4, {"query_id": "q99"}, "unknown_queries", "q99 p2: q99"),
    ("judgements", 9, {"product_id": "p4"}, "duplicate_judgements", "q2 p4"),
    ("satisfaction", 1, {"rating": 6}, "ratings", "q0: 6"),
]


def test_broken_rows_fail_their_rules(tiny_tables: Tables, write_data: Write) -> None:
    answer = {"query_id": "q0", "model_version": "1", "rating": 5}
    tiny_tables["satisfaction"] = [dict(answer), dict(answer)]
    for table, row, change, _, _ in CHANGES_OF_ROWS:
        tiny_tables[table][row] |= change
    report = check(write_data(tiny_tables))
    assert not report["passed"]
    assert broken(report) == {rule: [example] for _, _, _, rule, example in CHANGES_OF_ROWS} | {
        "unknown_products": ["q0 p99: p99", "q1 p3: p3", "q5 p3: p3"]  # p3 is p2 now
    }


def test_rows_without_an_id_are_named_by_number(tiny_tables: Tables, write_data: Write) -> None:
    tiny_tables["products"][11]["product_id"] = ""
    tiny_tables["judgements"] = [row for row in tiny_tables["judgements"] if row["product_id"] != "p11"]
    assert broken(check(write_data(tiny_tables))) == {"missing_values": ["row 11"]}


def test_empty_tables_and_splits_are_reported(tiny_tables: Tables, write_data: Write) -> None:
    tiny_tables["queries"] = []
    failures = broken(check(write_data(tiny_tables)))
    assert failures["empty_tables"] == ["queries: 0"]
    assert failures["empty_splits"] == ["train: 0", "valid: 0", "test: 0"]


def test_data_without_any_picture_is_good(tiny_tables: Tables, write_data: Write) -> None:
    for row in tiny_tables["products"]:
        row["images"] = None
    for row in tiny_tables["queries"]:
        row["image"] = None
    for row in tiny_tables["queries"]:
        row["text"] = f"words of {row['query_id']}"
    assert check(write_data(tiny_tables))["passed"]


def test_a_test_query_without_exact_match_is_a_warning(
    tiny_tables: Tables, write_data: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in tiny_tables["judgements"]:
        row["grade"] = min(row["grade"], 2)
    report = check(write_data(tiny_tables))
    assert report["passed"]
    assert broken(report) == {"unanswerable": ["q4: 0", "q5: 0"]}
    (line,) = capsys.readouterr().err.splitlines()
    assert "unanswerable" in line and "2 of 2" in line


class TestLeaks:
    """The fixture's q0 and q1 are in train, q4 and q5 in test; p0 … p3 are exact matches there, p8 … p11 here."""

    def test_each_kind_is_found(self, tiny_tables: Tables, write_data: Write, png: Png) -> None:
        products, queries = tiny_tables["products"], tiny_tables["queries"]
        stream = io.BytesIO()
        Image.open(io.BytesIO(png(101))).save(stream, "WEBP", lossless=True)  # the same pixels, other bytes
        queries[4]["text"] = "  RED or\tblue  Shirt"
        queries[5]["image"] = {"bytes": stream.getvalue(), "path": None}
        products[8]["title"] = "RED  shirt"
        products[9]["images"] = products[1]["images"]
        tiny_tables["judgements"].append({"query_id": "q4", "product_id": "p2", "grade": EXACT})
        products[2] |= {"title": "Unlike any other", "images": None}

        failures = broken(check(write_data(tiny_tables), max_duplicate_images=0.5))
        assert failures == {
            "leaked_query_texts": ["q0: test + train", "q4: test + train"],
            "leaked_query_pixels": ["q1: test + train", "q5: test + train"],
            "leaked_targets": ["p2 (train): test + train", "p2 (test): test + train"],
            "leaked_titles": [
                f"{target}: test + train" for target in ("p0 (train)", "p2 (train)", "p8 (test)", "p2 (test)")
            ],
            "leaked_pixels": ["p1 (train): test + train", "p9 (test): test + train"],
        }

    def test_a_cluster_in_two_splits_is_a_warning(self, tiny_tables: Tables, write_data: Write) -> None:
        for number, cluster in enumerate(("a", "a", "b", "", "b", None)):
            tiny_tables["queries"][number]["cluster"] = cluster
        report = check(write_data(tiny_tables))
        assert report["passed"]
        assert broken(report) == {"shared_clusters": ["q2: test + valid", "q4: test + valid"]}

    def test_pictures_that_look_the_same_are_a_warning(self, tiny_tables: Tables, write_data: Write) -> None:
        products = tiny_tables["products"]
        shirt = draw_picture(0, 0, 1, np.random.default_rng(0))
        for place, quality in ((1, 95), (3, 80), (9, 60)):
            stream = io.BytesIO()
            shirt.save(stream, "JPEG", quality=quality)
            products[place]["images"] = [{"bytes": stream.getvalue(), "path": None}]
        report = check(write_data(tiny_tables))
        assert report["passed"]
        near = ["p1 (train): p9 (test)", "p3 (train): p9 (test)", "p9 (test): p1 (train)"]
        assert broken(report) == {"near_duplicates": near}

    def test_people_may_judge_a_product_exact_for_many_queries(
        self, tiny_tables: Tables, write_data: Write
    ) -> None:
        tiny_tables["judgements"].append({"query_id": "q4", "product_id": "p2", "grade": EXACT})
        for query in tiny_tables["queries"]:
            query["judged_by"] = None
        report = check(write_data(tiny_tables))
        assert report["passed"]
        assert broken(report) == {"shared_targets": ["p2 (train): test + train", "p2 (test): test + train"]}
        tiny_tables["queries"][0]["judged_by"] = "somebody"
        assert broken(check(write_data(tiny_tables)))["judges"] == ["q0: somebody"]

    def test_what_is_no_leak(self, tiny_tables: Tables, write_data: Write) -> None:
        for row in tiny_tables["queries"][1::2]:
            row["text"] = "the same in red"  # with another picture each
        tiny_tables["products"][1]["title"] = tiny_tables["products"][0]["title"]  # both in train
        tiny_tables["judgements"].append({"query_id": "q4", "product_id": "p0", "grade": EXACT - 1})
        assert check(write_data(tiny_tables))["passed"]


def test_columns_outside_the_schema_must_not_be_personal(tiny_tables: Tables, write_data: Write) -> None:
    data = write_data(tiny_tables)
    (path,) = (data / "judgements").glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("note", pa.array(["ada@shop.test"] * len(table))), path)
    assert broken(check(data)) == {
        "personal_data": ["judgements/00000.parquet note: holds e-mail addresses"],
    }
    assert check(data, personal=["note"])["passed"]


def test_texts_in_another_language_are_a_warning(tiny_tables: Tables, write_data: Write) -> None:
    products = tiny_tables["products"]
    for number, row in enumerate(products):
        row["description"] = f"Number {number} of the things that we sell to people who like shirts"
    products[3] |= {"title": "Rotes Hemd", "description": "Aus Baumwolle, mit langen Ärmeln und zwei Taschen"}
    products[4] |= {"title": "Nordvik X2", "description": None}  # may be of any language
    data = write_data(tiny_tables)
    assert broken(check(data)) == {"foreign_texts": ["p3: de"]}
    assert broken(check(data, max_poor_texts=0.1)) == broken(check(data, languages=["en", "de"])) == {}
    assert len(broken(check(data, languages=["de"]))["foreign_texts"]) == 5  # the first ones


def test_texts_may_be_in_the_language_of_their_product(tiny_tables: Tables, write_data: Write) -> None:
    for number, row in enumerate(tiny_tables["products"]):
        row["description"] = f"Number {number} of the things that we sell to people who like shirts"
    for row in tiny_tables["products"][:4]:
        row |= {"title": "红色连衣裙", "description": None, "language": "zh"}
    report = check(write_data(tiny_tables))
    assert "foreign_texts" not in broken(report)
    assert report["counts"]["languages"] == {"en": 8, "zh": 4}


def test_queries_in_a_language_without_products_are_a_warning(tiny_tables: Tables, write_data: Write) -> None:
    for number, row in enumerate(tiny_tables["products"]):
        row["description"] = f"Number {number} of the things that we sell to people who like shirts"
    for number, row in enumerate(tiny_tables["queries"]):
        row["text"] = "红色连衣裙保温杯"[number : number + 3]
    report = check(write_data(tiny_tables))
    assert broken(report)["query_languages"] == ["zh: 100% of the queries"]
    assert report["passed"] and report["counts"]["languages"] == {"en": 12, "zh": 0}


def test_texts_with_few_letters_are_a_warning(tiny_tables: Tables, write_data: Write) -> None:
    products = tiny_tables["products"]
    products[2] |= {"title": "n/a", "description": None}
    products[5] |= {"title": "–", "description": " - rot"}
    products[7] |= {"title": "赤い", "description": "シャツ"}
    products[8] |= {"title": "12", "description": "  "}
    data = write_data(tiny_tables)
    assert broken(check(data)) == {"empty_texts": ["p2: 2", "p5: 3", "p8: 2"]}
    assert broken(check(data, max_poor_texts=0.3)) == broken(check(data, min_letters=2)) == {}


def test_pictures_and_descriptions_that_many_products_share_are_a_warning(
    tiny_tables: Tables, write_data: Write
) -> None:
    for row in tiny_tables["products"][:4]:
        row["images"] = tiny_tables["products"][0]["images"]
    for row in tiny_tables["products"][:5]:
        row["description"] = "See the label. "
    for row in tiny_tables["products"][4:]:
        row["images"] = None
    for row in tiny_tables["queries"]:
        row["judged_by"] = "human"
    report = check(write_data(tiny_tables), max_sharing=3, max_duplicate_images=1)
    assert report["passed"]
    assert broken(report) == {
        "missing_pictures": ["products without a picture: 0.6667"],
        "placeholders": [f"p{n}: 4" for n in range(4)],
        "boilerplate": [f"p{n}: 5" for n in range(5)],
    }
    assert not broken(
        check(write_data(tiny_tables), max_sharing=5, max_duplicate_images=1, max_without_picture=0.7)
    )


class TestPictures:
    @pytest.fixture
    def shop(self, tiny_tables: Tables, png: Png) -> Tables:
        """tiny_tables with 188 more products, each with a picture."""
        picture = [{"bytes": png(n, 32, 32), "path": None} for n in range(200, 388)]
        tiny_tables["products"] += [
            {"product_id": f"x{n}", "title": f"Thing {n}", "images": [image]}
            for n, image in enumerate(picture)
        ]
        return tiny_tables

    def corrupt(self, tables: Tables, number: int) -> None:
        for row in tables["products"][-number:]:
            row["images"][0]["bytes"] = row["images"][0]["bytes"][:200]

    def test_forty_corrupt_pictures_are_too_many(
        self, shop: Tables, write_data: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.corrupt(shop, 40)
        data = write_data(shop)
        with pytest.raises(
            ValidationFailed, match=r"broken_images .*40 of 202 .*products/x148: broken"
        ) as raised:
            validate(data, ValidateParams(), data.parent / "validate")
        assert str(data.parent / "validate-failed") in str(raised.value)
        assert not (data.parent / "validate").exists()

        validate(data, ValidateParams(max_broken_images=0.2), data.parent / "validate")
        assert not (data.parent / "validate-failed").exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert "40 of 202" in line and "allowed" in line

    def test_unusable_pictures_are_reported_with_their_reason(
        self, tiny_tables: Tables, write_data: Write, png: Png
    ) -> None:
        products, queries = tiny_tables["products"], tiny_tables["queries"]
        products[0]["images"][0]["bytes"] = bomb(30_000)
        products[1]["images"][0]["bytes"] = b"<html>not found</html>"
        products[2]["images"] = [{"bytes": None, "path": "p2.png"}]
        queries[1]["image"]["bytes"] += bytes(9_000)
        (rule,) = (r for r in check(write_data(tiny_tables), max_image_bytes=9_000)["rules"] if r["count"])
        assert rule["rule"] == "broken_images"
        reasons = dict(example.split(": ", 1) for example in rule["examples"])
        assert "limit" in reasons["products/p0"]
        assert "not a" in reasons["products/p1"]
        assert "no bytes" in reasons["products/p2"]
        assert "limit is 9,000" in reasons["queries/q1"]

    def test_small_and_flat_pictures_are_warnings(self, shop: Tables, write_data: Write, png: Png) -> None:
        stream = io.BytesIO()
        Image.new("RGB", (40, 40), "navy").save(stream, "PNG")
        shop["products"][0]["images"][0]["bytes"] = png(0, 31, 40)
        shop["products"][1]["images"][0]["bytes"] = stream.getvalue()
        report = check(write_data(shop))
        assert report["passed"]
        assert broken(report) == {"small_images": ["products/p0: 31"], "flat_images": ["products/p1"]}

    def test_duplicates_are_allowed_up_to_a_share(self, shop: Tables, write_data: Write) -> None:
        shop["products"][-1]["images"] = shop["products"][-2]["images"]  # 2 of 199, which is 1.005 %
        data = write_data(shop)
        for allowed, passed in ((0.0100, False), (0.0101, True)):
            report = check(data, max_duplicate_images=allowed)
            assert report["passed"] is passed
            (rule,) = (rule for rule in report["rules"] if rule["rule"] == "duplicate_images")
            assert (rule["count"], rule["share"], rule["examples"]) == (2, 2 / 199, ["x186", "x187"])


class TestClips:
    @pytest.fixture
    def films(self, tiny_tables: Tables, png: Png) -> Tables:
        """tiny_tables with clips of 3 frames for p3 and p4, and an empty list for p5."""
        for number in (3, 4):
            tiny_tables["products"][number]["video"] = [
                {"bytes": png(10 * number + n, 24, 24), "path": None} for n in range(3)
            ]
        tiny_tables["products"][5]["video"] = []
        return tiny_tables

    def test_good_ones_pass(
        self, films: Tables, write_data: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert not broken(check(write_data(films)))
        assert capsys.readouterr().err == ""  # small frames are good frames

    def test_a_broken_frame_is_one_clear_message(self, films: Tables, write_data: Write) -> None:
        films["products"][4]["video"][2]["bytes"] = b"<html>"
        data = write_data(films)
        with pytest.raises(ValidationFailed) as raised:
            validate(data, ValidateParams(), data.parent / "validate")
        _, message, _ = str(raised.value).splitlines()
        assert message == (
            "  broken_frames (clip_frames): frames must decode and be within the size limits "
            "(else leave out the clip); 1 of 6 (16.7 %) fail: products/p4 frame 2: "
            "not a JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF picture"
        )

    def test_the_problem_of_a_frame_is_reported(self, films: Tables, write_data: Write) -> None:
        frames = films["products"][3]["video"] + films["products"][4]["video"]
        for frame, content in zip(frames, (bomb(30_000), b"", None, frames[3]["bytes"][:99]), strict=False):
            frame["bytes"] = content
        frames[2]["path"] = "p3.png"
        films["products"][4]["video"][2] = None
        failures = broken(check(write_data(films)))
        assert list(failures) == ["broken_frames"]
        reasons = dict(example.split(": ", 1) for example in failures["broken_frames"])
        assert "limit" in reasons["products/p3 frame 0"]
        assert "not a" in reasons["products/p3 frame 1"]
        assert "no bytes" in reasons["products/p3 frame 2"]
        assert "broken" in reasons["products/p4 frame 0"]
        assert reasons["products/p4 frame 2"] == "empty"

    def test_frames_and_pictures_have_their_own_allowance(
        self, films: Tables, write_data: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        films["products"][4]["video"][2]["bytes"] = b""
        films["products"][0]["images"][0]["bytes"] = b""
        data = write_data(films)  # 1 of 6 frames, 1 of 14 pictures
        assert list(broken(check(data, max_broken_images=0.1))) == ["broken_frames"]
        assert check(data, max_broken_images=0.2)["passed"]
        lines = [line for line in capsys.readouterr().err.splitlines() if "allowed" in line]
        assert [line.split()[2] for line in lines] == ["broken_images", "broken_images", "broken_frames"]

    def test_a_single_frame_is_no_clip(self, films: Tables, write_data: Write) -> None:
        del films["products"][4]["video"][1:]
        data = write_data(films)
        with pytest.raises(ValidationFailed) as raised:
            validate(data, ValidateParams(), data.parent / "validate")
        first, message, _ = str(raised.value).splitlines()
        assert first == f"{data}: not fit to use, 1 rule fails:"
        assert message == (
            "  short_clips (products): a clip must have 2 frames or more (put a single picture into image); "
            "1 of 2 (50 %) fail: p4: 1"
        )


class TestSeverity:
    def test_may_be_lowered_and_raised(self, tiny_tables: Tables, write_data: Write) -> None:
        tiny_tables["products"][3]["price"] = -1.0
        for row in tiny_tables["judgements"]:
            row["grade"] = min(row["grade"], 2)
        data = write_data(tiny_tables)
        assert check(data, severity={"prices": "warning"})["passed"]
        assert not check(data, severity={"prices": "warning", "unanswerable": "error"})["passed"]

    def test_of_an_unknown_rule_is_an_error(self, tiny_data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"unknown rule price; known are schema, .*prices"):
            validate(tiny_data, ValidateParams(severity={"price": "warning"}), tmp_path / "validate")


def test_all_failed_rules_are_reported_at_once(tiny_tables: Tables, write_data: Write) -> None:
    tiny_tables["products"][3]["price"] = -1.0
    tiny_tables["judgements"][1]["grade"] = 7
    data = write_data(tiny_tables)
    with pytest.raises(ValidationFailed, match=r"2 rules fail:(.|\n)*prices .*p3(.|\n)*grades .*q0 p1"):
        validate(data, ValidateParams(), data.parent / "validate")


def test_missing_columns_and_wrong_types_are_reported_together(tiny_data: Path) -> None:
    rewrite(tiny_data, "products", lambda table: table.drop_columns(["title"]))
    rewrite(tiny_data, "judgements", lambda t: t.set_column(2, "grade", pa.array([[1]] * len(t))))
    assert broken(check(tiny_data)) == {
        "schema": [
            "products/00000.parquet title: missing",
            "judgements/00000.parquet grade: is list<element: int64>, not int8",
        ]
    }


def test_types_that_can_be_read_are_good(tiny_data: Path) -> None:
    rewrite(tiny_data, "judgements", lambda t: t.set_column(2, "grade", t["grade"].cast(pa.int64())))
    assert check(tiny_data)["passed"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-100]), id="truncated"),
        pytest.param(
            lambda path: path.write_bytes(b"PAR1" + bytes(400) + path.read_bytes()[404:]), id="overwritten"
        ),
        pytest.param(lambda path: path.unlink(), id="absent"),
    ],
)
def test_unreadable_files_are_clear_errors(
    tiny_data: Path, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    damage(tiny_data / "products" / "00000.parquet")
    with pytest.raises(DataError, match="products"):
        validate(tiny_data, ValidateParams(), tmp_path / "validate")


def test_a_lowered_schema_rule_does_not_hide_what_cannot_be_read(tiny_data: Path, tmp_path: Path) -> None:
    rewrite(tiny_data, "products", lambda table: table.drop_columns(["title"]))
    with pytest.raises(DataError, match="'title' is missing"):
        validate(tiny_data, ValidateParams(severity={"schema": "warning"}), tmp_path / "validate")
