"""Low-rank adapters (LoRA, Hu et al., 2021): few trained weights beside a frozen published network.

A layer with weight W computes (W + 32/R · B A) x, where A and B have the rank R; only A and B are trained. The library
peft adds them to a network. A saved adapter is two factors of what is added to a weight, so loading needs no peft: it
adds the product to the published weight.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

ADAPTERS = "adapters.safetensors"
# With 32/R, the best learning rate hardly depends on the rank (Schulman et al., 2025, "LoRA Without Regret").
ALPHA = 32
_NAME = "default"  # of the adapters, in peft
# OpenCLIP checks the class of this layer, so it cannot be replaced.
_FIXED = ("open_clip", "text_projection")


def add_adapters(network: nn.Module, rank: int) -> None:
    """Freeze a network and add an adapter to its linear layers and convolutions; its output stays the same.

    Args:
        network: A published network; changed in place.
        rank: R.

    Raises:
        ValueError: if peft is not installed, or the network has no such layer.
    """
    names = _adaptable_layers(network)
    if not names:
        raise ValueError("the encoder has no linear layer or convolution that an adapter fits")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed; install it with: pip install 'vitrine[encoders]'"
        ) from error
    pattern = "|".join(map(re.escape, names))  # peft matches the end of a plain name, too
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=pattern), network, _NAME)


def _adaptable_layers(network: nn.Module) -> list[str]:
    """The names of the layers that get an adapter: linear layers and convolutions, except depthwise ones.

    Subclasses are left out, since they may change a weight before they use it. `nn.MultiheadAttention` (OpenCLIP's
    towers, torchvision's ViT, SigLIP's pooling) uses its weights without a layer that is called. peft 0.21 adds its
    adapter to these weights before each call and subtracts it afterwards, which changes them by rounding, and adds that
    of the output twice.
    """
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, parent in network.named_modules()
        for name, layer in parent.named_children()
        if (type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1))
        and (type(parent).__module__.partition(".")[0], name) != _FIXED
    ]


def is_adapter(name: str) -> bool:
    """Whether a parameter with this name is part of an adapter."""
    return ".lora_" in name


def published_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network without its adapters, by its published names."""
    return {
        name.replace(".base_layer.", "."): value.contiguous()
        for name, value in network.state_dict().items()
        if not is_adapter(name)
    }


def extract_adapters(network: nn.Module) -> dict[str, Tensor]:
    """The factors of all adapters of a network, empty without adapters.

    Returns:
        For a weight of shape (out, …): `NAME.left`, (out, R), and `NAME.right`, (R, …) flattened to two dimensions.
    """
    factors: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if hasattr(module, "lora_A"):
            layer: Any = module
            left, right = (part[_NAME].weight.detach().flatten(1) for part in (layer.lora_B, layer.lora_A))
            factors[f"{name}.weight.left"] = left * layer.scaling[_NAME]
            factors[f"{name}.weight.right"] = right
    return factors


def merge_adapters(state: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add adapters to the weights that they belong to.

    Args:
        state: As `published_state`.
        factors: As `extract_adapters`.

    Returns:
        The state of a network without adapters that computes the same.
    """
    merged = dict(state)
    for key in factors:
        if (name := key.removesuffix(".left")) != key:
            delta = factors[key] @ factors[f"{name}.right"]
            merged[name] = state[name] + delta.view_as(state[name])
    return merged


def load_adapters(folder: Path, encoder: str) -> dict[str, Tensor]:
    """The factors in the `ADAPTERS` of a model's folder, for one of its encoders; empty if it has none.

    Args:
        folder: What `train` wrote.
        encoder: "text" or "image".
    """
    if not (folder / ADAPTERS).exists():
        return {}
    prefix = f"{encoder}."
    factors = load_file(folder / ADAPTERS)
    return {key.removeprefix(prefix): value for key, value in factors.items() if key.startswith(prefix)}
