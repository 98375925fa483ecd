"""The training loop, and nothing else."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fusion.encoders.vocabulary import PAD, UNKNOWN
from fusion.facets import CATEGORY
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.training.distributed import from_leader, sum_gradients, world
from fusion.training.hard_negatives import mine
from fusion.training.objective import Objective, joint_loss, label_loss
from fusion.training.sampling import Pairs, Step, TrainingSet

WARM_UP = 0.1
FINE = 0.01  # of the learning rate, for what a published encoder has learned already
AVERAGED = 0.98  # what the average of the weights keeps of itself in a step
HIDDEN = 0.2  # share of the vocabulary that a step hides in products
MEASURED = 10_000  # pictures that the features are standardised by, at most


def fit(
    model: ProductSearchModel,
    data: TrainingSet,
    validate: Callable[[ProductSearchModel, np.ndarray], float],
    objective: Objective,
    *,
    epochs: int,
    patience: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    hard_negatives: bool,
    seed: int,
    checkpoint: Path,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train in place, and leave the model with the weights of its best epoch.

    What is scored and kept are running averages of the weights over the last steps, which generalise better than
    those of any one step (Polyak and Juditsky, 1992).

    Every epoch draws its random numbers from (seed, epoch) alone, so that a run that goes on from the checkpoint
    ends with the same weights as one that was never stopped.

    Where `torchrun` started several processes, all call this with the same arguments; the leading one alone validates
    and writes, and all end with the same weights.

    Args:
        model: On the device to train on.
        data: What may be seen.
        validate: The score of a model in evaluation mode, higher is better, given the vectors by which it finds the
            products of `data`, float32 (P, dim).
        objective: What is minimised.
        epochs: At most this many.
        patience: Epochs without a better score before stopping.
        batch_size: Queries in a step, half of them judged.
        learning_rate: Highest; warms up over a tenth of all steps, then falls along a cosine.
        weight_decay: Of AdamW.
        hard_negatives: Whether judged queries meet what the model wrongly ranks high, mined after each epoch but the
            last.
        seed: Of everything random.
        checkpoint: Written after each epoch; if it exists, training goes on from it.
        report: Told of each epoch as it ends: its row, and the queries and products seen per second.

    Returns:
        One row an epoch: epoch, loss and its terms, and the score.

    Raises:
        FloatingPointError: where the loss is not finite; names epoch, step and what was in it.
    """
    here, steps = world(), data.steps(batch_size)
    seen = _pictures(data)
    if len(seen):
        model.measure(seen)
    run = _Run(model, learning_rate, weight_decay, epochs * steps)
    run.resume(checkpoint)
    done = len(run.history)
    with tqdm(
        desc="train", total=epochs * steps, initial=done * steps, unit="step", disable=not here.leads
    ) as bar:
        for epoch in range(done, epochs):
            if epoch - _best_epoch(run.history) > patience:
                break
            torch.manual_seed(
                (seed * 1_000_003 + epoch) * here.size + here.rank
            )  # dropout differs by process
            rng = np.random.default_rng([seed, epoch])
            sums: dict[str, float] = {}
            began, samples = time.perf_counter(), 0
            for number, step in enumerate(data.epoch(batch_size, rng, run.hard), start=1):
                try:
                    values = run.step(data, step, objective, rng)
                except FloatingPointError as error:
                    raise FloatingPointError(
                        f"{error} in epoch {epoch + 1}, step {number}; {_suspects(data, step)}"
                    ) from None
                sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
                samples += len(step.queries) + len(step.products)
                pace = samples / (time.perf_counter() - began)
                best = run.history[_best_epoch(run.history)]["score"] if run.history else 0.0
                told = {
                    "loss": f"{sums['loss'] / number:.3f}",
                    "best": f"{best:.3f}",
                    "samples/s": f"{pace:.0f}",
                }
                bar.set_postfix({"epoch": str(epoch + 1)} | told, refresh=False)
                bar.update()
            score, hard = 0.0, Pairs.none()
            if here.leads:
                vectors = embed(run.averaged, data.products, "product")
                score = float(validate(run.averaged, vectors))
                if hard_negatives and epoch + 1 < epochs:
                    hard = mine(run.averaged, data, vectors, np.random.default_rng([seed, epoch, 1]))
            score, hard = from_leader((score, hard))
            means = {name: total / steps for name, total in sums.items()}
            run.finish_epoch({"epoch": epoch + 1, **means, "score": score}, hard)
            if here.leads:
                run.save(checkpoint)
                report(run.history[-1] | {"samples_per_s": pace})
    model.load_state_dict(run.best)
    model.eval()
    return run.history


class _Run:
    """What training changes as it goes, and what a checkpoint holds.

    Args:
        model: Trained in place.
        learning_rate: See `fit`.
        weight_decay: Likewise.
        steps: In all.
    """

    def __init__(
        self, model: ProductSearchModel, learning_rate: float, weight_decay: float, steps: int
    ) -> None:
        self.model, self.device = model, next(model.parameters()).device
        published = {id(weight) for trunk in model.trunks for weight in trunk.parameters()}
        kinds: dict[tuple[bool, bool], list[Tensor]] = defaultdict(list)
        for weight in model.parameters():
            if weight.requires_grad:
                kinds[weight.ndim > 1, id(weight) in published].append(weight)
        groups = [  # biases and the temperature do not decay
            {
                "params": weights,
                "weight_decay": decays * weight_decay,
                "lr": learning_rate * (FINE if fine else 1),
            }
            for (decays, fine), weights in kinds.items()
        ]
        self.optimizer = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _share(step, steps))
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.hard = Pairs.none()

    @property
    def averaged(self) -> ProductSearchModel:
        """The model with the averages of its weights, in evaluation mode."""
        return cast(ProductSearchModel, self.average.module.eval())

    def step(
        self, data: TrainingSet, step: Step, objective: Objective, rng: np.random.Generator
    ) -> dict[str, float]:
        """One step down; the values of the loss and its terms.

        Raises:
            FloatingPointError: where the loss is not finite.
        """
        self.model.train()
        hidden = rng.random(self.model.config.vocabulary) < HIDDEN
        products = data.products.take(step.products)
        products = replace(products, tokens=_hide(products.tokens, hidden))
        texts = _hide(step.texts, hidden)
        categories = data.facets.values[step.products, CATEGORY]
        tags = data.tags(list(self.model.config.tags), step.products)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, values = joint_loss(
                self.model, step.queries, products, step.grades, categories, tags, objective, rng
            )
            labelled, values["entities"] = label_loss(self.model, texts, step.entities, objective.chunk)
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss is {values['loss']}")
        self.optimizer.zero_grad(set_to_none=True)
        (loss + labelled).backward()
        sum_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.schedule.step()
        return values

    def finish_epoch(self, row: dict[str, float], hard: Pairs) -> None:
        self.hard = hard
        self.history.append(row)
        if _best_epoch(self.history) == len(self.history) - 1:
            self.best = {name: value.clone() for name, value in self.averaged.state_dict().items()}

    def save(self, checkpoint: Path) -> None:
        """Whole or not at all."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        partial = checkpoint.with_suffix(".partial")
        hard = tuple(map(torch.from_numpy, self.hard))
        torch.save(state | {"history": self.history, "best": self.best, "hard": hard}, partial)
        partial.replace(checkpoint)

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True, map_location=self.device)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.history, self.best = state["history"], state["best"]
            self.hard = Pairs(*(rows.cpu().numpy() for rows in state["hard"]))

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "average": self.average,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }


def _hide(tokens: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Make some words unknown in all texts of a step: what a text leaves unsaid is to be read off the picture, and what
    a word is off its neighbours.

    Args:
        tokens: int32 (N, T).
        hidden: bool (vocabulary,).
    """
    return np.where(hidden[tokens] & (tokens != PAD), UNKNOWN, tokens)


def _suspects(data: TrainingSet, step: Step) -> str:
    """What was in a step whose loss is not finite, and what to do."""
    products = data.products.take(step.products)
    broken = [
        key
        for items in (step.queries, products)
        for key, features in zip(items.ids, items.images, strict=True)
        if not np.isfinite(features).all()
    ]
    if broken:
        return f"the pictures of {_some(broken)} have features that are not finite; remove them from the data"
    seen = f"queries {_some(step.queries.ids)}; products {_some(products.ids)}"
    return f"lower train.learning_rate, or look into what it read: {seen}"


def _some(ids: Sequence[str] | np.ndarray, most: int = 10) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _pictures(data: TrainingSet) -> Items:
    """The training side's products that have a picture, or `MEASURED` of them."""
    rows = data.own[data.products.has_image[data.own]]
    return data.products.take(rows[:: 1 + len(rows) // MEASURED])


def _share(step: int, steps: int) -> float:
    """The learning rate after `step` of `steps`, as a share of the highest."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def _best_epoch(history: list[dict[str, float]]) -> int:
    """Index of the first epoch with the highest score; 0 where there is none yet."""
    return max(range(len(history)), key=lambda i: history[i]["score"], default=0)
