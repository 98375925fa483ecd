"""The numbered layers of published networks with different naming schemes."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import nn

from catalog.schema import DataError
from fusion.encoders.image import ImageEncoder, build_architecture
from fusion.encoders.tuning import numbered_layers, tune


def trained(network: nn.Module) -> list[str]:
    return [name for name, weight in network.named_parameters() if weight.requires_grad]


def test_layers_of_a_resnet() -> None:
    names = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    assert list(numbered_layers(build_architecture("resnet18").features)) == [
        f"network.{name}" for name in names
    ]


def test_layers_of_an_efficientnet_and_of_a_transformer(encoder: ImageEncoder) -> None:
    numbers = ["_bn0", *(f"_blocks.{n}" for n in range(16)), "_bn1"]
    assert list(numbered_layers(encoder.features)) == [f"network.{name}" for name in numbers]
    numbers = [f"encoder.layers.encoder_layer_{n}" for n in range(12)]
    assert list(numbered_layers(build_architecture("vit_b_32").features)) == [
        f"network.{name}" for name in numbers
    ]


def test_layers_of_a_sentence_encoder(bert: Path) -> None:
    network: Any = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False)
    assert list(numbered_layers(network)) == [f"encoder.layer.{n}" for n in range(3)]


@pytest.mark.parametrize("tower", ["CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"])
def test_what_follows_the_last_layers_learns_with_them(clip: Path, tower: str) -> None:
    network: Any = getattr(transformers, tower).from_pretrained(clip)
    tune(network, "last_1", "knob")
    last = max(
        name.split(".layers.")[1][0] for name in dict(network.named_parameters()) if ".layers." in name
    )
    learning = trained(network)
    assert {name for name in learning if ".layers." in name} == {
        name for name, _ in network.named_parameters() if f".layers.{last}." in name
    }
    after = {name.split(".")[-2] for name in learning if ".layers." not in name}
    assert after in ({"final_layer_norm", "text_projection"}, {"post_layernorm", "visual_projection"})


def test_extents() -> None:
    network = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
    network.register_parameter("token", nn.Parameter(nn.Linear(1, 1).weight))  # comes first
    trained_weights = {}
    for extent in ("none", "last_1", "last_3", "all"):
        tune(network, extent, "knob")
        trained_weights[extent] = trained(network)
    assert trained_weights == {
        "none": [],
        "last_1": ["2.weight"],
        "last_3": ["0.weight", "1.weight", "2.weight"],
        "all": ["token", "0.weight", "1.weight", "2.weight"],
    }


@pytest.mark.parametrize(
    ("network", "message"), [(nn.Sequential(nn.Linear(1, 1)), "1 layers .0."), (nn.Linear(1, 1), "0")]
)
def test_more_layers_than_there_are(network: nn.Module, message: str) -> None:
    with pytest.raises(DataError, match=rf"knob: last_2, but the encoder has {message}.*give fewer, or all"):
        tune(network, "last_2", "knob")
