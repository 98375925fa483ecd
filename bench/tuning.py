"""What tuning of a published encoder costs, by `train.tune`: `tuning.py [BATCH] [TOKENS]`.

The encoder has the size of MiniLM (6 layers, 384 components, 30,522 pieces) and random weights. Each row is measured in
a separate process: trained weights, megabytes that training saves of the encoder, and the memory that a step adds to
that of the model: activations, gradients and the state of the optimiser. Linux only.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from fusion.encoders.adapters import extract_adapters, published_state
from fusion.encoders.recomputation import recompute_blocks
from fusion.encoders.tuning import tune

ROWS = [(extent, False) for extent in ("none", "last_1", "last_2", "lora_4", "lora_16", "all")] + [
    ("lora_16", True),
    ("all", True),
]
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # memory of tensors goes back as soon as they are not used
DIM = 256  # of Vitrine's layer on top, which always learns


def build_encoder() -> nn.Module:
    """MiniLM without its weights."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def read_memory(key: str) -> float:
    """VmRSS, the memory of this process, or VmHWM, its peak, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024


def measure(extent: str, recompute: bool, batch: int, tokens: int) -> dict[str, float | str]:
    """One row.

    Args:
        extent: See `fusion.encoders.tuning.tune`.
        recompute: Whether to compute activations again.
        batch: Texts.
        tokens: Of each text.
    """
    torch.manual_seed(0)
    network, head = build_encoder().train(), nn.Linear(384, DIM)
    full = sum(weight.numel() for weight in network.parameters())
    if recompute:
        recompute_blocks(network, "train.tune.text")
    tune(network, extent, "train.tune.text")
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([*trained, *head.parameters()])
    ids = torch.randint(2, 30_000, (batch, tokens))

    before = read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    head(network(input_ids=ids).last_hidden_state.mean(1)).square().mean().backward()
    optimizer.step()
    peak = read_memory("VmHWM")
    changed = trained and (extract_adapters(network) or published_state(network))
    return {
        "tune": extent + (", gradient_checkpointing" if recompute else ""),
        "trained": sum(weight.numel() for weight in trained),
        "share": round(sum(weight.numel() for weight in trained) / full, 4),
        "saved_mb": round(len(save(changed)) / 1e6, 2) if changed else 0.0,
        "step_mib": round(peak - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batch", type=int, nargs="?", default=64)
    parser.add_argument("tokens", type=int, nargs="?", default=32)
    arguments = parser.parse_args()
    for extent, recompute in ROWS:
        call = (
            f"import json, tuning; "
            f"print(json.dumps(tuning.measure('{extent}', {recompute}, {arguments.batch}, {arguments.tokens})))"
        )
        process = subprocess.run(
            [sys.executable, "-c", call],
            cwd=Path(__file__).parent,
            env=os.environ | AT_ONCE,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(json.dumps(json.loads(process.stdout)))


if __name__ == "__main__":
    main()
