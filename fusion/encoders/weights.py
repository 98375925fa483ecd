"""Weights that others published: safetensors, or `.pth` read without unpickling anything but tensors."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from catalog.schema import DataError

T = TypeVar("T")
_LAYER = re.compile(r"(?:[^\d.]+\.)*[^.]*\d[^.]*")  # up to the first part of a name that has a digit


def read(path: Path) -> dict[str, Tensor]:
    """A state dict, on the CPU."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def fetch(
    parameter: str,
    name: str,
    weights: str | None,
    published: Callable[[], dict[str, Tensor]],
    build: Callable[[dict[str, Tensor]], T],
) -> T:
    """Build an encoder with the weights of a file, or else with the published ones.

    Args:
        parameter: What the encoder and its weights are called in params.yaml, up to their `_encoder` and `_weights`.
        name: Of the encoder.
        weights: The file, or None.
        published: Fetches the published state dict.
        build: Makes the encoder of a state dict.

    Raises:
        DataError: where the weights cannot be reached or do not fit; it says how to get them.
    """
    try:
        return build(read(Path(weights)) if weights else published())
    except Exception as error:  # hubs fail as URLError, OSError, RuntimeError …; torch adds UnpicklingError
        where = f"weights '{weights}'" if weights else "published weights"
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{parameter}_encoder: {name}: {where} cannot be loaded ({type(error).__name__}: {reason}); "
            f"where no hub can be reached, download the state dict elsewhere and set {parameter}_weights "
            "to its path (.safetensors or .pth)"
        ) from error


def layers(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The numbered layers of a network in their order, each with its parameters and those that follow it.

    A layer is what parameters' names have in common up to the first part with a digit in it: `layer4`, `features.7`,
    `encoder.layer.5`. What precedes the first one belongs to none.
    """
    found: dict[str, list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if numbered := _LAYER.match(name):
            found.setdefault(numbered.group(), [])
        if found:
            found[next(reversed(found))].append(weight)
    return found


def freeze(network: nn.Module, extent: str, parameter: str) -> None:
    """Say what training leaves as it is of a published network.

    Args:
        network: All of it, or its part that was published.
        extent: "all", "none", or "last_N": all but the last N of its `layers`.
        parameter: What the user set, to be named where it does not fit.

    Raises:
        DataError: where the network has fewer layers.
    """
    network.requires_grad_(extent == "none")
    if extent.startswith("last_"):
        count, found = int(extent.removeprefix("last_")), layers(network)
        if count > len(found):
            raise DataError(
                f"{parameter}: {extent}, but the encoder has {len(found)} layers ({', '.join(found) or 'no numbers'}); "
                "give fewer, or none to train all of it"
            )
        for weights in list(found.values())[-count:]:
            for weight in weights:
                weight.requires_grad_(True)
