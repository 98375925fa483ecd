"""Image encoders of timm: a name and a file of weights, as "timm:NAME@PATH"."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from fusion.encoders.families.base import Family, ImageTower, Processor, Settings, pil_steps

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class _ImageTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        states, maps = self.model.forward_intermediates(pictures, indices=1, norm=True)
        return self.model.forward_head(states), maps[-1]


class TimmModels(Family):
    """Models of timm without their classifier."""

    image_files = (WEIGHTS,)
    packages = ("timm",)

    def load_image(self, path: str) -> ImageTower:
        from timm.data import resolve_data_config

        name, _, place = path.partition("@")
        if not place:
            raise ValueError("give the name in timm and the file of weights, as timm:NAME@PATH")
        weights = Path(place) / WEIGHTS if Path(place).is_dir() else Path(place)
        published = _read_config(weights.parent / CONFIG)
        config: dict[str, Any] = {"name": name, "options": published.get("model_args", {})}
        model = _build_model(config)
        settings = model.pretrained_cfg | published.get("pretrained_cfg", {})
        config["data"] = resolve_data_config(pretrained_cfg=settings)
        classifiers = settings["classifier"]
        prefixes = tuple(
            f"{part}." for part in ([classifiers] if isinstance(classifiers, str) else classifiers)
        )
        needed = model.state_dict().keys()
        state = {
            key: value
            for key, value in load_file(weights).items()
            if key in needed or not key.startswith(prefixes)
        }
        model.load_state_dict(state)
        return ImageTower(_ImageTower(model), config, not settings.get("fixed_input_size", False))

    def build_image(self, config: Settings) -> nn.Module:
        return _ImageTower(_build_model(config))

    def build_processor(self, config: Settings) -> Processor:
        from timm.data import create_transform

        complete = create_transform(**config["data"], is_training=False)
        return Processor(pil_steps(complete.transforms), complete)


def _read_config(path: Path) -> dict[str, Any]:
    """What is published next to the weights: settings that differ from those of the name in timm."""
    return json.loads(path.read_text()) if path.exists() else {}


def _build_model(config: Settings) -> Any:
    """The model with random weights.

    Raises:
        ValueError: if timm has no such model, or it gives no map of features.
    """
    import timm

    name = config["name"]
    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no model '{name}'")
    model = timm.create_model(name, num_classes=0, **config["options"])
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"timm's {name} gives no map of features")
    return model.eval()
