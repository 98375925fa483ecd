import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.schema import TEXT_COLUMNS
from fusion.encoders import runtime
from fusion.encoders.image import ImageEncoder
from fusion.encoders.joint import JointEncoder
from fusion.encoders.ocr import open_reader
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import PAD, UNKNOWN, Vocabulary
from fusion.features import MODALITIES
from fusion.featurizer import BATCH, SETTINGS, Featurizer, copy_featurizer

Row = dict[str, Any]


@pytest.fixture
def featurizer(encoder: ImageEncoder) -> Featurizer:
    clips = ClipReader("conv3d", 4, {})
    vocabulary = Vocabulary.learn(["red shirt cotton"], size=100, min_count=1)
    return Featurizer(vocabulary, encoder, clips, image_size=32, max_tokens=4, max_pictures=3)


def product(number: int, image: bytes | None = None, **texts: str) -> Row:
    picture = None if image is None else {"bytes": image, "path": None}
    return (
        {"product_id": f"p{number}"} | dict.fromkeys(TEXT_COLUMNS) | texts | {"images": picture and [picture]}
    )


def test_texts(featurizer: Featurizer) -> None:
    rows = [
        product(0, title="Red SHIRT", material="cotton"),
        product(1, title="shirt", description="of a great many red words"),
        product(2, title="—"),
    ]
    items, broken = featurizer.featurize_rows("products", rows)
    red, shirt, cotton = featurizer.vocabulary.encode(["red", "shirt", "cotton"], 1)[:, 0].tolist()
    assert items.tokens[0].tolist() == [red, shirt, cotton, PAD]
    assert items.tokens[1, 0] == shirt and not {PAD, UNKNOWN} & set(items.tokens[1].tolist()), (
        "cut, no padding"
    )
    assert items.tokens[2].tolist() == [PAD] * 4
    assert items.present[:, 0].tolist() == [True, True, False]
    assert (items.ids.tolist(), broken) == (["p0", "p1", "p2"], {})
    assert not items.has_image.any()
    assert (items.images == 0).all()


def test_prompts_by_role(featurizer: Featurizer, tmp_path: Path) -> None:
    """The prompt is split with the text: here it keeps the first piece of the text from being a start."""
    featurizer.prompts = {"query": "cotton"}
    featurizer.save(tmp_path)
    query = {"query_id": "a", "text": "red", "split": "test", "segment": None, "image": None}
    loaded = Featurizer.load(tmp_path)
    queries, _ = loaded.featurize_rows("queries", [query])
    products, _ = loaded.featurize_rows("products", [product(0, title="red")])
    expected = featurizer.vocabulary.encode(["red"], 4, "cotton")
    assert np.array_equal(queries.tokens, expected)
    assert not np.array_equal(products.tokens, expected)


def test_a_joint_encoder_reads_the_text_and_the_pictures_of_an_item(
    featurizer: Featurizer, png: Callable[..., bytes], embedders: Callable[..., Path], tmp_path: Path
) -> None:
    joint = JointEncoder.pretrained(f"st:{embedders('qwen3_vl')}", "Find it.", 8)
    pictures = [png(number) for number in range(1, 5)]
    row = product(0, title="red", material="cotton")
    row["images"] = [{"bytes": picture, "path": None} for picture in pictures]
    bare = product(1, title="red")
    assert featurizer.featurize_rows("products", [row])[0].joint.shape == (1, 0)
    featurizer.joint = joint
    products, broken = featurizer.featurize_rows("products", [row, bare, product(2), product(3, b"broken")])
    texts, galleries = ["red cotton", "red"], [pictures[:3], []]
    np.testing.assert_allclose(products.joint[:2], joint.encode(texts, galleries, "product")[0], atol=1e-3)
    assert products.joint.dtype == np.float16
    assert products.present[:, MODALITIES.index("joint")].tolist() == [True, True, False, False]
    assert list(broken) == [3]

    query = {"query_id": "a", "text": "red", "split": "test", "segment": None}
    query["image"] = {"bytes": pictures[0], "path": None}
    featurizer.save(tmp_path)
    (tmp_path / "copy").mkdir()
    copy_featurizer(tmp_path, tmp_path / "copy")
    loaded = Featurizer.load(tmp_path / "copy")
    queries, _ = loaded.featurize_rows("queries", [query])
    expected = joint.encode(["red"], [pictures[:1]], "query")[0]
    np.testing.assert_allclose(queries.joint, expected, atol=1e-3)
    assert Featurizer.load(tmp_path, with_joint=False).joint is None


def test_sides(featurizer: Featurizer) -> None:
    items, _ = featurizer.featurize_rows(
        "products", [product(n, title="a") for n in range(3)], {"p1": "test"}
    )
    assert items.splits.tolist() == ["train", "test", "train"]


def test_queries(featurizer: Featurizer, png: Callable[..., bytes]) -> None:
    photo = {"bytes": png(1), "path": None}
    rows = [
        {"query_id": "a", "text": "red", "split": "valid", "segment": None, "image": None},
        {"query_id": "b", "text": None, "split": "test", "segment": "photo", "image": photo},
    ]
    items, _ = featurizer.featurize_rows("queries", rows)
    assert items.splits.tolist() == ["valid", "test"]
    assert items.segments.tolist() == ["", "photo"]
    assert items.has_image.tolist() == [False, True]
    assert items.tokens[:, 0].tolist() == [featurizer.vocabulary.encode(["red"], 1)[0, 0], PAD]


def test_unusable_pictures_count_as_missing(featurizer: Featurizer, png: Callable[..., bytes]) -> None:
    good = png(0)
    pictures = [good, b"", good[:200], None, b"not a picture", good]
    items, broken = featurizer.featurize_rows(
        "products", [product(n, image) for n, image in enumerate(pictures)]
    )
    assert broken.keys() == {1, 2, 4}
    assert all(broken.values()), "each with its reason"
    assert items.has_image.tolist() == [True, False, False, False, False, True]
    assert (items.images[~items.has_image] == 0).all()
    assert (items.images[items.has_image] != 0).any(1).all()


def test_a_picture_without_bytes_is_missing(featurizer: Featurizer) -> None:
    row = product(0, title="a") | {"images": [{"bytes": None, "path": "elsewhere.png"}]}
    items, broken = featurizer.featurize_rows("products", [row])
    assert not items.has_image[0]
    assert not broken


def test_neighbours_have_no_influence(featurizer: Featurizer, png: Callable[..., bytes]) -> None:
    gaps = {3, BATCH, BATCH + 1}
    images = [None if n in gaps else b"broken" if n == 5 else png(n) for n in range(BATCH + 7)]
    rows = [product(n, image) for n, image in enumerate(images)]
    together, _ = featurizer.featurize_rows("products", rows)
    for n in (0, 4, 6, BATCH - 1, BATCH + 2, len(rows) - 1):
        single, _ = featurizer.featurize_rows("products", [rows[n]])
        np.testing.assert_allclose(together.images[n], single.images[0], atol=5e-3, rtol=5e-3)
    distinct = len(np.unique(together.images, axis=0))
    assert distinct == len(rows) - len(gaps), "broken and missing pictures are both zero"


def test_stored_pictures_are_the_input_of_the_encoder(
    featurizer: Featurizer, png: Callable[..., bytes]
) -> None:
    pictures = [png(seed) for seed in range(BATCH + 1)]
    rows = [product(n, image) for n, image in enumerate([None, *pictures, b"not a picture"])]
    items, _ = featurizer.featurize_rows("products", rows, keep_pictures=True)
    assert [picture is not None for picture in items.pictures] == items.has_image.tolist()
    assert items.pictures[1].shape == (1, 32, 32, 3) and items.pictures[1].dtype == np.uint8
    images, regions = featurizer.encode_pictures(items.pictures[BATCH + 1], BATCH)
    assert np.array_equal(images[0], items.images[BATCH + 1])
    assert np.array_equal(regions[0], items.regions[BATCH + 1])
    without, _ = featurizer.featurize_rows("products", rows)
    assert not any(picture is not None for picture in without.pictures)


def test_the_pictures_of_a_gallery_are_encoded_like_main_pictures(
    featurizer: Featurizer, png: Callable[..., bytes]
) -> None:
    pictures = [{"bytes": png(seed), "path": None} for seed in range(5)]
    broken = {"bytes": b"not a picture", "path": None}
    galleries = [pictures, [broken, *pictures[1:3]], pictures[:1], None, [broken]]
    rows = [product(number) | {"images": gallery} for number, gallery in enumerate(galleries)]
    items, reasons = featurizer.featurize_rows("products", rows, keep_pictures=True)
    single, _ = featurizer.featurize_rows("products", [product(n, png(n)) for n in range(5)])
    assert items.picture_counts.tolist() == [3, 2, 1, 0, 0]  # max_pictures is 3; the broken ones count
    assert list(reasons) == [1, 4]
    features, _ = items.pad_galleries()
    for row, numbers in enumerate([[0, 1, 2], [1, 2], [0]]):
        np.testing.assert_allclose(
            features[row, : len(numbers)], single.images[numbers], rtol=2e-3, atol=2e-3
        )
    np.testing.assert_allclose(items.regions[1], single.regions[1], rtol=2e-3, atol=2e-3)
    encoded = featurizer.reencode_pictures(replace(items, images=0 * items.images, regions=0 * items.regions))
    np.testing.assert_allclose(encoded.pad_galleries()[0], features, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(encoded.regions, items.regions, rtol=2e-3, atol=2e-3)


def test_whole_table(featurizer: Featurizer, tiny_data: Path, tiny_tables: dict[str, list[Row]]) -> None:
    products, queries = (featurizer.featurize_table(tiny_data, table) for table in ("products", "queries"))
    assert products.ids.tolist() == [row["product_id"] for row in tiny_tables["products"]]
    assert queries.ids.tolist() == [row["query_id"] for row in tiny_tables["queries"]]
    assert products.has_image.tolist() == [row["images"] is not None for row in tiny_tables["products"]]


def test_empty_table(
    featurizer: Featurizer,
    tiny_tables: dict[str, list[Row]],
    write_data: Callable[[dict[str, list[Row]]], Path],
) -> None:
    data = write_data(tiny_tables | {"queries": []})
    assert len(featurizer.featurize_table(data, "queries")) == 0


def test_survives_saving(featurizer: Featurizer, png: Callable[..., bytes], tmp_path: Path) -> None:
    featurizer.save(tmp_path)
    rows = [product(0, png(0), title="red shirt"), product(1, png(1)), product(2, title="cotton")]
    before, _ = featurizer.featurize_rows("products", rows)
    after, _ = Featurizer.load(tmp_path).featurize_rows("products", rows)
    assert np.array_equal(before.tokens, after.tokens)
    assert np.array_equal(before.images, after.images)


@pytest.mark.parametrize("installed", [True, False])
def test_a_query_is_encoded_by_the_runtime_of_the_products(
    encoder: ImageEncoder,
    png: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    installed: bool,
) -> None:
    vocabulary, clips = Vocabulary.learn(["red"], size=100, min_count=1), ClipReader("conv3d", 4, {})
    featurizer = Featurizer(vocabulary, encoder, clips, 32, 4, 3, runtime="openvino")
    featurizer.save(tmp_path)
    assert json.loads((tmp_path / SETTINGS).read_text())["runtime"] == "openvino"
    if not installed:
        monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    served = Featurizer.load(tmp_path)
    rows = [product(number, png(number)) for number in range(3)]
    before, after = (reader.featurize_rows("products", rows)[0].images for reader in (featurizer, served))
    np.testing.assert_allclose(before, after, atol=2e-3, rtol=1e-3)
    assert served.session.name == ("openvino" if installed else "torch")
    assert np.array_equal(before, after) == installed
    assert len(capsys.readouterr().err.splitlines()) == (not installed)


class TestTextOnPictures:
    def test_goes_before_the_description_and_each_line_once(
        self, featurizer: Featurizer, png: Callable[..., bytes], widths: str
    ) -> None:
        featurizer.ocr, featurizer.max_tokens = widths, 64
        gallery = [{"bytes": png(width, width), "path": None} for width in (48, 64, 90, 100)]
        row = product(0, title="red", description="shirt") | {"images": gallery}
        items, _ = featurizer.featurize_rows("products", [row, product(1, png(1, 30), title="red")])
        assert items.ocr.tolist() == ["48 pixels wide 64 pixels 90 pixels", ""], "max_pictures is 3"
        expected = ["red 48 pixels wide 64 pixels 90 pixels shirt", "red"]
        assert np.array_equal(items.tokens, featurizer.vocabulary.encode(expected, 64))

    def test_without_a_usable_picture_is_empty(
        self, featurizer: Featurizer, png: Callable[..., bytes], widths: str
    ) -> None:
        featurizer.ocr = widths
        rows = [product(n, image, title="red") for n, image in enumerate([None, b"broken", png(0, 50)])]
        items, broken = featurizer.featurize_rows("products", rows)
        assert items.ocr.tolist() == ["", "", "50 pixels wide"]
        assert list(broken) == [1]

    def test_is_not_read_of_queries_or_without_a_reader(
        self, featurizer: Featurizer, png: Callable[..., bytes], widths: str
    ) -> None:
        row = product(0, png(0), title="red")
        plain, _ = featurizer.featurize_rows("products", [row])
        featurizer.ocr = widths
        photo = {"bytes": png(1), "path": None}
        query = {"query_id": "a", "text": "red", "split": "test", "segment": None, "image": photo}
        queries, _ = featurizer.featurize_rows("queries", [query])
        for items in (plain, queries):
            assert items.ocr.tolist() == [None]
            assert np.array_equal(items.tokens, featurizer.vocabulary.encode(["red"], 4))

    def test_of_unknown_letters_is_for_keyword_search_alone(
        self,
        featurizer: Featurizer,
        png: Callable[..., bytes],
        widths: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The vocabulary has the letters of "red shirt cotton"."""
        featurizer.ocr = widths
        monkeypatch.setattr(type(open_reader(widths)), "__call__", lambda *_: ["红色 red", "rest"])
        items, _ = featurizer.featurize_rows("products", [product(0, png(0), title="shirt")])
        assert items.ocr.tolist() == ["红色 red rest"]
        assert np.array_equal(items.tokens, featurizer.vocabulary.encode(["shirt red rest"], 4))

    def test_is_read_after_loading(
        self, featurizer: Featurizer, png: Callable[..., bytes], widths: str, tmp_path: Path
    ) -> None:
        featurizer.ocr = widths
        featurizer.save(tmp_path)
        rows = [product(0, png(0, 50), title="red")]
        before, after = (
            reader.featurize_rows("products", rows)[0] for reader in (featurizer, Featurizer.load(tmp_path))
        )
        assert before.ocr.tolist() == after.ocr.tolist() == ["50 pixels wide"]
        assert np.array_equal(before.tokens, after.tokens)


@pytest.mark.parametrize(("runtime_name", "precision"), [("torch", "bf16"), ("openvino", "float32")])
def test_a_query_is_encoded_in_the_precision_of_the_products(
    encoder: ImageEncoder,
    png: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime_name: str,
    precision: str,
) -> None:
    """OpenVINO ignores bfloat16; where it is missing, PyTorch must not use it either."""
    vocabulary, clips = Vocabulary.learn(["red"], size=100, min_count=1), ClipReader("conv3d", 4, {})
    featurizer = Featurizer(vocabulary, encoder, clips, 32, 4, 3, runtime=runtime_name, precision="bf16")
    featurizer.save(tmp_path)
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    served = Featurizer.load(tmp_path)
    assert (served.session.name, served.session.precision) == ("torch", precision)
    rows = [product(number, png(number)) for number in range(3)]
    before, after = (reader.featurize_rows("products", rows)[0].images for reader in (featurizer, served))
    np.testing.assert_allclose(before, after, atol=2e-3, rtol=1e-3)


def test_clips(featurizer: Featurizer, png: Callable[..., bytes]) -> None:
    def clip(*frames: bytes) -> list[dict[str, Any]]:
        return [{"bytes": frame, "path": None} for frame in frames]

    good = [png(seed) for seed in range(6)]
    clips = [clip(*good), None, [], clip(*good[:2], b"not a picture", *good[3:]), clip(good[0])]
    rows = [product(n, title="red") | {"video": video} for n, video in enumerate(clips)]
    items, broken = featurizer.featurize_rows("products", rows)
    assert items.present[:, 2].tolist() == [True, False, False, False, True]
    assert list(broken) == [3] and broken[3].startswith("frame 2 of its clip: ")
    assert np.array_equal(items.videos[0], featurizer.clips.read(good))
    assert items.videos[4].shape == items.videos[0].shape
