"""Several processes that train one model, as `torchrun` starts them: each encodes a share of every step.

The weights' gradients are summed here rather than by DistributedDataParallel, which averages them, wants one `forward`,
and hides each from the chunks that gradient caching encodes again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")


class World(NamedTuple):
    """Which process this is, and of how many."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> np.ndarray:
        """The rows out of `count` that this process encodes, int64; all processes have equally many, the last twice."""
        rows = np.arange(self.rank, self.rank + self.size * -(-count // self.size), self.size)
        return rows.clip(max=max(0, count - 1))


def world() -> World:
    """As `torchrun` has it; one process where it did not start this one."""
    if not distributed.is_initialized():
        return World(0, 1)
    return World(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def processes() -> Iterator[World]:
    """Join the others that `torchrun` started; alone, nothing happens."""
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world()
    finally:
        distributed.destroy_process_group()


def gather(own: Tensor, count: int) -> Tensor:
    """All `count` rows in their order, of which each process has its `World.share`; gradients find their way back."""
    if world().size == 1:
        return own
    return torch.stack(all_gather(own), 1).flatten(0, 1)[:count]


def sum_gradients(model: nn.Module) -> None:
    """Add up what the processes' shares of the loss say of each weight."""
    if world().size > 1:
        for weight in (one for one in model.parameters() if one.requires_grad):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            distributed.all_reduce(weight.grad)


def total(values: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    values = values.detach().clone()
    if world().size > 1:
        distributed.all_reduce(values)
    return values


def from_leader(value: T) -> T:
    """What the leading process says, whatever the others do."""
    if world().size == 1:
        return value
    told = [value]
    distributed.broadcast_object_list(told)
    return told[0]
