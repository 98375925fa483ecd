"""The losses and gradients of one step, in as many processes as start it: `gradients.py STEP OUT OBJECTIVE`."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from fusion.distributed import processes, sum_gradients
from fusion.features import Items
from fusion.model import ProductSearchModel
from fusion.objective import Objective, joint_loss


def main(step: Path, out: Path, objective: Objective) -> None:
    torch.set_num_threads(1)
    model = ProductSearchModel.load(step).train()
    queries, products = (Items.from_table(pq.read_table(step / name)) for name in ("queries", "products"))
    with processes() as here:
        grades, tags = np.load(step / "grades.npy"), np.load(step / "tags.npy")
        rng = np.random.default_rng(0)
        loss, values = joint_loss(model, queries, products, grades, tags, objective, rng)
        loss.backward()
        sum_gradients(model)
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        torch.save({"values": values, "gradients": gradients}, out / f"{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Objective(**json.loads(sys.argv[3])))
