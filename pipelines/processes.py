"""Training on all GPUs of a pod: one process for each, started by torchrun."""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from catalog.schema import DataError
from catalog.threads import share_threads
from components.params import TrainParams


def train_on_gpus(features: Path, params: TrainParams, model: Path, processes: int | None = None) -> None:
    """Run `components.train.train` on every GPU of this machine.

    Args:
        features: Output of `featurize`.
        params: Parameters of the model and its training.
        model: Folder to write.
        processes: Number of processes; by default one for each GPU, or one without GPUs.

    Raises:
        DataError: if one of several processes fails; see its message above.
    """
    import torch

    from components.train import train

    count = processes or max(1, torch.cuda.device_count())
    if count == 1:
        train(features, params, model)
        return
    with tempfile.TemporaryDirectory() as folder:
        params_file = write_params(params, Path(folder))
        command = torchrun_command(features, params_file, model, "--standalone", f"--nproc-per-node={count}")
        if code := subprocess.run(command, env=share_threads(count), check=False).returncode:
            raise DataError(
                f"train: one of {count} processes failed (exit code {code}); see its message above"
            )


def write_params(params: TrainParams, folder: Path) -> Path:
    """Write the params.yaml for `torchrun_command` into a folder."""
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"train": params.model_dump(mode="json")}))
    return path


def torchrun_command(features: Path, params_file: Path, model: Path, *options: str) -> list[str]:
    """The command that trains in several processes; torchrun reads options that are missing from PET_ variables."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--module", "components", "train"]
    return [*command, "--params", str(params_file), "--features", str(features), "--model", str(model)]
