"""Running averages of weights, and the part of a model's state that training changes."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fusion.model import ProductSearchModel

EMA_DECAY = 0.98  # of the average of the weights, per step


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without its frozen weights, which a checkpoint need not hold."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of `trained_state`; frozen weights keep their values."""
    model.load_state_dict(model.state_dict() | state)


class WeightAverage:
    """A model whose trained weights are exponential moving averages of those of another.

    They generalise better than the weights of a single step (Polyak and Juditsky, 1992).

    Args:
        model: Frozen weights are shared with it.

    Attributes:
        model: The averaged model, in evaluation mode.
    """

    def __init__(self, model: ProductSearchModel) -> None:
        frozen: dict[int, Any] = {
            id(weight): weight for weight in model.parameters() if not weight.requires_grad
        }
        self.model = copy.deepcopy(model, frozen).eval()  # a copy of a frozen weight is the weight
        self.steps = 0
        self._average = get_ema_multi_avg_fn(EMA_DECAY)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the weights of a step; the first are the averages themselves. Buffers are copied."""
        averages, weights = (
            [weight for weight in part.parameters() if weight.requires_grad] for part in (self.model, model)
        )
        pairs = [*zip(self.model.buffers(), model.buffers(), strict=True)]
        if self.steps:
            self._average(averages, weights, self.steps)
        else:
            pairs += zip(averages, weights, strict=True)
        for average, value in pairs:
            average.copy_(value)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"weights": trained_state(self.model), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        load_trained_state(self.model, state["weights"])
        self.steps = state["steps"]
