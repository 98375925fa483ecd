"""Gradient checkpointing (Chen et al., 2016): memory for time, in the blocks of a published network.

A step keeps only the input of each block, and computes what happens inside again when it needs the gradients.

Most libraries have switches of their own, but that of transformers works only in training mode, in which image encoders
never are, that of OpenCLIP needs both towers of a model, and torchvision has none. This one serves all of them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint

from catalog.schema import DataError

STACKS = (nn.Sequential, nn.ModuleList)


def is_block(parent: nn.Module, module: nn.Module) -> bool:
    """Whether a module is a block: an item of a sequence or list of modules, and itself made of modules."""
    return (
        isinstance(parent, STACKS) and not isinstance(module, STACKS) and any(True for _ in module.children())
    )


def recompute_blocks(network: nn.Module, parameter: str) -> None:
    """Compute the activations inside each block again for the gradients; values and gradients stay the same.

    Args:
        network: A published network, before adapters are added; changed in place.
        parameter: The parameter that tunes it, for the error message.

    Raises:
        DataError: if it has no blocks.
    """
    blocks = list(_outer_blocks(network))
    if not blocks:
        raise DataError(
            f"train.gradient_checkpointing: the encoder that {parameter} tunes is no sequence of blocks; set false"
        )
    for module in network.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "use_cache"):
            config.use_cache = False  # a block that is computed again would add to a cache again
    for block in blocks:
        block.forward = partial(_run, block.forward)


def _outer_blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network that are not part of another block."""
    if isinstance(network, GraphModule):  # a traced network knows its blocks by their calls
        called = {str(node.target): None for node in network.graph.nodes if node.op == "call_module"}
        modules = [network.get_submodule(name) for name in called]
        yield from (module for module in modules if any(True for _ in module.children()))
        return
    for module in network.children():
        if is_block(network, module):
            yield module
        else:
            yield from _outer_blocks(module)


def _run(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
