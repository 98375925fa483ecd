import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from catalog.images import decode
from catalog.sample.pictures import Label, draw_picture, encode_webp
from catalog.sample.words import LABELS
from catalog.schema import DataError
from fusion.encoders import ocr
from fusion.encoders.ocr import MIN_CONFIDENCE, SIDE, RapidOcr, open_reader


def refuse_downloads(*_: Any) -> None:
    raise AssertionError("a download")


@pytest.fixture(scope="module")
def reader() -> RapidOcr:
    """The real one; an attempt to download anything fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rapidocr.utils.download_file.DownloadFile.run", refuse_downloads)
        return RapidOcr()


@pytest.fixture
def draw() -> Callable[..., Image.Image]:
    """A grey picture with lines of black letters."""

    def draw_lines(*lines: str, side: int = 96, size: int = 18) -> Image.Image:
        picture = Image.new("RGB", (side, side), (210, 214, 218))
        for number, line in enumerate(lines):
            place = (side // 16, side // 4 * (number + 1))
            ImageDraw.Draw(picture).text(place, line, "black", ImageFont.load_default(size))
        return picture

    return draw_lines


def test_words_on_a_picture_are_read_from_top_to_bottom(
    reader: RapidOcr, draw: Callable[..., Image.Image]
) -> None:
    assert reader(draw("VONDRA", "MELISU")) == ["VONDRA", "MELISU"]


def test_a_large_picture_is_scaled_and_stays_as_it_is(
    reader: RapidOcr, draw: Callable[..., Image.Image]
) -> None:
    large = draw("KASTOR 45", side=3 * SIDE, size=260)
    before = large.tobytes()
    assert reader(large) == ["KASTOR 45"]
    assert large.tobytes() == before


@pytest.mark.parametrize("size", [(1, 1), (96, 96), (2000, 3), (31, 33)])
def test_a_picture_without_text_has_no_lines(reader: RapidOcr, size: tuple[int, int]) -> None:
    assert reader(Image.new("RGB", size, "navy")) == []


def test_labels_of_the_sample_are_read(reader: RapidOcr) -> None:
    """One of each word, on products with patterns."""
    misread = []
    for number, word in enumerate(LABELS):
        rng, place = (np.random.default_rng([number, stream]) for stream in (0, 1))
        picture = draw_picture(number, number % 10, 1 + number % 4, rng, label=Label(number, place))
        if reader(decode(encode_webp(picture))) != [word.upper()]:
            misread.append(word)
    assert len(misread) <= 1


def test_threads_read_the_same(reader: RapidOcr, draw: Callable[..., Image.Image]) -> None:
    words = ["FENIDA", "ORSUKA", "TIMBEL", "GADURO"] * 3
    pictures = [draw(word) for word in words]
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(reader, pictures)] == [reader(picture) for picture in pictures]
    assert [reader(picture) for picture in pictures] == [[word] for word in words]


def test_uncertain_lines_and_single_characters_are_left_out(
    reader: RapidOcr, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = SimpleNamespace(
        txts=("ＰＯＲＴＡ", "doubtful", "O", "4 !", "№ 7"),
        scores=(MIN_CONFIDENCE, MIN_CONFIDENCE - 0.01, 1.0, 1.0, 1.0),
    )
    monkeypatch.setattr(reader, "_read", lambda picture: result)
    assert reader(draw()) == ["PORTA", "No 7"]


@pytest.mark.parametrize(
    ("packages", "missing"),
    [(["rapidocr"], "rapidocr"), (["openvino", "onnxruntime"], "openvino")],
    ids=["reader", "engines"],
)
def test_a_missing_package_is_named(
    packages: list[str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    open_reader.cache_clear()
    message = rf"featurize\.ocr: {missing} is not installed; .*pip install 'vitrine\[ocr\]'"
    with pytest.raises(DataError, match=message):
        open_reader("rapidocr")


def test_a_reader_that_does_not_work_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: str) -> None:
        raise RuntimeError(f"no network\nfor {engine}")

    monkeypatch.setattr(ocr, "_load_rapidocr", fail)
    with pytest.raises(
        DataError, match=r"rapidocr does not work here \(RuntimeError: no network for openvino\)"
    ):
        RapidOcr()
    misread = SimpleNamespace(txts=("WRONG",), scores=(1.0,))
    monkeypatch.setattr(ocr, "_load_rapidocr", lambda engine: lambda picture: misread)
    with pytest.raises(DataError, match="reads 'VITRINE' as 'WRONG' in openvino"):
        RapidOcr()


@pytest.mark.slow
def test_the_other_engine_reads_the_same(
    reader: RapidOcr, draw: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(ocr, "ENGINES", ("onnxruntime",))
    other = RapidOcr()
    assert (reader.engine, other.engine) == ("openvino", "onnxruntime")
    picture = draw("SOLVENA", "100 % WOOL", side=192)
    assert other(picture) == reader(picture) == ["SOLVENA", "100 % WOOL"]


def test_noise_is_no_text(reader: RapidOcr) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert reader(Image.fromarray(noise)) == []
