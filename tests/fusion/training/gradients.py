"""The losses and gradients of one step, in one or several processes: `gradients.py STEP OUT OBJECTIVES`."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from fusion.features import Items
from fusion.model import ProductSearchModel
from fusion.training.distillation import Teacher
from fusion.training.distributed import join_processes, sum_gradients
from fusion.training.objective import LossBatch, Objective, entity_loss, joint_loss


def main(step: Path, out: Path, objectives: list[Objective]) -> None:
    """Write RANK.pt: for each objective the values, and the gradients by name."""
    torch.set_num_threads(1)
    model = ProductSearchModel.load(step).train()
    queries, products = (Items.from_table(pq.read_table(step / name)) for name in ("queries", "products"))
    arrays = [np.load(step / f"{name}.npy") for name in ("grades", "categories", "tags")]
    teacher = Teacher(1.0, *(np.load(step / f"teacher_{name}.npy") for name in ("products", "queries")))
    batch = LossBatch(queries, products, *arrays, teacher)
    entities = np.load(step / "entities.npy")
    results = []
    with join_processes() as world:
        for objective in objectives:
            model.zero_grad()
            rng = np.random.default_rng(0)
            loss, values = joint_loss(model, batch, objective, rng)
            labeller_loss, values["entities"] = entity_loss(model, queries.tokens, entities, objective)
            (loss + labeller_loss).backward()
            sum_gradients(model)
            weights = dict(model.named_parameters())
            gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
            results.append({"values": values, "gradients": gradients})
        torch.save(results, out / f"{world.rank}.pt")


if __name__ == "__main__":
    objectives = [Objective(**fields) for fields in json.loads(sys.argv[3])]
    main(Path(sys.argv[1]), Path(sys.argv[2]), objectives)
