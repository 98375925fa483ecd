"""Published encoders equal their own libraries: tiny models with random weights, saved and read by the library."""

import copy
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import sentence_transformers
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from catalog.schema import DataError
from fusion.encoders.adapters import (
    extract_adapters,
    is_adapter,
    merge_adapters,
    published_state,
)
from fusion.encoders.families import FAMILIES, list_packages
from fusion.encoders.image import ImageEncoder
from fusion.encoders.recomputation import recompute_blocks
from fusion.encoders.runtime import OpenVinoSession, TorchSession
from fusion.encoders.text import TextEncoderInit
from fusion.encoders.text import Transformer as TransformerEncoder
from fusion.encoders.tuning import numbered_layers, tune

UNKNOWN = "<unk>"
TEXTS = ["Red shirt", "a blue dress, with dots!", "navy", "红色 连衣裙"]
TEXT = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LAYERS = {"num_hidden_layers": 2, "max_position_embeddings": 40}
NORMAL = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
EXACT = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Pictures of several shapes."""
    rng = np.random.default_rng(0)
    sizes = [(61, 40), (40, 90), (32, 32)]
    return [
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        for size in sizes
    ]


def train_tokenizer(model: Any, trainer: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXTS * 3 + [text.lower() for text in TEXTS * 3], trainer)
    return tokenizer


def sentence_piece(**options: Any) -> Any:
    """A tokenizer such as SigLIP's: an end after the text, no start."""
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token=UNKNOWN, show_progress=False
    )
    tokenizer = train_tokenizer(models.Unigram(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names | {"model_max_length": 40, "padding_side": "right"} | options
    )


def word_piece() -> Any:
    """A tokenizer such as BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=70, special_tokens=special, show_progress=False)
    tokenizer = Tokenizer(models.WordPiece(unk_token=special[1]))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainer)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def clip(folder: Path) -> None:
    text = TEXT | LAYERS | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = VISION | {"image_size": 30, "patch_size": 10}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(folder)
    word_piece().save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
    transformers.CLIPImageProcessor(**sizes, **NORMAL).save_pretrained(folder)


def siglip(folder: Path) -> None:
    config = transformers.SiglipConfig(
        text_config=TEXT | LAYERS | {"projection_size": 32},
        vision_config=VISION | {"image_size": 30, "patch_size": 10},
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    sentence_piece(model_input_names=["input_ids"]).save_pretrained(folder)
    size = {"height": 30, "width": 30}
    transformers.SiglipImageProcessor(size=size, resample=2, **NORMAL).save_pretrained(folder)


def siglip2(folder: Path) -> None:
    """A SigLIP 2 of fixed resolution has the classes of SigLIP and the tokenizer of Gemma."""
    siglip(folder)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=70, special_tokens=special, show_progress=False)
    content = json.loads(train_tokenizer(models.BPE(unk_token=UNKNOWN), trainer).to_str())["model"]
    tokenizer = transformers.Siglip2Tokenizer(
        content["vocab"],
        [tuple(pair) for pair in content["merges"]],
        model_max_length=40,
        padding_side="right",
    )
    tokenizer.save_pretrained(folder)


def chinese_clip(folder: Path) -> None:
    vision = VISION | {"image_size": 32, "patch_size": 16, "projection_dim": 12}
    config = transformers.ChineseCLIPConfig(
        text_config=TEXT | LAYERS, vision_config=vision, projection_dim=12
    )
    transformers.ChineseCLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = transformers.ChineseCLIPImageProcessor(size=size, do_center_crop=False, **NORMAL)
    transformers.ChineseCLIPProcessor(processor, word_piece()).save_pretrained(folder)


def align(folder: Path) -> None:
    vision = {
        "image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "kernel_sizes": [3, 3],
        "in_channels": [8, 8], "out_channels": [8, 12], "strides": [2, 1], "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2], "depthwise_padding": [], "hidden_dim": 12, "pooling_type": "mean",
        "initializer_range": 0.5,
    }  # fmt: skip
    config = transformers.AlignConfig(text_config=TEXT | LAYERS, vision_config=vision, projection_dim=12)
    transformers.AlignModel(config).save_pretrained(folder)
    sizes = {"size": {"height": 38, "width": 38}, "crop_size": {"height": 32, "width": 32}}
    transformers.EfficientNetImageProcessor(
        **sizes,
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        include_top=False,
        **NORMAL,
    ).save_pretrained(folder)
    word_piece().save_pretrained(folder)


def write_open_clip(folder: Path, model: dict[str, Any], preprocess: dict[str, Any]) -> None:
    content = {
        "model_cfg": model,
        "preprocess_cfg": {"mean": NORMAL["image_mean"], "std": NORMAL["image_std"]},
    }
    content["preprocess_cfg"] |= preprocess
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def open_clip_with_its_tokenizer(folder: Path) -> None:
    text = {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    write_open_clip(
        folder, {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}, {"resize_mode": "shortest"}
    )


def open_clip_like_siglip(folder: Path) -> None:
    """As Marqo publishes models: an image tower of timm, a tokenizer of transformers, two towers without projection."""
    text = {
        "context_length": 40, "vocab_size": 80, "hf_tokenizer_name": "some/name", "width": 64, "heads": 2,
        "layers": 2, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        "tokenizer_kwargs": {"clean": "canonicalize"}, "norm_kwargs": {"eps": 1e-6},
    }  # fmt: skip
    vision = {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    model = {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    sentence_piece().save_pretrained(folder)
    write_open_clip(folder, model, {"resize_mode": "squash", "interpolation": "bilinear"})


OPEN_CLIP = {
    function.__name__: function for function in (open_clip_with_its_tokenizer, open_clip_like_siglip)
}
DUAL = {function.__name__: function for function in (clip, siglip, siglip2, chinese_clip, align)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model with random weights, by the name of the function that writes it."""
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            torch.manual_seed(0)
            written[name] = tmp_path_factory.mktemp(name)
            WRITERS[name](written[name])
        return written[name]

    return write


def vit_of_timm(folder: Path) -> None:
    """As timm publishes models on the hub; settings differ from those of the name."""
    model = timm.create_model("test_vit", num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")
    settings = {
        "input_size": [3, 160, 160],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "classifier": "head",
    }
    settings |= {"mean": NORMAL["image_mean"], "std": NORMAL["image_std"], "fixed_input_size": True}
    content = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(content))


def efficientnet_of_timm(folder: Path) -> None:
    """A file alone."""
    model = timm.create_model("test_efficientnet", num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")


def byte_level() -> Any:
    """A tokenizer such as a language model's: blanks belong to the next word, padding comes first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<pad>", "<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A <end>", None, [("<end>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<end>", "model_max_length": 90, "padding_side": "left"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def write_sentence_transformer(folder: Path, network: Any, modules: list[Any], **options: Any) -> None:
    network.save_pretrained(folder / "source")
    first = Transformer(str(folder / "source"))
    sentence_transformers.SentenceTransformer(modules=[first, *modules], device="cpu", **options).save(
        str(folder)
    )
    shutil.rmtree(folder / "source")


def sentence_encoder(folder: Path) -> None:
    """As E5 and its like: a prompt for each role, pooling, a projection."""
    word_piece().save_pretrained(folder / "source")
    config = transformers.BertConfig(**TEXT | {"num_hidden_layers": 2, "max_position_embeddings": 64})
    modules = [Pooling(32, "cls"), Dense(32, 10, activation_function=torch.nn.Tanh()), Normalize()]
    prompts = {"query": "a red query: ", "document": "passage: "}
    write_sentence_transformer(
        folder, transformers.BertModel(config), modules, prompts=prompts, truncate_dim=8
    )


def language_model(folder: Path) -> None:
    """As Qwen3-Embedding: the state of the last token, an instruction before queries."""
    byte_level().save_pretrained(folder / "source")
    config = transformers.Qwen3Config(
        **TEXT | {"vocab_size": 400}, num_hidden_layers=2, num_key_value_heads=2, head_dim=16
    )
    prompts = {"query": "Instruct: navy shirt\nQuery:", "document": "text: "}
    modules = [Pooling(32, "lasttoken"), Normalize()]
    write_sentence_transformer(folder, transformers.Qwen3Model(config), modules, prompts=prompts)


def sentence_clip(folder: Path) -> None:
    """A multimodal model: a CLIP, and a norm."""
    source = folder / "clip"
    source.mkdir()
    clip(source)
    processor = transformers.CLIPImageProcessor.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(folder / "source")
    write_sentence_transformer(folder, transformers.CLIPModel.from_pretrained(source), [Normalize()])
    shutil.rmtree(source)


SENTENCES = {function.__name__: function for function in (sentence_encoder, language_model, sentence_clip)}
TIMM = {"test_vit": vit_of_timm, "test_efficientnet": efficientnet_of_timm}
WRITERS = DUAL | OPEN_CLIP | TIMM | SENTENCES


def encode_texts(name: str, texts: list[str], length: int = 36, role: str = "product") -> Tensor:
    """Text vectors of a text encoder that is built from its saved settings and weights only."""
    init = TextEncoderInit.from_name(name, length)
    encoder = TransformerEncoder(0, 8, 0, **json.loads(json.dumps(init.settings)))
    encoder.load_published(init.state)
    assert init.vocabulary is not None
    tokens = torch.from_numpy(
        init.vocabulary.encode(texts, length, init.prompts.get(role, "")).astype(np.int64)
    )
    with torch.inference_mode():
        pooled, states = encoder.eval().encode(tokens, role)
        together = encoder(tokens, torch.zeros(*tokens.shape, 0), role)
    assert states.shape == (len(texts), length, encoder.width)
    assert together[0].shape == (len(texts), 8)
    return pooled


def encode_pictures(name: str, pictures: list[Image.Image], folder: Path, size: int | None = None) -> Tensor:
    """Image vectors of an image encoder that is loaded from what it saved."""
    original = ImageEncoder.pretrained(name, 2)
    original.save(folder / "encoder.safetensors")
    settings = json.loads(json.dumps(original.settings))
    encoder = ImageEncoder.load(folder / "encoder.safetensors", original.name, 2, settings)
    prepared = np.stack([encoder.prepare(picture, size) for picture in pictures])
    assert prepared.dtype == np.uint8
    with torch.inference_mode():
        pooled, regions = encoder(torch.from_numpy(prepared))
    assert pooled.shape == (len(pictures), encoder.width)
    assert regions.shape == (len(pictures), 4, encoder.region_width)
    return pooled


@pytest.mark.parametrize("name", DUAL)
@torch.inference_mode()
def test_texts_of_a_dual_encoder_equal_those_of_transformers(
    name: str, folders: Callable[[str], Path]
) -> None:
    folder = folders(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length"} if "siglip" in name else {"padding": True}
    inputs = tokenizer(TEXTS, return_tensors="pt", **padding)
    inputs.pop("token_type_ids", None)
    expected = transformers.AutoModel.from_pretrained(folder).eval().get_text_features(**inputs).pooler_output
    torch.testing.assert_close(encode_texts(f"auto:{folder}", TEXTS), expected, **EXACT)
    assert torch.pdist(expected).min() > 1e-3


@pytest.mark.parametrize("name", DUAL)
@torch.inference_mode()
def test_pictures_of_a_dual_encoder_equal_those_of_transformers(
    name: str, folders: Callable[[str], Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    folder = folders(name)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    expected = model.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output
    torch.testing.assert_close(encode_pictures(f"auto:{folder}", pictures, tmp_path), expected, **EXACT)
    assert torch.pdist(expected).min() > 1e-4


@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.inference_mode()
def test_both_towers_equal_those_of_open_clip(
    name: str,
    folders: Callable[[str], Path],
    pictures: list[Image.Image],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = folders(name)
    caplog.clear()
    texts = [*TEXTS, "it's 20x30 cm, 50% off!! _new_"]
    model, process = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    expected = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts))
    torch.testing.assert_close(encode_texts(f"open_clip:{folder}", texts), expected, **EXACT)
    expected_images = model.encode_image(torch.stack([process(picture) for picture in pictures]))
    vectors = encode_pictures(f"open_clip:{folder}", pictures, tmp_path)
    assert "initialized randomly" not in caplog.text
    torch.testing.assert_close(vectors, expected_images, **EXACT)
    assert min(torch.pdist(expected).min(), torch.pdist(expected_images).min()) > 1e-3


@pytest.mark.parametrize("name", TIMM)
@torch.inference_mode()
def test_pictures_equal_those_of_timm(
    name: str, folders: Callable[[str], Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    """Its own API reads what its hub holds from a folder, too; a file alone has the settings of the name."""
    folder = folders(name)
    source = f"local-dir:{folder}" if name == "test_vit" else name
    model = timm.create_model(source, pretrained=name == "test_vit", num_classes=0).eval()
    path = folder if name == "test_vit" else folder / "model.safetensors"
    if name != "test_vit":
        state = load_file(path)
        model.load_state_dict(
            {key: value for key, value in state.items() if not key.startswith("classifier")}
        )
    process = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    expected = model(torch.stack([process(picture) for picture in pictures]))
    vectors = encode_pictures(f"timm:{name}@{path}", pictures, tmp_path)
    torch.testing.assert_close(vectors, expected, **EXACT)
    assert torch.pdist(expected).min() > 1e-3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vit", "as timm:NAME@PATH"),
        ("timm:test_vit9@{}", "no model 'test_vit9'"),
        ("timm:test_efficientnet@{}", r"the folder '.*' cannot be loaded \(RuntimeError: .*Missing key"),
        ("timm:test_vit@{}/absent.safetensors", r"absent\.safetensors' is no folder"),
        ("timm:test_vit@{}/empty", r"lacks model\.safetensors.*image_encoder: timm:test_vit@FOLDER"),
    ],
)
def test_weights_that_timm_cannot_read(
    name: str, message: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders("test_vit"), folder)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=f"featurize.image_encoder: .*{message}"):
        ImageEncoder.pretrained(name.format(folder), 2)


@pytest.mark.parametrize("role", ["query", "product"])
@pytest.mark.parametrize("name", SENTENCES)
def test_texts_equal_those_of_sentence_transformers(
    name: str, role: str, folders: Callable[[str], Path]
) -> None:
    model = sentence_transformers.SentenceTransformer(str(folders(name)), device="cpu")
    encode = model.encode_query if role == "query" else model.encode_document
    expected = encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(encode_texts(f"st:{folders(name)}", TEXTS, role=role), expected, **EXACT)
    assert torch.pdist(expected).min() > 1e-3
    assert torch.allclose(encode(TEXTS, convert_to_tensor=True, prompt=""), expected) != any(
        model.prompts.values()
    )


def test_pictures_equal_those_of_sentence_transformers(
    folders: Callable[[str], Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    folder = folders("sentence_clip")
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(
        pictures, convert_to_tensor=True
    )
    torch.testing.assert_close(encode_pictures(f"st:{folder}", pictures, tmp_path), expected, **EXACT)
    with pytest.raises(DataError, match="no image tower"):
        ImageEncoder.pretrained(f"st:{folders('sentence_encoder')}", 2)


@pytest.mark.parametrize("name", DUAL | OPEN_CLIP | {"sentence_clip": sentence_clip})
def test_both_towers_know_that_they_belong_together(name: str, folders: Callable[[str], Path]) -> None:
    kind = "open_clip" if name in OPEN_CLIP else "st" if name in SENTENCES else "auto"
    path = f"{kind}:{folders(name)}"
    models = {
        TextEncoderInit.from_name(path, 20).settings["model"],
        ImageEncoder.pretrained(path, 2).settings["model"],
    }
    assert len(models) == 1 and "" not in models


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        *(
            ("auto:", name) for name in DUAL if name != "align"
        ),  # its tiny map is smaller than its last pooling
        *(("open_clip:", name) for name in OPEN_CLIP),
        *((f"timm:{name}@", name) for name in TIMM),
        ("st:", "sentence_clip"),
    ],
)
def test_openvino_gives_pytorchs_features_of_pictures(
    prefix: str,
    name: str,
    folders: Callable[[str], Path],
    pictures: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = folders(name) / "model.safetensors" if name == "test_efficientnet" else folders(name)
    encoder = ImageEncoder.pretrained(f"{prefix}{path}", 2)
    prepared = np.stack([encoder.prepare(picture, None) for picture in pictures])
    outputs = OpenVinoSession(encoder, prepared.shape[1:3])(prepared)
    for ours, theirs in zip(outputs, TorchSession(encoder)(prepared), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=1e-3)


def test_pictures_of_another_size(
    folders: Callable[[str], Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    name = f"clip:{folders('clip')}"
    larger, original = (encode_pictures(name, pictures, tmp_path, size) for size in (60, None))
    assert larger.shape == original.shape
    assert not torch.allclose(larger, original, atol=1e-4)


def test_texts_of_siglip_have_no_punctuation(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Its own tokenizer is not a fast one, and cleans texts in Python."""
    folder = tmp_path / "siglip"
    shutil.copytree(folders("siglip"), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    vocabulary = TextEncoderInit.from_name(f"siglip:{folder}", 36).vocabulary
    assert vocabulary is not None
    cleaned, clean = vocabulary.encode(["A  blue_dress,\nwith (DOTS)! ", "a bluedress with dots"], 36)
    assert cleaned.tolist() == clean.tolist()


@pytest.mark.parametrize(
    ("kind", "model", "missing", "loader"),
    [
        ("auto", "siglip", "model.safetensors", TextEncoderInit.from_name),
        ("clip", "siglip", "tokenizer.json", TextEncoderInit.from_name),
        ("siglip", "siglip", "preprocessor_config.json", ImageEncoder.pretrained),
        ("open_clip", "open_clip_like_siglip", "open_clip_model.safetensors", ImageEncoder.pretrained),
        ("open_clip", "open_clip_like_siglip", "tokenizer.json", TextEncoderInit.from_name),
    ],
)
def test_missing_files(
    kind: str,
    model: str,
    missing: str,
    loader: Callable[..., Any],
    folders: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders(model), folder)
    (folder / missing).rename(folder / "pytorch_model.bin")
    message = rf"(?s)featurize\..*_encoder: the folder '.*' .*it lacks {missing}.*_encoder: {kind}:FOLDER"
    with pytest.raises(DataError, match=message):
        loader(f"{kind}:{folder}", 2)


def test_pictures_without_a_fixed_size(tmp_path: Path) -> None:
    """A SigLIP 2 of the kind NaFlex."""
    config = transformers.Siglip2Config(
        text_config=TEXT | LAYERS, vision_config=VISION | {"num_patches": 16, "patch_size": 8}
    )
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"one fixed resolution.*not NaFlex"):
        ImageEncoder.pretrained(f"auto:{tmp_path}", 2)


@pytest.mark.parametrize(
    ("name", "text_layers", "image_layers"),
    [
        ("auto:clip", 2, 2),
        ("auto:siglip", 2, 2),
        ("auto:chinese_clip", 2, 2),
        ("open_clip:open_clip_with_its_tokenizer", 2, 3),  # its conv1 counts
        ("open_clip:open_clip_like_siglip", 2, 6),
        ("st:sentence_encoder", 2, 0),
        ("st:language_model", 2, 0),
        ("st:sentence_clip", 2, 2),
    ],
)
def test_numbered_layers_are_those_of_the_transformer(
    name: str, text_layers: int, image_layers: int, folders: Callable[[str], Path]
) -> None:
    """For train.tune; heads and projections belong to the last layer."""
    kind, _, model = name.partition(":")
    init = TextEncoderInit.from_name(f"{kind}:{folders(model)}", 20)
    text = TransformerEncoder(0, 8, 0, **init.settings)
    assert len(numbered_layers(text.trunk)) == text_layers
    if image_layers:
        image = ImageEncoder.pretrained(f"{kind}:{folders(model)}", 2)
        assert len(numbered_layers(image.features)) == image_layers


def test_the_head_learns_with_the_last_layer(folders: Callable[[str], Path]) -> None:
    """SigLIP pools patches by attention after the last layer."""
    encoder = ImageEncoder.pretrained(f"auto:{folders('siglip')}", 2)
    tune(encoder, "last_1", "knob")
    learning = {
        name.split("vision_model.")[1] for name, weight in encoder.named_parameters() if weight.requires_grad
    }
    assert {name.rsplit(".", 1)[0] for name in learning} >= {"encoder.layers.1.mlp.fc2", "head.mlp.fc1"}
    assert not any(name.startswith(("encoder.layers.0", "embeddings")) for name in learning)


def test_what_openclip_registers_elsewhere(folders: Callable[[str], Path]) -> None:
    """It registers projections before its layers, and the embedding of tokens after them."""
    kind, path = "open_clip", folders("open_clip_with_its_tokenizer")
    init, image = (
        TextEncoderInit.from_name(f"{kind}:{path}", 20),
        ImageEncoder.pretrained(f"{kind}:{path}", 2),
    )
    for network, expected in (
        (TransformerEncoder(0, 8, 0, **init.settings).trunk, {"ln_final", "text_projection"}),
        (image.features, {"ln_post", "proj"}),
    ):
        tune(network, "last_1", "knob")
        learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
        last = {name for name in learning if ".resblocks.1." in name}
        parts = {
            name.split(".", 1)[1].removesuffix(".weight").removesuffix(".bias") for name in learning - last
        }
        assert last and parts == expected


def test_only_its_size_where_positions_are_not_interpolated(folders: Callable[[str], Path]) -> None:
    fixed = ImageEncoder.pretrained(f"open_clip:{folders('open_clip_with_its_tokenizer')}", 2)
    fixed.check_size(32)
    fixed.check_size(None)
    with pytest.raises(
        DataError, match=r"featurize\.image_size: 64, but open_clip reads .* 32 × 32 pixels; set null"
    ):
        fixed.check_size(64)
    ImageEncoder.pretrained(f"clip:{folders('clip')}", 2).check_size(64)


def test_a_text_tower_that_the_folder_does_not_describe(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders("open_clip_like_siglip"), folder)
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="hf_model_name"):
        ImageEncoder.pretrained(f"open_clip:{folder}", 2)


@pytest.mark.parametrize("kind", ["open_clip", "auto"])
def test_code_of_a_model_does_not_run(kind: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(folders("siglip" if kind == "auto" else "open_clip_like_siglip"), folder)
    (folder / "hostile.py").write_text(
        f"import pathlib; pathlib.Path({str(trace)!r}).mkdir()\nclass Hostile: pass\n"
    )
    code = {"auto_map": {"AutoTokenizer": [None, "hostile.Hostile"], "AutoModel": "hostile.Hostile"}}
    changes = {"tokenizer_config.json": code | {"tokenizer_class": "Hostile"}}
    if kind == "auto":
        changes["config.json"] = code | {"model_type": "hostile"}
    for name, change in changes.items():
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))
    if kind == "open_clip":
        path = folder / "open_clip_config.json"
        path.write_text(path.read_text().replace('"clean"', '"trust_remote_code": true, "clean"'))
    with suppress(DataError):  # a fast tokenizer can be read without the code
        TextEncoderInit.from_name(f"{kind}:{folder}", 36)
    assert not trace.exists()
    with suppress(Exception):
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert trace.exists(), "the code works, so the test is valid"


def test_pickled_projections_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders("sentence_encoder"), folder)
    (projection,) = folder.glob("*Dense/model.safetensors")
    projection.rename(projection.with_name("pytorch_model.bin"))
    with pytest.raises(DataError, match=r"text_encoder: the folder .* it lacks .*Dense/model\.safetensors"):
        TextEncoderInit.from_name(f"st:{folder}", 20)


def test_models_of_sentence_transformers_without_a_transformer(tmp_path: Path) -> None:
    tokenizer = word_piece().backend_tokenizer
    words = StaticEmbedding(tokenizer, embedding_dim=8)
    sentence_transformers.SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path))
    with pytest.raises(DataError, match="its first module is a StaticEmbedding, not a Transformer"):
        TextEncoderInit.from_name(f"st:{tmp_path}", 20)


def test_packages_that_a_served_model_needs() -> None:
    assert list_packages("bilstm", "efficientnet_lite0") == []
    assert list_packages("st:x", "timm:resnet18@x") == ["sentence-transformers", "timm", "transformers"]
    for name in {package for family in FAMILIES.values() for package in family.packages}:
        assert version(name)


def test_modules_of_others_are_not_imported(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders("sentence_encoder"), folder)
    (folder / "hostile.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(folder)
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[-1]["type"] = "hostile.Module"
    path.write_text(json.dumps(modules))
    with pytest.raises(DataError, match=r"module hostile\.Module is not part of Sentence Transformers"):
        TextEncoderInit.from_name(f"st:{folder}", 20)


def perturb(network: torch.nn.Module) -> None:
    """Give adapters other values than those of the start, at which they add nothing."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.05)


def check_adapters(network: torch.nn.Module, rebuilt: torch.nn.Module, *inputs: Any) -> int:
    """Check adapters of a network against a rebuilt network, which gets its state; return how many there are."""
    start = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        expected = network(*inputs)
        tune(network, "lora_4", "knob")
        assert all(torch.equal(*pair) for pair in zip(network(*inputs), expected, strict=True))
        perturb(network)
        adapted = network(*inputs)
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(adapted, expected, strict=True))
        published, factors = published_state(network), extract_adapters(network)
        assert published.keys() == start.keys()
        assert all(torch.equal(value, start[name]) for name, value in published.items())
        rebuilt.load_state_dict(merge_adapters(published, factors))
        for actual, merged in zip(adapted, rebuilt(*inputs), strict=True):
            torch.testing.assert_close(merged, actual, atol=1e-5 * max(1, float(actual.abs().max())), rtol=0)
    assert {name for name, weight in network.named_parameters() if weight.requires_grad} == {
        name for name, _ in network.named_parameters() if is_adapter(name)
    }
    return len(factors) // 2


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("auto:clip", 2 * 6 + 1),
        ("auto:siglip", 2 * 6 + 1),
        ("auto:chinese_clip", 2 * 6 + 1),
        ("auto:align", 2 * 6 + 2),
        ("open_clip:open_clip_with_its_tokenizer", 2 * 2),  # its attention is nn.MultiheadAttention
        ("open_clip:open_clip_like_siglip", 2 * 2),
        ("st:sentence_encoder", 2 * 6 + 2),
        ("st:language_model", 2 * 7),
        ("st:sentence_clip", 2 * 6 + 1),
    ],
)
def test_merged_adapters_of_a_text_encoder(name: str, count: int, folders: Callable[[str], Path]) -> None:
    """Without peft, the published weights and the adapters give the vectors of training, to 1e-5."""
    kind, _, model = name.partition(":")
    init = TextEncoderInit.from_name(f"{kind}:{folders(model)}", 20)
    encoder, rebuilt = (TransformerEncoder(0, 8, 0, **init.settings).eval() for _ in range(2))
    encoder.load_published(init.state)
    assert init.vocabulary is not None
    tokens = torch.from_numpy(init.vocabulary.encode(TEXTS, 20).astype(np.int64))
    ids, mask, _ = encoder.layout.arrange(tokens, "product")
    assert check_adapters(encoder.trunk, rebuilt.trunk, ids, mask) == count


@pytest.mark.parametrize(
    "name",
    [
        "auto:clip", "auto:siglip", "auto:chinese_clip", "auto:align", "open_clip:open_clip_with_its_tokenizer",
        "open_clip:open_clip_like_siglip", "timm:test_vit", "timm:test_efficientnet", "st:sentence_clip",
    ],
)  # fmt: skip
def test_merged_adapters_of_an_image_encoder(name: str, folders: Callable[[str], Path]) -> None:
    kind, _, model = name.partition(":")
    prefix = f"timm:{model}@" if kind == "timm" else f"{kind}:"
    encoder = ImageEncoder.pretrained(f"{prefix}{folders(model)}", 2)
    rebuilt = ImageEncoder(kind, 2, encoder.features.state_dict(), encoder.settings)
    height, width, _ = encoder.prepare(Image.new("RGB", (64, 64)), None).shape
    assert check_adapters(encoder.features, rebuilt.features, torch.randn(2, 3, height, width)) > 0


def last_gradients(network: torch.nn.Module, *inputs: Any) -> dict[str, Tensor]:
    network.zero_grad()
    torch.manual_seed(0)  # of dropout
    sum(output.square().mean() for output in network(*inputs)).backward()
    return {
        name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize(
    ("name", "extent"),
    [
        *((f"auto:{name}", "all") for name in DUAL if name != "siglip2"),
        *((f"open_clip:{name}", "all") for name in OPEN_CLIP),
        *((f"timm:{name}", "all") for name in TIMM),
        *((f"st:{name}", "all") for name in SENTENCES),
        ("auto:clip", "last_1"),
        ("auto:clip", "lora_2"),
        ("st:language_model", "lora_2"),
    ],
)
def test_gradients_are_the_same_if_blocks_are_computed_again(
    name: str, extent: str, folders: Callable[[str], Path]
) -> None:
    kind, _, model = name.partition(":")
    networks: list[tuple[torch.nn.Module, tuple[Any, ...]]] = []
    if kind != "timm":
        init = TextEncoderInit.from_name(f"{kind}:{folders(model)}", 20)
        text = TransformerEncoder(0, 8, 0, **init.settings)
        text.load_published(init.state)
        assert init.vocabulary is not None
        tokens = torch.from_numpy(init.vocabulary.encode(TEXTS, 20).astype(np.int64))
        networks.append((text.train().trunk, text.layout.arrange(tokens, "product")[:2]))
    if model not in ("sentence_encoder", "language_model"):
        prefix = f"timm:{model}@" if kind == "timm" else f"{kind}:"
        image = ImageEncoder.pretrained(f"{prefix}{folders(model)}", 2)
        height, width, _ = image.prepare(Image.new("RGB", (64, 64)), None).shape
        networks.append((image.features, (torch.randn(2, 3, height, width),)))
    for network, inputs in networks:
        recomputed = copy.deepcopy(network)
        recompute_blocks(recomputed, "knob")
        gradients = []
        for candidate in (network, recomputed):
            torch.manual_seed(0)  # of adapters
            tune(candidate, extent, "knob")
            gradients.append(last_gradients(candidate, *inputs))
        expected, actual = gradients
        assert expected and actual.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                actual[key], value, atol=1e-6 * max(1, float(value.abs().max())), rtol=0
            )
