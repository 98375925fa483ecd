"""Several processes that train one model, started by `torchrun`: each encodes a share of every step.

This module sums the weights' gradients itself. DistributedDataParallel would average them, needs a single `forward`,
and does not support the chunks that gradient caching encodes again.
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
    """The rank of this process and the number of processes."""

    rank: int
    size: int

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share_rows(self, count: int) -> np.ndarray:
        """The rows out of `count` that this process encodes, int64.

        All processes have equally many; the last row may occur twice.
        """
        rows = np.arange(self.rank, self.rank + self.size * -(-count // self.size), self.size)
        return rows.clip(max=max(0, count - 1))


def current_world() -> World:
    """The world of `torchrun`; a single process without it."""
    if not distributed.is_initialized():
        return World(0, 1)
    return World(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def join_processes() -> Iterator[World]:
    """Join the other processes that `torchrun` started; does nothing without `torchrun`."""
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield current_world()
    finally:
        distributed.destroy_process_group()


def gather_rows(shard: Tensor, count: int) -> Tensor:
    """All `count` rows in order, from the shards of `World.share_rows`. Gradients flow back to each process's shard."""
    if current_world().size == 1:
        return shard
    return torch.stack(all_gather(shard), 1).flatten(0, 1)[:count]


def sum_gradients(model: nn.Module) -> None:
    """Sum the gradients of each weight over all processes."""
    if current_world().size > 1:
        for weight in model.parameters():
            if not weight.requires_grad:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            distributed.all_reduce(weight.grad)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    values = values.detach().clone()
    if current_world().size > 1:
        distributed.all_reduce(values)
    return values


def broadcast_from_leader(value: T) -> T:
    """The leader's value, in every process."""
    if current_world().size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]
