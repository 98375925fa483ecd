"""Dual encoders of transformers: CLIP, SigLIP, SigLIP 2, Chinese-CLIP, ALIGN and others."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fusion.encoders import hub
from fusion.encoders.families.base import (
    Family,
    ImageTower,
    Processor,
    Settings,
    TextTower,
    fingerprint,
    keep_children,
    patch_map,
)
from fusion.encoders.token_layout import TokenLayout

TEXT, IMAGE = ("text",), ("vision", "visual", "image")  # first word of the names of each tower's modules
NORMALISATION = (
    "do_rescale",
    "do_normalize",
    "rescale_offset",
    "include_top",
)  # steps after a picture's resizing
FULL_LENGTH = ("siglip", "siglip2")  # they pool the last token, so texts have the length of their training


class TextNetwork(nn.Module):
    """The text tower of a dual encoder; removes the other tower from the model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        keep_children(model, TEXT)

    def forward(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        output = self.model.get_text_features(input_ids=ids, attention_mask=mask)
        return output.pooler_output, output.last_hidden_state


class ImageNetwork(nn.Module):
    """The image tower of a dual encoder; removes the other tower from the model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        keep_children(model, IMAGE)
        self.any_size = _interpolates(model)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        is_resized = pictures.shape[2] != self.model.config.vision_config.image_size
        options = {"interpolate_pos_encoding": True} if is_resized and self.any_size else {}
        output = self.model.get_image_features(pixel_values=pictures, **options)
        states = output.last_hidden_state
        return output.pooler_output, patch_map(states) if states.ndim == 3 else states


def read_dual_layout(tokenizer: Any, model: Any) -> tuple[TokenLayout, int]:
    """As `hub.read_layout`, for the text tower of a dual encoder."""
    layout, longest = hub.read_layout(tokenizer, model.config.text_config.max_position_embeddings)
    if model.config.model_type in FULL_LENGTH or not layout.masked:
        layout = replace(layout, length=longest)
    return layout, longest


def _interpolates(model: Any) -> bool:
    """Whether the image tower has no fixed size: it interpolates its positions, or is convolutional."""
    parameters = inspect.signature(model.get_image_features).parameters
    return "interpolate_pos_encoding" in parameters or not hasattr(model.config.vision_config, "patch_size")


class DualEncoders(Family):
    """Models of transformers with a text tower and an image tower in one space; config.json says which."""

    text_files = (*hub.MODEL_FILES, "tokenizer.json")
    image_files = (*hub.MODEL_FILES, "preprocessor_config.json or processor_config.json")

    def load_text(self, path: str) -> TextTower:
        tokenizer, model = hub.load_tokenizer(path), _load_model(path)
        layout, longest = read_dual_layout(tokenizer, model)
        key, config = fingerprint(model.state_dict()), hub.extract_config(model)
        return TextTower(
            TextNetwork(model), config, tokenizer.backend_tokenizer.to_str(), layout, longest, key
        )

    def build_text(self, config: Settings) -> nn.Module:
        return TextNetwork(hub.build_model("AutoModel", config))

    def load_image(self, path: str) -> ImageTower:
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(path, **hub.load_options(path))
        model = _load_model(path)
        key = fingerprint(model.state_dict())
        config = {"model": hub.extract_config(model), "processor": hub.extract_settings(processor)}
        tower = ImageNetwork(model)
        return ImageTower(tower, config, tower.any_size, key)

    def build_image(self, config: Settings) -> nn.Module:
        return ImageNetwork(hub.build_model("AutoModel", config["model"]))

    def build_processor(self, config: Settings) -> Processor:
        import transformers

        settings = config["processor"]
        processor_class = getattr(transformers, settings["image_processor_type"])
        complete = processor_class(**settings)
        resize = processor_class(**settings | {name: False for name in NORMALISATION if name in settings})

        def process(processor: Any, picture: Image.Image) -> Tensor:
            return processor(picture, return_tensors="pt")["pixel_values"][0]

        def resize_to_array(picture: Image.Image) -> np.ndarray:
            pixels = process(resize, picture)
            return (pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).to(torch.uint8).numpy()

        return Processor(resize_to_array, lambda picture: process(complete, picture))


def _load_model(path: str) -> Any:
    model = hub.load_model("AutoModel", path)
    if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise ValueError(f"a model of type {model.config.model_type} has no text and image towers")
    return model
