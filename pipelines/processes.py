"""Training on all devices of a pod: one process each, as torchrun starts them."""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from catalog.schema import DataError
from components.params import TrainParams


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
    import torch

    from components.train import train as alone

    count = processes or max(1, torch.cuda.device_count())
    if count == 1:
        alone(features, params, model)
        return
    with tempfile.TemporaryDirectory() as folder:
        asked = written(params, Path(folder))
        command = torchrun(features, asked, model, "--standalone", f"--nproc-per-node={count}")
        if code := subprocess.run(command, check=False).returncode:
            raise DataError(
                f"train: one of {count} processes failed (exit code {code}); what it said stands above"
            )


def written(params: TrainParams, folder: Path) -> Path:
    """A file of parameters for `torchrun`."""
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"train": params.model_dump(mode="json")}))
    return path


def torchrun(features: Path, params: Path, model: Path, *options: str) -> list[str]:
    """The command that trains in several processes; what `options` do not say, torchrun reads from PET_ variables."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--module", "components", "train"]
    return [*command, "--params", str(params), "--features", str(features), "--model", str(model)]
