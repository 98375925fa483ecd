"""Gradient checkpointing on networks of known size; test_families.py has that of every family."""

import copy

import pytest
import torch
import torchvision
import transformers
from torch import Tensor, nn

from catalog.schema import DataError
from fusion.encoders.image import ImageEncoder, build_architecture
from fusion.encoders.recomputation import recompute_blocks


class Block(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), 0

    def forward(self, inputs: Tensor, *, shift: float = 0.0) -> Tensor:
        self.calls += 1
        return self.layer(inputs).tanh() + shift


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(Block(), Block()), Block())


def gradients(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(3)  # of dropout
    outputs = model(inputs)
    sum(output.sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def calls(model: nn.Module) -> list[int]:
    return [module.calls for module in model.modules() if isinstance(module, Block)]


def test_blocks_run_twice_with_the_same_dropout() -> None:
    model, inputs = network(), torch.ones(2, 4)
    expected = gradients(model, inputs)
    assert calls(model) == [1, 1, 1]
    recompute_blocks(model, "knob")
    for actual, value in zip(gradients(model, inputs), expected, strict=True):
        assert torch.equal(actual, value)
    assert calls(model) == [3, 3, 3]
    with torch.inference_mode():
        model(inputs)
    assert calls(model) == [4, 4, 4]


def test_a_copy_runs_its_own_blocks() -> None:
    """The averaged model is a copy."""
    model = network().eval()
    recompute_blocks(model, "knob")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert not twin(torch.ones(1, 4)).any() and model(torch.ones(1, 4)).any()
    assert calls(model) == [1, 1, 1] == calls(twin)


def test_a_block_is_not_added_to_a_cache_twice() -> None:
    """Language models keep keys and values for the next token, also in training."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Qwen3Config(vocab_size=20, num_key_value_heads=2, head_dim=8, **sizes)
    model = transformers.Qwen3Model(config)
    assert config.use_cache

    def weight_gradients() -> list[Tensor]:
        model.zero_grad()
        texts = {
            "input_ids": torch.arange(6).view(2, 3),
            "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        }
        model(**texts).last_hidden_state.square().sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    expected = weight_gradients()
    recompute_blocks(model, "knob")
    for actual, value in zip(weight_gradients(), expected, strict=True):
        torch.testing.assert_close(actual, value)


def test_less_is_kept() -> None:
    """Of a CNN of torchvision: only the blocks' inputs."""
    state = torchvision.models.get_model("resnet18").state_dict()
    encoder = ImageEncoder("resnet18", 2, build_architecture("resnet18").adapt(state))
    encoder.requires_grad_(True)
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.append(tensor.numel())
        return tensor

    def measure() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            encoder(pictures)
        return sum(kept)

    before, expected = measure(), gradients(encoder, pictures)
    recompute_blocks(encoder, "knob")
    assert measure() < 0.5 * before
    for actual, value in zip(gradients(encoder, pictures), expected, strict=True):
        torch.testing.assert_close(actual, value, atol=1e-6 * float(value.abs().max()), rtol=0)


def test_a_network_without_blocks() -> None:
    message = (
        r"^train\.gradient_checkpointing: the encoder that knob tunes is no sequence of blocks; set false$"
    )
    with pytest.raises(DataError, match=message):
        recompute_blocks(nn.Sequential(nn.Linear(2, 2)), "knob")
