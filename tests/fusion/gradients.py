"""The losses and gradients of one step, in as many processes as start it: `gradients.py STEP OUT OBJECTIVES`."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from fusion.features import Items
from fusion.model import ProductSearchModel
from fusion.training.distributed import processes, sum_gradients
from fusion.training.objective import Objective, joint_loss, label_loss


def main(step: Path, out: Path, objectives: list[Objective]) -> None:
    """Write RANK.pt: for each objective the values, and the gradients by name."""
    torch.set_num_threads(1)
    model = ProductSearchModel.load(step).train()
    queries, products = (Items.from_table(pq.read_table(step / name)) for name in ("queries", "products"))
    known = [np.load(step / f"{name}.npy") for name in ("grades", "categories", "tags")]
    entities = np.load(step / "entities.npy")
    found = []
    with processes() as here:
        for objective in objectives:
            model.zero_grad()
            rng = np.random.default_rng(0)
            loss, values = joint_loss(model, queries, products, *known, objective, rng)
            labelled, values["entities"] = label_loss(model, queries.tokens, entities, objective.chunk)
            (loss + labelled).backward()
            sum_gradients(model)
            weights = dict(model.named_parameters())
            gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
            found.append({"values": values, "gradients": gradients})
        torch.save(found, out / f"{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Objective(**told) for told in json.loads(sys.argv[3])])
