import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from catalog import store
from catalog.schema import EXACT, DataError
from components import featurize as stage
from components.featurize import assign_product_splits, featurize, featurize_shard, merge_shards
from components.params import FeaturizeParams
from fusion.encoders import runtime
from fusion.encoders.ocr import open_reader
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]
EVERY_WORD = FeaturizeParams(min_count=1)


@pytest.fixture
def validated() -> Callable[[Path], Path]:
    """A report that the data passed."""

    def write(data: Path) -> Path:
        report = data.parent / "validate"
        report.mkdir(exist_ok=True)
        (report / "report.json").write_text(json.dumps({"data": store.fingerprint(data), "passed": True}))
        return report

    return write


Validated = Callable[[Path], Path]


@pytest.fixture
def features(tiny_data: Path, validated: Validated) -> Path:
    out = tiny_data.parent / "features"
    featurize(tiny_data, validated(tiny_data), EVERY_WORD, out)
    return out


class TestTheReport:
    def test_must_be_there(self, tiny_data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"report\.json: not a report .*run validate first"):
            featurize(tiny_data, tmp_path / "nowhere", FeaturizeParams(), tmp_path / "features")
        assert not (tmp_path / "features").exists()

    @pytest.mark.parametrize("content", ["{", "{}", "[]", '"data"'])
    def test_must_be_one(self, tiny_data: Path, tmp_path: Path, content: str) -> None:
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(DataError, match=r"report\.json: not a report .*run validate first"):
            featurize(tiny_data, tmp_path, FeaturizeParams(), tmp_path / "features")

    def test_must_be_of_success(self, tiny_data: Path, tmp_path: Path) -> None:
        content = {"data": store.fingerprint(tiny_data), "passed": False}
        (tmp_path / "report.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"report\.json: the data did not pass"):
            featurize(tiny_data, tmp_path, FeaturizeParams(), tmp_path / "features")

    def test_must_be_about_this_data(self, tiny_data: Path, tmp_path: Path, validated: Validated) -> None:
        report = validated(tiny_data)
        path = tiny_data / "judgements" / "00000.parquet"
        pq.write_table(pq.read_table(path).slice(1), path)
        with pytest.raises(DataError, match=r"changed since .* was written; run validate again"):
            featurize(tiny_data, report, FeaturizeParams(), tmp_path / "features")


def test_every_row_has_its_features(features: Path) -> None:
    products, queries = Items.load(features, "products"), Items.load(features, "queries")
    assert products.ids.tolist() == [f"p{n}" for n in range(12)]
    assert products.has_image.tolist() == [True] * 11 + [False]
    assert not products.images[11].any() and products.images[:11].any(1).all()
    assert products.tokens.shape[1] == FeaturizeParams().max_tokens
    assert queries.splits.tolist() == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2
    assert queries.segments.tolist() == ["text", "image"] * 3
    assert queries.has_image.tolist() == [False, True] * 3
    assert (queries.tokens[:, 0] != 0).tolist() == [True, False] * 3


class TestNothingOfTheTestSplitIsLearnt:
    def test_its_words_are_several_pieces(self, features: Path) -> None:
        """p0 … p3 answer training queries, p4 … p7 valid ones, p8 … p11 those of the test."""
        vocabulary = Vocabulary.load(features / "vocabulary.json")
        unseen = ["white", "grey", "pink", "brown", "gold", "navy", "teal", "plum"]
        assert not vocabulary.encode(["red", "blue", "green", "black", "shirt", "or"], 3)[:, 1].any()
        assert vocabulary.encode(unseen, 3)[:, 1].all()
        first = np.array([vocabulary.split_words(f"{color} shirt", 9)[0].tokens for color in unseen])
        products = Items.load(features, "products")
        assert (np.count_nonzero(products.tokens[4:12], axis=1) > first).all() and (first > 1).all()

    def test_its_judgements_are_left_out(self, features: Path) -> None:
        judged = pq.read_table(features / "judgements.parquet")
        assert set(judged["query_id"].to_pylist()) == {"q0", "q1", "q2", "q3"}
        assert set(judged["judged_by"].to_pylist()) == {"derived"}
        assert b"q4" not in (features / "judgements.parquet").read_bytes()

    def test_its_products_are_marked(self, features: Path) -> None:
        splits = Items.load(features, "products").splits.tolist()
        assert splits == ["train"] * 4 + ["valid"] * 4 + ["test"] * 4

    def test_a_product_of_two_splits_is_on_the_later_side(
        self, tiny_tables: Tables, write_data: Write
    ) -> None:
        tiny_tables["judgements"] += [
            {"query_id": "q4", "product_id": "p0", "grade": EXACT},
            {"query_id": "q2", "product_id": "p1", "grade": EXACT},
            {"query_id": "q0", "product_id": "p10", "grade": EXACT},
        ]
        data = write_data(tiny_tables)
        splits = assign_product_splits(
            store.read_table(data, "judgements"), store.read_table(data, "queries", ["query_id", "split"])
        )
        assert (splits["p0"], splits["p1"], splits["p2"], splits["p10"]) == ("test", "valid", "train", "test")


class TestCoverage:
    def test_is_written(self, features: Path) -> None:
        shares = json.loads((features / "coverage.json").read_text())
        assert set(shares) == {"tokens", "queries"}
        assert all(0 <= share < 0.1 for share in shares.values())

    def test_queries_in_another_script_are_refused(
        self, tiny_tables: Tables, write_data: Write, validated: Validated, tmp_path: Path
    ) -> None:
        tiny_tables["queries"][4]["text"] = "红色衬衫"
        data = write_data(tiny_tables)
        with pytest.raises(
            DataError, match=r"cannot read 33\.3% of the queries .*first queries: q4; check the language"
        ):
            featurize(data, validated(data), EVERY_WORD, tmp_path / "features")
        assert not (tmp_path / "features").exists()
        featurize(
            data, validated(data), EVERY_WORD.model_copy(update={"max_unreadable": 0.5}), tmp_path / "out"
        )
        assert json.loads((tmp_path / "out" / "coverage.json").read_text())["queries"] == pytest.approx(1 / 3)


class TestBrokenPictures:
    @pytest.fixture
    def data(self, tiny_tables: Tables, write_data: Write) -> Path:
        tiny_tables["products"][3]["images"][0]["bytes"] = b"<html>"
        tiny_tables["queries"][1]["image"]["bytes"] = tiny_tables["queries"][1]["image"]["bytes"][:500]
        return write_data(tiny_tables)

    def test_are_missing_modalities(
        self, data: Path, validated: Validated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "features"
        featurize(data, validated(data), FeaturizeParams(max_broken_images=0.2), out)
        recorded = json.loads((out / "broken.json").read_text())
        assert list(recorded) == ["p3", "q1"]
        assert "not a" in recorded["p3"] and "broken" in recorded["q1"]
        products = Items.load(out, "products")
        assert not products.has_image[3] and not products.images[3].any()
        assert "warning: 2 broken pictures count as missing; p3: not a" in capsys.readouterr().err

    def test_are_too_many_above_the_share(self, data: Path, validated: Validated, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"2 of 14 pictures are broken \(14\.3%\).*allows 14\.0%; p3: not a"
        ):
            featurize(data, validated(data), FeaturizeParams(max_broken_images=0.14), tmp_path / "features")
        assert not (tmp_path / "features").exists()


class TestTextOnPictures:
    def test_is_read_only_if_a_parameter_says_so(self, features: Path) -> None:
        for table in ("products", "queries"):
            assert "ocr" not in pq.read_schema(features / table / "000000.parquet").names
        assert "ocr" not in json.loads((features / "made_from.json").read_text())

    def test_is_a_column_of_products_and_a_word_of_their_texts(
        self, tiny_tables: Tables, write_data: Write, validated: Validated, tmp_path: Path
    ) -> None:
        """The real reader, twice: the same bytes."""
        stream = io.BytesIO()
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).text((8, 30), "VONDRA", "black", ImageFont.load_default(20))
        picture.save(stream, "PNG")
        tiny_tables["products"][2]["images"][0]["bytes"] = stream.getvalue()
        data, params = write_data(tiny_tables), EVERY_WORD.model_copy(update={"ocr": "rapidocr"})
        for name in ("first", "second"):
            featurize(data, validated(data), params, tmp_path / name)
        assert store.fingerprint(tmp_path / "first") == store.fingerprint(tmp_path / "second")
        products, queries = (Items.load(tmp_path / "first", table) for table in ("products", "queries"))
        assert products.ocr.tolist() == ["", "", "VONDRA", *[""] * 9]
        assert queries.ocr.tolist() == [None] * 6
        vocabulary = Vocabulary.load(tmp_path / "first" / "vocabulary.json")
        expected = vocabulary.encode(["Green shirt clothing shirt VONDRA"], params.max_tokens)[0]
        assert products.tokens[2].tolist() == expected.tolist()

    def test_needs_its_package_before_the_work_begins(
        self, tiny_data: Path, validated: Validated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_reader.cache_clear()
        monkeypatch.setitem(sys.modules, "rapidocr", None)
        monkeypatch.setattr(Vocabulary, "learn", None)
        with pytest.raises(DataError, match=r"featurize\.ocr: rapidocr is not installed; install it with"):
            featurize(tiny_data, validated(tiny_data), FeaturizeParams(ocr="rapidocr"), tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestGoingOn:
    @pytest.fixture
    def stopped(
        self, tiny_data: Path, validated: Validated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[FeaturizeParams, int], Path]:
        """What remains of a run that stops before it writes the table of a file of five rows: stopped(params, file)."""
        monkeypatch.setattr(stage, "FILE_ROWS", 5)
        write = pq.write_table

        def run(params: FeaturizeParams, number: int) -> Path:
            def stop(table: Any, path: Path, **options: Any) -> None:
                if path.stem == f"{number:06d}":
                    raise InterruptedError
                write(table, path, **options)

            with monkeypatch.context() as patch:
                patch.setattr(pq, "write_table", stop)
                with pytest.raises(InterruptedError):
                    featurize(tiny_data, validated(tiny_data), params, tmp_path / "features")
            return tmp_path / ".features.partial"

        return run

    @pytest.fixture
    def halfway(self, stopped: Callable[[FeaturizeParams, int], Path]) -> Path:
        """What remains of a run that stopped after two files of products."""
        partial = stopped(EVERY_WORD, 2)
        assert sorted(path.name for path in (partial / "products").iterdir()) == [
            "000000.parquet",
            "000001.parquet",
        ]
        for path in (partial / "products").iterdir():
            os.utime(path, (0, 0))
        return partial

    def test_skips_what_is_done(self, tiny_data: Path, tmp_path: Path, halfway: Path, features: Path) -> None:
        """`features` is the second attempt: the same command."""
        times = [path.stat().st_mtime for path in sorted((features / "products").iterdir())]
        assert times[:2] == [0, 0] and times[2] > 0
        assert not halfway.exists()
        assert Items.load(features, "products").ids.tolist() == [f"p{n}" for n in range(12)]
        assert len(list((features / "queries").iterdir())) == 2

    def test_a_table_whose_pictures_are_written_is_the_next_to_be(
        self,
        tiny_data: Path,
        validated: Validated,
        tmp_path: Path,
        stopped: Callable[[FeaturizeParams, int], Path],
    ) -> None:
        """Killed between the two files of the same rows, it writes both again."""
        keeping = EVERY_WORD.model_copy(update={"keep_pictures": True})
        partial = stopped(keeping, 1)
        names = sorted(path.name for path in (partial / "products").iterdir())
        assert names == ["000000.npy", "000000.parquet", "000001.npy"]
        featurize(tiny_data, validated(tiny_data), keeping, tmp_path / "features")
        for table, count in (("products", 11), ("queries", 3)):
            items = Items.load(tmp_path / "features", table, pictures=True)
            assert items.batch(slice(None))["pictures"].shape == (count, 96, 96, 3)
        assert not [*(tmp_path / "features").glob("*/*.partial")]

    def test_begins_anew_with_other_parameters(
        self, tiny_data: Path, tmp_path: Path, halfway: Path, validated: Validated
    ) -> None:
        featurize(tiny_data, validated(tiny_data), FeaturizeParams(max_tokens=8), tmp_path / "features")
        shards = sorted((tmp_path / "features" / "products").iterdir())
        assert len(shards) == 3 and all(path.stat().st_mtime > 0 for path in shards)
        assert Items.load(tmp_path / "features", "products").tokens.shape == (12, 8)


class TestShards:
    @pytest.fixture
    def parts(
        self, tiny_data: Path, validated: Validated, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., list[Path]]:
        """The given number of shards, of files of three rows each."""
        monkeypatch.setattr(stage, "FILE_ROWS", 3)

        def make(shards: int, params: FeaturizeParams = EVERY_WORD) -> list[Path]:
            report = validated(tiny_data)
            folders = [tiny_data.parent / f"{shards}-{shard}" for shard in range(shards)]
            for shard, folder in enumerate(folders):
                featurize_shard(tiny_data, report, params, folder, shard, shards)
            return folders

        return make

    @pytest.mark.slow
    @pytest.mark.parametrize("keep", [False, True])
    def test_the_same_bytes_for_any_number(
        self,
        parts: Callable[..., list[Path]],
        tiny_data: Path,
        validated: Validated,
        tmp_path: Path,
        keep: bool,
    ) -> None:
        params = EVERY_WORD.model_copy(update={"keep_pictures": keep})
        featurize(tiny_data, validated(tiny_data), params, tmp_path / "whole")
        for shards in (1, 2, 7):  # there are four files of products
            merge_shards(parts(shards, params), params, tmp_path / "gathered")
            assert store.fingerprint(tmp_path / "gathered") == store.fingerprint(tmp_path / "whole")

    def test_broken_pictures_are_counted_over_all(
        self, parts: Callable[..., list[Path]], tiny_tables: Tables, write_data: Write, tmp_path: Path
    ) -> None:
        tiny_tables["products"][0]["images"][0]["bytes"] = b"no picture"
        write_data(tiny_tables)
        with pytest.raises(DataError, match=r"1 of \d+ pictures are broken .* allows 1\.0%; p0: "):
            merge_shards(parts(2), EVERY_WORD, tmp_path / "gathered")
        assert not (tmp_path / "gathered").exists()

    def test_a_share_that_is_missing_or_of_something_else(
        self, parts: Callable[..., list[Path]], tmp_path: Path
    ) -> None:
        three, two = parts(3), parts(2, FeaturizeParams())
        for wrong, message in (
            (three[:2], "is not of shard 0 of 2"),
            ([three[1], three[0], three[2]], "is not of shard 0 of 3"),
            ([three[0], two[1]], "different data, parameters or runtimes"),
        ):
            with pytest.raises(DataError, match=message):
                merge_shards(wrong, EVERY_WORD, tmp_path / "gathered")
            assert not (tmp_path / "gathered").exists()

    def test_shares_of_different_runtimes_are_refused(
        self, parts: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fast = parts(2)
        monkeypatch.setattr(runtime, "find_spec", lambda _: None)
        slow = parts(3)
        for name, folder in (("openvino", fast[0]), ("torch", slow[1])):
            assert json.loads((folder / "made_from.json").read_text())["runtime"] == name
        with pytest.raises(DataError, match="parameters or runtimes; run all of them again"):
            merge_shards([fast[0], slow[1]], EVERY_WORD, tmp_path / "gathered")
