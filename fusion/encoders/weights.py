"""Published weights: safetensors, or `.pth` files of which only tensors are unpickled."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from catalog.schema import DataError

T = TypeVar("T")
# a name up to its first part with a digit; fc1 and fc2 are parts of a perceptron, not layers
_LAYER = re.compile(r"(?:[^\d.]+\.)*(?!fc\d)[^.]*\d[^.]*")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict, on the CPU."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def build_pretrained(
    parameter: str,
    name: str,
    weights: str | None,
    fetch_published: Callable[[], dict[str, Tensor]],
    build: Callable[[dict[str, Tensor]], T],
) -> T:
    """Build an encoder with the weights of a file or, without a file, with the published weights.

    Args:
        parameter: The prefix of the keys in params.yaml, before `_encoder` and `_weights`.
        name: Name of the encoder.
        weights: The file, or None.
        fetch_published: Returns the published state dict.
        build: Builds the encoder from a state dict.

    Raises:
        DataError: if the weights cannot be loaded or do not fit; it says how to get them.
    """
    try:
        return build(read_state_dict(Path(weights)) if weights else fetch_published())
    except Exception as error:  # hubs fail as URLError, OSError, RuntimeError …; torch adds UnpicklingError
        source = f"weights '{weights}'" if weights else "published weights"
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{parameter}_encoder: {name}: {source} cannot be loaded ({type(error).__name__}: {reason}); "
            f"where no hub can be reached, download the state dict elsewhere and set {parameter}_weights "
            "to its path (.safetensors or .pth)"
        ) from error


def numbered_layers(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The numbered layers of a network in order, each with its parameters and those that follow it.

    A layer is the common start of parameter names, up to the first part with a digit: `layer4`, `features.7`,
    `encoder.layer.5`. Parameters before the first layer belong to none.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if layer_name := _LAYER.match(name):
            layers.setdefault(layer_name.group(), [])
        if layers:
            layers[next(reversed(layers))].append(weight)
    return layers


def freeze(network: nn.Module, extent: str, parameter: str) -> None:
    """Choose which layers of a published network training leaves unchanged.

    Args:
        network: The published network.
        extent: "all", "none", or "last_N": all but the last N of its `numbered_layers`.
        parameter: The parameter that sets `extent`, for the error message.

    Raises:
        DataError: if the network has fewer layers.
    """
    network.requires_grad_(extent == "none")
    if extent.startswith("last_"):
        count, layers = int(extent.removeprefix("last_")), numbered_layers(network)
        if count > len(layers):
            names = ", ".join(layers) or "no numbers"
            raise DataError(
                f"{parameter}: {extent}, but the encoder has {len(layers)} layers ({names}); "
                "give fewer, or none to train all of it"
            )
        for weights in list(layers.values())[-count:]:
            for weight in weights:
                weight.requires_grad_(True)
