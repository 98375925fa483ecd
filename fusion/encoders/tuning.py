"""What training changes in a published network: nothing, all, its last layers, or adapters beside its layers."""

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from catalog.schema import DataError
from fusion.encoders.adapters import add_adapters

# a name up to its first part with a digit; fc1 and fc2 are parts of a perceptron, not layers
_LAYER = re.compile(r"(?:[^\d.]+\.)*(?!fc\d)[^.]*\d[^.]*")
# Where a part is registered does not say where it is used. The first pattern is of parts that read the input, the
# second of projections to the output: OpenCLIP registers text_projection first, and its embedding of tokens last.
_ENTRY = re.compile(r"embed|token|position|patch")
_PROJECTION = re.compile(r"(^|[._])proj(ection)?(\.|$)")
_EXTENT = re.compile(r"(none|all)|(last|lora)_([1-9]\d*)")


class Extent(NamedTuple):
    """How much of a published network is trained.

    Attributes:
        kind: A name of `EXTENTS`.
        number: The N of "last_N", or the rank R of "lora_R"; 0 for the others.
    """

    kind: str
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> "Extent":
        """Read "none", "all", "last_N" or "lora_R".

        Raises:
            ValueError: for anything else.
        """
        parts = _EXTENT.fullmatch(text)
        if not parts:
            raise ValueError(
                f"expected none, all, last_N such as last_2, or lora_R such as lora_16, got {text!r}"
            )
        return cls(parts[1]) if parts[1] else cls(parts[2], int(parts[3]))


def numbered_layers(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The numbered layers of a network in order, each with its parameters and those that follow it.

    A layer is the common start of parameter names, up to the first part with a digit: `layer4`, `features.7`,
    `encoder.layer.5`. Projections to the output belong to the last layer. Parameters before the first layer, and parts
    that read the input, belong to none.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    projections: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        if layer_name := _LAYER.match(name):
            layers.setdefault(layer_name.group(), []).append(weight)
        elif _ENTRY.search(name):
            continue
        elif _PROJECTION.search(name):
            projections.append(weight)
        elif layers:
            layers[next(reversed(layers))].append(weight)
    if layers:
        layers[next(reversed(layers))] += projections
    return layers


def _tune_all(network: nn.Module, _: int) -> None:
    network.requires_grad_(True)


def _tune_last(network: nn.Module, count: int) -> None:
    layers = numbered_layers(network)
    if count > len(layers):
        names = ", ".join(layers) or "no numbers"
        raise ValueError(
            f"the encoder has {len(layers)} layers ({names}); give fewer, or all to train all of it"
        )
    for weights in list(layers.values())[-count:]:
        for weight in weights:
            weight.requires_grad_(True)


# Functions of a frozen network and the number of an `Extent`. They raise ValueError if it cannot be done.
EXTENTS: dict[str, Callable[[nn.Module, int], None]] = {
    "none": lambda network, number: None,
    "all": _tune_all,
    "last": _tune_last,
    "lora": add_adapters,
}


def tune(network: nn.Module, extent: str, parameter: str) -> None:
    """Choose which layers of a published network training changes; all others are frozen.

    Args:
        network: The published network.
        extent: "none", "all", "last_N": the last N of its `numbered_layers`, or "lora_R": adapters of rank R, see
            `fusion.encoders.adapters`.
        parameter: The parameter that sets `extent`, for the error message.

    Raises:
        DataError: if the network has fewer layers, or cannot get adapters.
    """
    kind, number = Extent.parse(extent)
    network.requires_grad_(False)
    try:
        EXTENTS[kind](network, number)
    except ValueError as error:
        raise DataError(f"{parameter}: {extent}, but {error}") from error
