"""The vector of a product has the same bytes, whatever products are encoded with it and in whatever order."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catalog.schema import TEXT_COLUMNS
from fusion import features
from fusion.encoders.image import ImageEncoder
from fusion.encoders.joint import JointEncoder
from fusion.encoders.text import TextEncoderInit
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import MODALITIES
from fusion.featurizer import Featurizer
from fusion.model import ModelConfig, ProductSearchModel, embed

COUNT, MAX_TOKENS = 12, 12
WORDS = "red shirt blue shoe tangerine a, "
DIM = 16
SIZES = ((24, 32), (60, 32))
ROWS = st.lists(st.integers(0, COUNT - 1), min_size=1, unique=True)


def draw_picture(rng: np.random.Generator, size: tuple[int, int]) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def draw_products() -> list[dict[str, Any]]:
    """Products with texts of different lengths, none to four pictures, and some clips; a few lack a modality."""
    rng = np.random.default_rng(0)
    words = WORDS.split()
    products = []
    for number in range(COUNT):
        title = " ".join(rng.choice(words, int(rng.integers(1, 14))))
        pictures = [draw_picture(rng, SIZES[number % 2]) for _ in range(number % 5)]
        clip = [draw_picture(rng, (32, 32)) for _ in range(3)] if number % 3 == 0 else None
        texts: dict[str, Any] = dict.fromkeys(TEXT_COLUMNS) | {"title": title if number % 4 else "—"}
        products.append({"product_id": str(number), "images": pictures, "video": clip} | texts)
    return products


PRODUCTS = draw_products()


def build(
    encoder: ImageEncoder, text: TextEncoderInit, fusion: str, runtime: str
) -> tuple[Featurizer, ProductSearchModel]:
    """A featurizer and an untrained model."""
    vocabulary = text.vocabulary or Vocabulary.learn([WORDS], size=100, min_count=1)
    featurizer = Featurizer(
        vocabulary, encoder, ClipReader("conv3d", 4, {}), 32, MAX_TOKENS, 4, text.prompts, runtime
    )
    torch.manual_seed(0)
    config = ModelConfig(
        len(vocabulary), encoder.width, encoder.region_width, fusion=fusion, dim=DIM, hidden=32,
        text_encoder=text.encoder, text_settings=text.settings, video_encoder="conv3d", entities=["color"],
    )  # fmt: skip
    model = ProductSearchModel(config).eval()
    model.text.load_published(text.state)
    return featurizer, model


def encode(featurizer: Featurizer, model: ProductSearchModel, rows: list[int]) -> list[bytes]:
    """The features, the vector, and the vector without each modality of each product, as bytes."""
    items, broken = featurizer.featurize_rows("products", [PRODUCTS[row] for row in rows])
    assert not broken
    vectors = [embed(model, items, "product")]
    vectors += [embed(model, items.without(name), "product") for name in MODALITIES[:3]]
    features = [items.tokens, items.images, items.regions]
    ragged = [
        [b"" if array is None else array.tobytes() for array in values]
        for values in (items.galleries, items.videos)
    ]
    return [
        b"".join(array[row].tobytes() for array in (*features, *vectors))
        + b"".join(values[row] for values in ragged)
        for row in range(len(rows))
    ]


def check_independence(encode_rows: Callable[[list[int]], list[bytes]], examples: int) -> None:
    """Encode random subsets of `PRODUCTS` in random order, and compare the bytes."""
    expected = encode_rows([*range(COUNT)])
    assert len(set(expected)) == COUNT, "the products differ, so the test is valid"

    @settings(max_examples=examples, deadline=None)
    @given(ROWS)
    def check(rows: list[int]) -> None:
        assert encode_rows(rows) == [expected[row] for row in rows]

    check()


def test_features_and_vectors_depend_on_the_product_alone(encoder: ImageEncoder) -> None:
    featurizer, model = build(encoder, TextEncoderInit.from_name("bilstm", MAX_TOKENS), "attention", "torch")
    check_independence(partial(encode, featurizer, model), examples=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "runtime", "fusion"),
    [
        ("bilstm", "openvino", "concat"),
        ("hf", "openvino", "gated"),
        ("hf", "torch", "coattention"),
        ("hf", "torch", "concat"),
    ],
)
def test_so_do_those_of_each_encoder_runtime_and_fusion(
    kind: str, runtime: str, fusion: str, encoder: ImageEncoder, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        features, "TOKEN_STEP", 4
    )  # several lengths of the few tokens that this encoder reads
    name = kind if kind == "bilstm" else f"{kind}:{bert}"
    featurizer, model = build(encoder, TextEncoderInit.from_name(name, MAX_TOKENS), fusion, runtime)
    check_independence(partial(encode, featurizer, model), examples=5)


@pytest.mark.slow
def test_joint_vectors_depend_on_the_product_alone(embedders: Callable[..., Path]) -> None:
    encoder = JointEncoder.pretrained(f"st:{embedders('qwen3_vl')}")

    def encode_rows(rows: list[int]) -> list[bytes]:
        texts = [PRODUCTS[row]["title"] for row in rows]
        galleries = [[picture["bytes"] for picture in PRODUCTS[row]["images"]] for row in rows]
        return [vector.tobytes() for vector in encoder.encode(texts, galleries, "product")[0]]

    check_independence(encode_rows, examples=3)
