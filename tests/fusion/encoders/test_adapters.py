"""Low-rank adapters on networks of known size; test_families.py has those of every family."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from torch import nn

from catalog.schema import DataError
from fusion.encoders.adapters import (
    extract_adapters,
    is_adapter,
    load_adapters,
    merge_adapters,
    published_state,
)
from fusion.encoders.image import ImageEncoder, build_architecture
from fusion.encoders.tuning import tune

PICTURES = torch.randint(
    0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


class Halved(nn.Linear):
    """A layer that changes its weight before it uses it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.weight / 2)


def adapted_layers(network: nn.Module) -> list[str]:
    return [key.removesuffix(".weight.left") for key in extract_adapters(network) if key.endswith(".left")]


def test_which_layers_get_adapters() -> None:
    network = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "map": nn.Conv2d(4, 8, 3, stride=2, padding=1),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "attention": nn.MultiheadAttention(8, 2),
            "halved": Halved(4, 4),
            "inner": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(3, 4)),
        }
    )
    tune(network, "lora_2", "knob")
    assert adapted_layers(network) == ["linear", "map", "inner.0"]
    assert {name for name, weight in network.named_parameters() if weight.requires_grad} == {
        name for name, _ in network.named_parameters() if is_adapter(name)
    }


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_merged_adapters_of_a_convolutional_network(name: str, tmp_path: Path) -> None:
    """The saved encoder and the saved adapters give the features of training, to 1e-5 of their size."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        encoder = ImageEncoder.pretrained(name, 2)
    else:
        state = torchvision.models.get_model(name).state_dict()
        encoder = ImageEncoder(name, 2, build_architecture(name).adapt(state))
    tune(encoder.features, "lora_2", "knob")
    with torch.inference_mode():
        for weight in encoder.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.02)
        expected = encoder(PICTURES)
        encoder.save(tmp_path / "encoder.safetensors")
        plain = ImageEncoder.load(tmp_path / "encoder.safetensors", name, 2, {})(PICTURES)
        factors = {f"image.{key}": value for key, value in extract_adapters(encoder.features).items()}
        save_file(factors, tmp_path / "adapters.safetensors")
        loaded = ImageEncoder.load(tmp_path / "encoder.safetensors", name, 2, {})(PICTURES)
    for actual, value, other in zip(loaded, expected, plain, strict=True):
        assert (value - other).abs().max() > 1e-2 * value.abs().max()
        torch.testing.assert_close(actual, value, atol=1e-5 * float(value.abs().max()), rtol=0)


@pytest.mark.parametrize("rank", [4, 8])
def test_adapters_are_small(rank: int, tmp_path: Path) -> None:
    """Less than 5 % of a network whose hidden states have 256 components: trained weights, and bytes."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    network = transformers.BertModel(
        transformers.BertConfig(vocab_size=4000, **sizes), add_pooling_layer=False
    )
    full = sum(weight.numel() for weight in network.parameters())
    tune(network, f"lora_{rank}", "knob")
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    # of each of 4 layers: 4 matrices 256 × 256, and 2 of 256 × 1024
    assert trained == 4 * rank * (4 * (256 + 256) + 2 * (256 + 1024)) < 0.05 * full
    save_file(published_state(network), tmp_path / "full.safetensors")
    save_file(extract_adapters(network), tmp_path / "adapters.safetensors")
    adapters, everything = (
        (tmp_path / f"{name}.safetensors").stat().st_size for name in ("adapters", "full")
    )
    assert adapters < 0.05 * everything


def test_adapters_of_another_encoder_stay_out(tmp_path: Path) -> None:
    assert load_adapters(tmp_path, "text") == {}
    save_file({"text.a": torch.ones(1), "image.b": torch.ones(2)}, tmp_path / "adapters.safetensors")
    assert list(load_adapters(tmp_path, "image")) == ["b"]


def test_nothing_to_merge() -> None:
    state = {"weight": torch.ones(2)}
    assert merge_adapters(state, {}) == state


def test_a_network_without_layers_for_adapters() -> None:
    with pytest.raises(DataError, match=r"^knob: lora_2, but the encoder has no linear layer or convolution"):
        tune(nn.Sequential(nn.LayerNorm(3)), "lora_2", "knob")


def test_peft_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    message = r"^knob: lora_2, but peft is not installed; install it with: pip install 'vitrine\[encoders\]'$"
    with pytest.raises(DataError, match=message):
        tune(nn.Sequential(nn.Linear(2, 2)), "lora_2", "knob")
