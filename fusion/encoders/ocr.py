"""Readers of the text on pictures, by name: what `featurize.ocr` chooses from."""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from catalog.schema import DataError
from catalog.text import clean
from catalog.threads import cpu_count
from fusion.encoders.runtime import import_openvino
from fusion.plugin_registry import PluginRegistry

# Pixels; a larger picture is scaled to fit this square. The time grows with the area, and letters of a product's
# package are then still some ten pixels high, which the networks can read.
SIDE = 640
# On pictures of the sample without a label, one in three has a line for the networks: a stripe is an I, a wheel an O.
# With these two limits it is one in a hundred; the labels themselves have a confidence of .9 and more.
MIN_CONFIDENCE = 0.8
MIN_CHARACTERS = 2  # letters and digits of a line
ENGINES = ("openvino", "onnxruntime")  # the fastest first
EXTRA = "install it with: pip install 'vitrine[ocr]'"


class Reader(Protocol):
    """Reads the text on pictures; several threads may use it at the same time.

    Attributes:
        engine: What runs its networks. Another may read a line differently.
        packages: Distributions that it needs.
    """

    engine: str
    packages: Sequence[str]

    def __call__(self, picture: Image.Image) -> list[str]:
        """The lines on an RGB picture, from top to bottom; most pictures have none."""


READERS: PluginRegistry[Callable[[], Reader]] = PluginRegistry("reader of text on pictures")


@cache
def open_reader(name: str) -> Reader:
    """The reader of this process with one of the names of `READERS`.

    Raises:
        DataError: if its package is missing or broken.
    """
    return READERS[name]()


@READERS("rapidocr")
class RapidOcr:
    """The networks of the package rapidocr (PP-OCR): one finds lines of text, one reads them.

    The third, which turns lines that are upside down, is left out: pictures of products are upright. A picture is read
    by one thread, so that `catalog.threads.cpu_count` pictures are read at the same time.

    Raises:
        DataError: if rapidocr or what runs its networks is not installed, or it cannot read a word.
    """

    def __init__(self) -> None:
        engine = next((name for name in ENGINES if find_spec(name)), None)
        if engine is None or not find_spec("rapidocr"):
            missing = "rapidocr" if engine else "openvino"
            raise DataError(f"featurize.ocr: {missing} is not installed; {EXTRA}")
        self.engine = engine
        self.packages: Sequence[str] = ("rapidocr", engine)
        try:
            self._read = _load_rapidocr(engine)
            text = " ".join(self(_draw_word("VITRINE")))
        except Exception as error:  # of many kinds, where a file of the package is missing or broken
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"featurize.ocr: rapidocr does not work here ({type(error).__name__}: {reason}); {EXTRA}"
            ) from error
        if text != "VITRINE":
            raise DataError(f"featurize.ocr: rapidocr reads 'VITRINE' as '{text}' in {engine}; {EXTRA}")

    def __call__(self, picture: Image.Image) -> list[str]:
        """See `Reader`."""
        picture = picture.copy()
        picture.thumbnail((SIDE, SIDE))
        result = self._read(picture)
        lines = zip(result.txts or (), result.scores or (), strict=True)
        texts = [clean(text) for text, confidence in lines if confidence >= MIN_CONFIDENCE]
        return [text for text in texts if sum(map(str.isalnum, text)) >= MIN_CHARACTERS]


def _load_rapidocr(engine: str) -> Any:
    """rapidocr's pipeline with the networks of its package; without a path, it would download missing ones."""
    if engine == "openvino":
        import_openvino()
    import cv2
    import rapidocr

    cv2.setNumThreads(1)  # it would start a thread for each core of the machine, for each picture
    models = Path(rapidocr.__file__).parent / "models"
    parts = {
        f"{part}.{key}": value
        for part in ("Det", "Rec")
        for key, value in {
            "engine_type": rapidocr.EngineType(engine),
            "model_path": str(next(models.glob(f"*_{part.lower()}_*.onnx"))),
        }.items()
    }
    pipeline = rapidocr.RapidOCR(
        params={
            **parts,
            "Det.limit_type": "max",
            "Det.limit_side_len": SIDE,  # smaller pictures keep their size
            "Rec.rec_img_shape": [
                3,
                48,
                160,
            ],  # the least width of a line; half of rapidocr's, so twice as fast
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.openvino.inference_num_threads": 1,
            "Global.use_cls": False,
            "Global.use_preprocess_img": False,  # pictures fit `SIDE` already
            "Global.log_level": "error",
        }
    )
    pipeline(_draw_word("VITRINE"))  # loads both networks
    if engine == "openvino":
        part: Any
        for part in (pipeline.text_det, pipeline.text_rec):
            part.session = _ParallelNetwork(part.session.model)
    return pipeline


class _ParallelNetwork:
    """A network in OpenVINO for several threads; rapidocr's has one request, and reduced precision on some CPUs.

    Args:
        model: Of OpenVINO.
    """

    def __init__(self, model: Any) -> None:
        settings = {
            "INFERENCE_NUM_THREADS": cpu_count(),
            "NUM_STREAMS": cpu_count(),  # one thread for each request
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.network = sys.modules["openvino"].Core().compile_model(model, "CPU", settings)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """The output of the network, as rapidocr's session."""
        output: np.ndarray = self.network.infer_new_request([batch])[0]
        return output


def _draw_word(word: str) -> Image.Image:
    picture = Image.new("RGB", (192, 64), "white")
    ImageDraw.Draw(picture).text((20, 12), word, "black", ImageFont.load_default(32))
    return picture
