"""Training on all devices of a pod: one process each, as torchrun starts them."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from catalog.schema import DataError
from components.params import TrainParams
from components.train import train as train_alone


def train(features: Path, params: TrainParams, model: Path, processes: int | None = None) -> None:
    """As `components.train.train`, on every GPU that is here.

    Args:
        features: What `featurize` wrote.
        params: The model and its training.
        model: Folder to write.
        processes: That share the work; by default one a GPU, or one.

    Raises:
        DataError: where one of several processes fails; its own message stands above.
    """
    count = processes or max(1, torch.cuda.device_count())
    if count == 1:
        train_alone(features, params, model)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"train": params.model_dump(mode="json")}, file)
        file.flush()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += ["--module", "components", "train", "--params", file.name]
        command += ["--features", str(features), "--model", str(model)]
        if code := subprocess.run(command, check=False).returncode:
            raise DataError(
                f"train: one of {count} processes failed (exit code {code}); what it said stands above"
            )
