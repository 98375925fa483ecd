"""Dual encoders in the format of OpenCLIP: open_clip_config.json and safetensors."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fusion.encoders import hub
from fusion.encoders.families.base import (
    Family,
    ImageTower,
    Processor,
    Settings,
    TextTower,
    fingerprint,
    pil_steps,
)
from fusion.encoders.token_layout import TokenLayout

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors or open_clip_pytorch_model.safetensors"
LAST = {"normalize": False, "normalize_intermediates": True}  # options of its forward_intermediates
CLEANERS: Mapping[str, list[dict[str, Any]]] = {  # its functions that clean texts, as normalizers
    "whitespace": hub.ONE_BLANK,
    "lower": [*hub.ONE_BLANK, {"type": "Lowercase"}],
    "canonicalize": [
        {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
        *hub.CANONICAL,
        *hub.ONE_BLANK,
    ],
}


class _TextTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for name in ("visual", "logit_scale", "logit_bias"):
            delattr(model, name)

    def forward(self, ids: Tensor, _: None) -> tuple[Tensor, Tensor]:
        output = self.model.forward_intermediates(text=ids, text_indices=1, **LAST)
        return output["text_features"], output["text_intermediates"][-1]


class _ImageTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        output = self.visual.forward_intermediates(pictures, indices=1, normalize_intermediates=True)
        return output["image_features"], output["image_intermediates"][-1]


class OpenClipModels(Family):
    """Models of OpenCLIP, whose towers are its own or an image tower of timm."""

    text_files = image_files = (CONFIG, WEIGHTS)
    packages = ("open_clip_torch", "transformers")

    def load_text(self, path: str) -> TextTower:
        config, model = _load_model(path)
        text_config = config["model_cfg"]["text_cfg"]
        tokenizer, layout = _load_tokenizer(path, text_config)
        longest = model.context_length
        layout = replace(layout, length=longest, masked=False)
        key = fingerprint(model.state_dict())
        return TextTower(_TextTower(model), config, tokenizer, layout, longest, key)

    def build_text(self, config: Settings) -> nn.Module:
        return _TextTower(_build_model(config))

    def load_image(self, path: str) -> ImageTower:
        config, model = _load_model(path)
        config["preprocess_cfg"] = model.visual.preprocess_cfg
        key = fingerprint(model.state_dict())
        return ImageTower(_ImageTower(model), config, False, key)

    def build_image(self, config: Settings) -> nn.Module:
        return _ImageTower(_build_model(config))

    def build_processor(self, config: Settings) -> Processor:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        complete = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
        return Processor(pil_steps(complete.transforms), complete)


def _load_model(path: str) -> tuple[dict[str, Any], Any]:
    """The content of the configuration file, and the model in evaluation mode.

    Raises:
        ValueError: for a text tower of transformers, whose configuration is not in the folder.
    """
    import open_clip

    config = json.loads((Path(path) / CONFIG).read_text())
    if "hf_model_name" in config["model_cfg"]["text_cfg"]:
        raise ValueError(
            "its text tower is a model of transformers (hf_model_name), which its files do not describe"
        )
    model = open_clip.create_model(f"local-dir:{path}", require_pretrained=True)
    return config, model.eval()


def _build_model(config: Settings) -> Any:
    """The model that a configuration file describes; its weights are random."""
    import open_clip

    level = logging.root.manager.disable
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(json.dumps(config))
        logging.disable(logging.WARNING)  # it warns of weights that are loaded afterwards
        try:
            return open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
        finally:
            logging.disable(level)


def _load_tokenizer(path: str, text_config: Mapping[str, Any]) -> tuple[str, TokenLayout]:
    """JSON of the fast tokenizer that gives the tokens of OpenCLIP's own, and how it lays out texts."""
    import open_clip

    options = dict(text_config.get("tokenizer_kwargs", {}))
    if not text_config.get("hf_tokenizer_name"):
        tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
        fast = _convert(tokenizer)
        hub.prepend_normalizers(fast, CLEANERS[options.get("clean", "lower")])
        layout, _ = hub.read_layout(fast, tokenizer.context_length)
        return fast.backend_tokenizer.to_str(), replace(layout, padding=0)  # as OpenCLIP fills up texts
    if text_config.get("tokenizer_mode"):
        raise ValueError(
            f"texts are laid out in a way (tokenizer_mode {text_config['tokenizer_mode']}) that is not known"
        )
    hub.require_files(path, ("tokenizer.json",))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{path}", trust_remote_code=False)
    fast = tokenizer.tokenizer
    hub.prepend_normalizers(fast, CLEANERS[options.get("clean", "whitespace")])
    layout, _ = hub.read_layout(fast, tokenizer.context_length)
    if tokenizer.strip_sep_token:
        after = [0 if piece == fast.sep_token_id else piece for piece in layout.after]
        layout = replace(layout, after=after)
    return fast.backend_tokenizer.to_str(), layout


def _convert(tokenizer: Any) -> Any:
    """CLIP's tokenizer, which OpenCLIP has in Python, as the fast one of transformers."""
    from transformers import CLIPTokenizer

    start, end = (tokenizer.decoder[number] for number in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    return CLIPTokenizer(
        vocab=tokenizer.encoder,
        merges=list(tokenizer.bpe_ranks),
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )
