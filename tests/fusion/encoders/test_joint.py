"""Multimodal embedders: one vector from a text and pictures, as Sentence Transformers computes it."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from sentence_transformers import SentenceTransformer

from catalog.images import PictureError, read_size
from catalog.schema import DataError
from fusion.encoders.joint import JointEncoder, group_by_length

KINDS = ("qwen2_vl", "qwen3_vl")
EXACT = {"atol": 1e-5, "rtol": 0.0}
SIZES = [(60, 40), (30, 100), (200, 300), (48, 48)]


def draw(size: tuple[int, int], seed: int) -> bytes:
    """A PNG of coloured squares."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def read(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture)).convert("RGB")


PICTURES = [draw(size, seed) for seed, size in enumerate(SIZES)]
TEXTS = ["red shirt", "", "a blue dress, with dots " * 4, "navy", "红色 连衣裙", "x"]
GALLERIES = [[], PICTURES[:1], PICTURES[1:3], [], PICTURES[3:], PICTURES]


@pytest.fixture(scope="module")
def encoders(embedders: Callable[..., Path]) -> Callable[[str], JointEncoder]:
    encoders: dict[str, JointEncoder] = {}

    def load(kind: str) -> JointEncoder:
        if kind not in encoders:
            encoders[kind] = JointEncoder.pretrained(f"st:{embedders(kind)}")
        return encoders[kind]

    return load


@pytest.fixture(scope="module")
def encoder(encoders: Callable[[str], JointEncoder]) -> JointEncoder:
    return encoders("qwen3_vl")


def to_inputs(texts: list[str], galleries: list[list[bytes]]) -> list[dict[str, Any]]:
    """Items as the library's own API reads them."""
    return [
        {
            **({"image": [read(picture) for picture in gallery]} if gallery else {}),
            **({"text": text} if text else {}),
        }
        for text, gallery in zip(texts, galleries, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_sentence_transformers(
    kind: str, encoders: Callable[[str], JointEncoder], embedders: Callable[..., Path]
) -> None:
    library = SentenceTransformer(str(embedders(kind)), device="cpu", model_kwargs={"dtype": torch.float32})
    inputs = to_inputs(TEXTS, GALLERIES)
    vectors, broken = encoders(kind).encode(TEXTS, GALLERIES, "product")
    np.testing.assert_allclose(vectors, library.encode_document(inputs), **EXACT)
    queries, _ = encoders(kind).encode(TEXTS, GALLERIES, "query")
    np.testing.assert_allclose(queries, library.encode_query(inputs), **EXACT)
    assert not broken
    differences = np.linalg.norm(vectors[:, None] - vectors, axis=2) + np.eye(len(TEXTS))
    assert differences.min() > 0.02, "the model distinguishes the items, so the test is valid"
    assert np.linalg.norm(vectors - queries, axis=1).min() > 0.02, "and so do its prompts"


def test_the_instruction_replaces_the_prompt_of_queries_alone(embedders: Callable[..., Path]) -> None:
    folder = embedders("qwen3_vl")
    instructed = JointEncoder.pretrained(f"st:{folder}", instruction="Find shoes.")
    library = SentenceTransformer(str(folder), device="cpu")
    inputs = to_inputs(TEXTS, GALLERIES)
    expected = library.encode_query(inputs, prompt="Find shoes.")
    np.testing.assert_allclose(instructed.encode(TEXTS, GALLERIES, "query")[0], expected, **EXACT)
    expected = library.encode_document(inputs)
    np.testing.assert_allclose(instructed.encode(TEXTS, GALLERIES, "product")[0], expected, **EXACT)


def test_shorter_vectors_are_the_first_components_normalised(
    encoder: JointEncoder, embedders: Callable[..., Path], tmp_path: Path
) -> None:
    short = JointEncoder.pretrained(f"st:{embedders('qwen3_vl')}", dim=8)
    vectors = encoder.encode(TEXTS, GALLERIES, "product")[0][:, :8]
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode(TEXTS, GALLERIES, "product")[0], expected, **EXACT)
    assert (encoder.width, short.width) == (32, 8)
    with pytest.raises(DataError, match=r"featurize\.joint_dim: 64, but .* have 32 components"):
        JointEncoder.pretrained(f"st:{embedders('qwen3_vl')}", dim=64)


def test_a_saved_encoder_gives_the_same_vectors(embedders: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(embedders("qwen3_vl"), tmp_path / "published")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "modeling.py").write_text("raise AssertionError")
    encoder = JointEncoder.pretrained(f"st:{folder}", "Find shoes.", 8)
    encoder.save(tmp_path / "joint")
    shutil.rmtree(folder)
    loaded = JointEncoder.load(tmp_path / "joint", json.loads(json.dumps(encoder.settings)))
    for role in ("query", "product"):
        vectors = encoder.encode(TEXTS, GALLERIES, role)[0]
        np.testing.assert_array_equal(loaded.encode(TEXTS, GALLERIES, role)[0], vectors)
    saved = {
        path.relative_to(tmp_path / "joint") for path in (tmp_path / "joint").rglob("*") if path.is_file()
    }
    published = embedders("qwen3_vl")
    assert saved == {path.relative_to(published) for path in published.rglob("*") if path.is_file()}
    for path in saved:
        assert (tmp_path / "joint" / path).read_bytes() == (published / path).read_bytes()


def test_adapters_are_refused(embedders: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(embedders("qwen3_vl"), tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    with pytest.raises(DataError, match="it is an adapter of another model"):
        JointEncoder.pretrained(f"st:{folder}")


@given(lengths=st.lists(st.integers(0, 50)), budget=st.integers(1, 120))
def test_batches_hold_each_item_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(group_by_length(lengths, budget))
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == [row for row, length in enumerate(lengths) if length]
    assert [lengths[row] for row in rows] == sorted((lengths[row] for row in rows), reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget


@hypothesis_settings(max_examples=12)
@given(data=st.data())
def test_vectors_do_not_depend_on_the_batches(encoder: JointEncoder, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(TEXTS))))
    budget = data.draw(st.integers(1, 1000))
    expected, _ = encoder.encode(TEXTS, GALLERIES, "product")
    usual, encoder.budget = encoder.budget, budget
    try:
        texts, galleries = [TEXTS[row] for row in order], [GALLERIES[row] for row in order]
        vectors, _ = encoder.encode(texts, galleries, "product")
    finally:
        encoder.budget = usual
    np.testing.assert_allclose(vectors, expected[list(order)], **EXACT)


def test_half_precision_gives_unit_vectors_in_the_same_directions(
    encoder: JointEncoder, embedders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, here on the CPU."""
    folder = embedders("qwen3_vl")
    family = "fusion.encoders.families.sentence_transformers_models"
    monkeypatch.setattr(f"{family}.choose_device", lambda: ("cpu", torch.bfloat16))
    half = JointEncoder.pretrained(f"st:{folder}")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    vectors, expected = (each.encode(TEXTS, GALLERIES, "product")[0] for each in (half, encoder))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert ((vectors * expected).sum(1) > 0.99).all()


def test_threads_share_an_encoder(encoder: JointEncoder) -> None:
    expected, _ = encoder.encode(TEXTS, GALLERIES, "query")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: encoder.encode(TEXTS, GALLERIES, "query")[0], range(6)))
    for vectors in results:
        np.testing.assert_array_equal(vectors, expected)


def test_lengths_are_those_of_the_library(encoder: JointEncoder) -> None:
    for role in ("query", "product"):
        for text, gallery, content in zip(TEXTS, GALLERIES, to_inputs(TEXTS, GALLERIES), strict=True):
            prompt = encoder.model.prompts["query" if role == "query" else "document"]
            length = encoder.model.preprocess([content], prompt=prompt)["input_ids"].shape[1]
            assert length <= encoder.lengths.estimate(text, gallery, role) <= length + 1


def test_an_item_without_content_has_no_vector(encoder: JointEncoder) -> None:
    vectors, broken = encoder.encode(["", " ", "red"], [[], [], []], "query")
    np.testing.assert_array_equal(vectors.any(1), [False, False, True])
    assert not broken
    assert encoder.encode([], [], "query")[0].shape == (0, 32)


def test_broken_and_refused_pictures_count_as_missing(encoder: JointEncoder) -> None:
    truncated, narrow = PICTURES[2][:200], draw((1, 400), 9)
    assert read_size(truncated) == SIZES[2], "only its pixels are broken"
    texts = ["red shirt", "", "", "red shirt"]
    galleries = [[b"text", *PICTURES[:1]], [truncated], [narrow], PICTURES[:1]]
    vectors, broken = encoder.encode(texts, galleries, "product")
    np.testing.assert_allclose(vectors[0], vectors[3], **EXACT)
    assert not vectors[1:3].any()
    assert sorted(broken) == [0, 1, 2]
    assert broken[0].startswith("not a JPEG")
    assert broken[1].startswith("broken")
    assert "1 × 400 pixels, which the joint encoder refuses" in broken[2]


def test_pictures_pass_the_limits_of_every_picture(
    encoder: JointEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: bytes) -> None:
        raise PictureError("too large")

    monkeypatch.setattr("fusion.encoders.joint.decode", refuse)
    vectors, broken = encoder.encode([""], [PICTURES[:1]], "query")
    assert not vectors.any()
    assert broken == {0: "too large"}


def test_an_item_that_is_too_long_loses_its_last_pictures_and_the_end_of_its_text(
    embedders: Callable[..., Path],
) -> None:
    encoder = JointEncoder.pretrained(f"st:{embedders('qwen3_vl', 70)}")
    room = 70 - encoder.lengths.measure_frame("product")
    assert (
        8 < encoder.lengths.measure_picture(SIZES[0]) < room < 3 * encoder.lengths.measure_picture(SIZES[2])
    )
    text = "a blue dress, with dots " * 8
    vectors, _ = encoder.encode(
        [text, text, ""], [PICTURES[:1], [*PICTURES[:1], *PICTURES[2:3] * 3], []], "product"
    )
    np.testing.assert_allclose(vectors[0], vectors[1], **EXACT)
    fitted = encoder.lengths.fit(text, [read(PICTURES[0])], "product")
    assert text.startswith(fitted["text"])
    prompt = encoder.model.prompts["document"]
    batch = encoder.model.preprocess([fitted], prompt=prompt)
    ending = encoder.model.tokenizer.decode(batch["input_ids"][0][-12:])
    assert ending.endswith("<|im_start|>assistant\n<think>"), "so the last token is that of the template"
    np.testing.assert_allclose(vectors[0], encoder.model.encode_document(fitted), **EXACT)


def test_a_long_text_alone_is_cut_as_the_library_cuts_it(embedders: Callable[..., Path]) -> None:
    folder = embedders("qwen3_vl", 70)
    text = "a blue dress, with dots " * 20
    vectors, _ = JointEncoder.pretrained(f"st:{folder}").encode([text.strip()], [[]], "product")
    library = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(vectors, library.encode_document([{"text": text.strip()}]), **EXACT)
    assert len(library.tokenizer(text)["input_ids"]) > 70


def test_a_text_that_looks_like_an_address_is_a_text(
    encoder: JointEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shirt.png").write_bytes(PICTURES[0])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a text was opened")

    monkeypatch.setattr("transformers.image_utils.load_image", refuse)
    texts = [str(tmp_path / "shirt.png"), "https://example.org/shirt.png", "data:image/png;base64,AAAA"]
    vectors, broken = encoder.encode(texts, [[], PICTURES[:1], []], "product")
    assert vectors.any(1).all()
    assert not broken


def test_dual_encoders_are_no_joint_encoders(tmp_path: Path) -> None:
    import transformers
    from sentence_transformers.base.modules import Transformer

    config = transformers.CLIPConfig(
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1},
        projection_dim=8,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer = transformers.CLIPTokenizerFast(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    transformers.CLIPProcessor(transformers.CLIPImageProcessor(), tokenizer).save_pretrained(
        tmp_path / "clip"
    )
    SentenceTransformer(modules=[Transformer(str(tmp_path / "clip"))]).save(str(tmp_path / "st"))
    with pytest.raises(
        DataError, match=r"featurize\.joint_encoder: .* does not read text and pictures together"
    ):
        JointEncoder.pretrained(f"st:{tmp_path / 'st'}")


def test_names_of_joint_encoders_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown joint encoder 'timm:x'; known are st:PATH"):
        JointEncoder.pretrained("timm:x")
    with pytest.raises(DataError, match=r"featurize\.joint_encoder: the folder .* it lacks modules\.json"):
        JointEncoder.pretrained(f"st:{tmp_path}")


def test_a_missing_package_is_one_clear_error(
    embedders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embedders("qwen3_vl")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DataError, match=r"sentence_transformers is not installed.*vitrine\[encoders\]"):
        JointEncoder.load(folder, {})


def test_pickles_and_code_of_an_embedder_are_refused(embedders: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(embedders("qwen3_vl"), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"lacks .*model\.safetensors"):
        JointEncoder.pretrained(f"st:{folder}")
    shutil.copy(embedders("qwen3_vl") / "model.safetensors", folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "hostile.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(DataError, match=r"hostile\.Pooling is not part of Sentence Transformers"):
        JointEncoder.pretrained(f"st:{folder}")
    shutil.copytree(embedders("qwen3_vl"), folder, dirs_exist_ok=True)
    shutil.move(folder / "1_Pooling", tmp_path / "1_Pooling")
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace("1_Pooling", "../1_Pooling"))
    with pytest.raises(DataError, match=r"its module \.\./1_Pooling is outside of the folder"):
        JointEncoder.pretrained(f"st:{folder}")
