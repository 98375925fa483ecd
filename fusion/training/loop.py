"""The training loop."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from catalog.progress import Progress, show_progress
from fusion.encoders.vocabulary import PAD, UNKNOWN
from fusion.facets import CATEGORY
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.training.averaging import WeightAverage, load_trained_state, trained_state
from fusion.training.distributed import broadcast_from_leader, current_world, sum_gradients
from fusion.training.hard_negatives import mine_hard_negatives
from fusion.training.objective import LossBatch, Objective, entity_loss, joint_loss
from fusion.training.sampling import Pairs, Step, TrainingSet

WARM_UP = 0.1  # share of all steps
# Learning rate of adapters, relative to that of published layers. Tuned by adapters, a layer learns best at about ten
# times the rate that is best for its own weights (Schulman et al., 2025, "LoRA Without Regret").
ADAPTER_RATE = 10
WORD_DROPOUT = 0.2  # share of the pieces that a step replaces by "unknown" in texts
MAX_MEASURED_PICTURES = 10_000  # from which the features are standardised


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Maximum number of epochs.
        patience: Epochs without a better score before training stops.
        batch_size: Queries in a step, half of them judged.
        learning_rate: Highest; warms up over a tenth of all steps, then falls along a cosine.
        published_rate: Learning rate of the layers of published encoders, as a share of `learning_rate`; adapters have
            `ADAPTER_RATE` times as much.
        weight_decay: Of AdamW.
        hard_negatives: Whether judged queries get hard negatives, mined after each epoch but the last.
        seed: Of all random numbers.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    published_rate: float
    weight_decay: float
    hard_negatives: bool
    seed: int


Validator = Callable[[ProductSearchModel, np.ndarray], float]


def fit_model(
    model: ProductSearchModel,
    data: TrainingSet,
    validate: Validator,
    objective: Objective,
    schedule: Schedule,
    *,
    checkpoint: Path,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train in place. At the end the model has the weights of its best epoch.

    Validates and keeps the running averages of the weights (`fusion.training.averaging`). With `torchrun`, all
    processes call this with the same arguments; only the leader validates and writes, and all end with the same
    weights.

    Args:
        model: On the device to train on.
        data: The training set.
        validate: The score of a model in evaluation mode, higher is better, given its embeddings of the products of
            `data`, float32 (P, dim).
        objective: What is minimised.
        schedule: How long and how fast to train.
        checkpoint: Written after each epoch; if the file exists, training resumes from it.
        report: Called at the end of each epoch with its row and the queries and products per second.

    Returns:
        One row an epoch: epoch, loss and its terms, and the score.

    Raises:
        FloatingPointError: if the loss is not finite; names epoch, step and what to do.
    """
    run = _TrainingRun(model, data, objective, schedule)
    run.resume(checkpoint)
    with run.progress_bar() as bar:
        for epoch in range(len(run.history), schedule.epochs):
            if epoch - _best_epoch(run.history) > schedule.patience:
                break
            losses, samples_per_second = run.train_epoch(epoch, bar)
            score, hard_negatives = _validate_epoch(run, epoch, validate)
            run.finish_epoch({"epoch": epoch + 1, **losses, "score": score}, hard_negatives)
            if current_world().is_leader:
                run.save(checkpoint)
                report(run.history[-1] | {"samples_per_s": samples_per_second})
    load_trained_state(model, run.best_weights)
    model.eval()
    return run.history


class _TrainingRun:
    """The state of training; a checkpoint holds what changes.

    Args:
        model: Trained in place.
        data: The training set.
        objective: What is minimised.
        schedule: How long and how fast to train.
    """

    def __init__(
        self, model: ProductSearchModel, data: TrainingSet, objective: Objective, schedule: Schedule
    ) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.data, self.objective, self.schedule = data, objective, schedule
        self.steps_per_epoch = data.steps_per_epoch(schedule.batch_size)
        _measure_pictures(model, data)
        _measure_joint(model, data)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, schedule))
        total_steps = schedule.epochs * self.steps_per_epoch
        self.rate_schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _rate_share(step, total_steps)
        )
        self.average = WeightAverage(model)
        self.history: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.hard_negatives = Pairs.empty()

    @property
    def best_score(self) -> float:
        return self.history[_best_epoch(self.history)]["score"] if self.history else 0.0

    def progress_bar(self) -> Progress:
        """A bar of all steps; only the leader shows it."""
        return show_progress(
            desc="train",
            total=self.schedule.epochs * self.steps_per_epoch,
            initial=len(self.history) * self.steps_per_epoch,
            unit="step",
            disable=not current_world().is_leader,
        )

    def train_epoch(self, epoch: int, bar: Progress) -> tuple[dict[str, float], float]:
        """Train one epoch.

        All random numbers depend only on (seed, epoch), so a resumed run ends with the same weights.

        Returns:
            The mean loss and its terms, and the queries and products per second.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        world = current_world()
        # dropout differs by process
        torch.manual_seed((self.schedule.seed * 1_000_003 + epoch) * world.size + world.rank)
        rng = np.random.default_rng([self.schedule.seed, epoch])
        sums: dict[str, float] = {}
        start, samples, samples_per_second = time.perf_counter(), 0, 0.0
        steps = self.data.draw_epoch(self.schedule.batch_size, rng, self.hard_negatives)
        for number, step in enumerate(steps, start=1):
            try:
                with allow_tf32(self.device):
                    values = self.take_step(step, rng)
            except FloatingPointError as error:
                place = f"epoch {epoch + 1}, step {number}"
                raise FloatingPointError(f"{error} in {place}; {_explain_nan(self.data, step)}") from None
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            samples += len(step.queries) + len(step.products)
            samples_per_second = samples / (time.perf_counter() - start)
            self._show_progress(bar, epoch, sums["loss"] / number, samples_per_second)
        return {name: total / self.steps_per_epoch for name, total in sums.items()}, samples_per_second

    def _show_progress(self, bar: Progress, epoch: int, mean_loss: float, samples_per_second: float) -> None:
        postfix = {
            "epoch": str(epoch + 1),
            "loss": f"{mean_loss:.3f}",
            "best": f"{self.best_score:.3f}",
            "samples/s": f"{samples_per_second:.0f}",
        }
        bar.set_postfix(postfix, refresh=False)
        bar.update()

    def take_step(self, step: Step, rng: np.random.Generator) -> dict[str, float]:
        """Take one optimiser step and return the values of the loss and its terms.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        self.model.train()
        dropped_words = rng.random(self.model.config.vocabulary) < WORD_DROPOUT
        batch = _loss_batch(self.model, self.data, step, dropped_words)
        texts = _drop_words(step.texts, dropped_words)
        loss, values = joint_loss(self.model, batch, self.objective, rng)
        labeller_loss, values["entities"] = entity_loss(self.model, texts, step.entities, self.objective)
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss is {values['loss']}")
        self.optimizer.zero_grad(set_to_none=True)
        (loss + labeller_loss).backward()
        sum_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.model)
        self.rate_schedule.step()
        return values

    def finish_epoch(self, row: dict[str, float], hard_negatives: Pairs) -> None:
        """Add the epoch's row to the history; keep the averaged weights if the score is the best."""
        self.hard_negatives = hard_negatives
        self.history.append(row)
        if _best_epoch(self.history) == len(self.history) - 1:
            weights = trained_state(self.average.model)
            self.best_weights = {name: value.clone() for name, value in weights.items()}

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint atomically."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._stateful_parts().items()}
        state |= {"model": trained_state(self.model), "history": self.history, "best": self.best_weights}
        state["hard"] = tuple(map(torch.from_numpy, self.hard_negatives))
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    def resume(self, checkpoint: Path) -> None:
        """Restore the state of a checkpoint, if the file exists."""
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True, map_location=self.device)
            for name, part in self._stateful_parts().items():
                part.load_state_dict(state[name])
            load_trained_state(self.model, state["model"])
            self.history, self.best_weights = state["history"], state["best"]
            self.hard_negatives = Pairs(*(rows.cpu().numpy() for rows in state["hard"]))

    def _stateful_parts(self) -> dict[str, Any]:
        return {
            "average": self.average,
            "optimizer": self.optimizer,
            "schedule": self.rate_schedule,
        }


@contextmanager
def allow_tf32(device: torch.device) -> Iterator[None]:
    """Let products of float32 matrices use the TF32 cores of a GPU, as convolutions do by default.

    Only in training: validation and all later stages compute with all digits of float32.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":  # on some CPUs it would change digits, too
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _validate_epoch(run: _TrainingRun, epoch: int, validate: Validator) -> tuple[float, Pairs]:
    """The score of the averaged weights, and hard negatives for the next epoch, the same in all processes."""
    score, hard_negatives = 0.0, Pairs.empty()
    if current_world().is_leader:
        product_embeddings = embed(run.average.model, run.data.products, "product")
        score = float(validate(run.average.model, product_embeddings))
        if run.schedule.hard_negatives and epoch + 1 < run.schedule.epochs:
            rng = np.random.default_rng([run.schedule.seed, epoch, 1])
            hard_negatives = mine_hard_negatives(run.average.model, run.data, product_embeddings, rng)
    return broadcast_from_leader((score, hard_negatives))


def _measure_pictures(model: ProductSearchModel, data: TrainingSet) -> None:
    """Standardise image features by the training products with a picture, or `MAX_MEASURED_PICTURES` of them."""
    rows = data.training_rows[data.products.has_image[data.training_rows]]
    pictured: Items = data.products.take(rows[:: 1 + len(rows) // MAX_MEASURED_PICTURES])
    if len(pictured):
        model.measure(pictured)


def _measure_joint(model: ProductSearchModel, data: TrainingSet) -> None:
    """Standardise joint vectors by those of the training products."""
    rows = data.training_rows
    joined = data.products.take(rows[data.products.joint[rows].any(1)])
    if len(joined):
        model.measure_joint(joined)


def parameter_groups(model: ProductSearchModel, schedule: Schedule) -> list[dict[str, Any]]:
    """Groups for the optimiser: biases and the temperature do not decay, and published encoders learn slowly.

    Args:
        model: Its frozen weights are in no group.
        schedule: The rates and the decay.
    """
    rates = {id(weight): schedule.published_rate for trunk in model.trunks for weight in trunk.parameters()}
    rates |= {id(weight): ADAPTER_RATE * schedule.published_rate for weight in model.adapters}
    groups: dict[tuple[bool, float], list[Tensor]] = defaultdict(list)
    for weight in model.parameters():
        if weight.requires_grad:
            groups[weight.ndim > 1, rates.get(id(weight), 1.0)].append(weight)
    return [
        {
            "params": weights,
            "weight_decay": decays * schedule.weight_decay,
            "lr": schedule.learning_rate * rate,
        }
        for (decays, rate), weights in groups.items()
    ]


def _loss_batch(
    model: ProductSearchModel, data: TrainingSet, step: Step, dropped_words: np.ndarray
) -> LossBatch:
    """The queries and products of a step, with word dropout in the products' texts."""
    products = data.products.take(step.products)
    return LossBatch(
        queries=step.queries,
        products=replace(products, tokens=_drop_words(products.tokens, dropped_words)),
        grades=step.grades,
        categories=data.facets.values[step.products, CATEGORY],
        tags=data.tags(list(model.config.tags), step.products),
        teacher=data.take_teacher(step),
    )


def _drop_words(tokens: np.ndarray, dropped_words: np.ndarray) -> np.ndarray:
    """Word dropout: make some pieces unknown in all texts of a step.

    So the model learns to infer missing words from the picture, and entities from neighbouring words.

    Args:
        tokens: int32 (N, T).
        dropped_words: bool (vocabulary,).
    """
    return np.where(dropped_words[tokens] & (tokens != PAD), UNKNOWN, tokens)


def _explain_nan(data: TrainingSet, step: Step) -> str:
    """What was in a step whose loss is not finite, and what to do."""
    products = data.products.take(step.products)
    broken = [
        key
        for items in (step.queries, products)
        for key, features in zip(items.ids, items.images, strict=True)
        if not np.isfinite(features).all()
    ]
    if broken:
        ids = _abbreviate(broken)
        return f"the pictures of {ids} have features that are not finite; remove them from the data"
    inputs = f"queries {_abbreviate(step.queries.ids)}; products {_abbreviate(products.ids)}"
    return f"lower train.learning_rate, or check its input: {inputs}"


def _abbreviate(ids: Sequence[str] | np.ndarray, limit: int = 10) -> str:
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def _rate_share(step: int, steps: int) -> float:
    """The learning rate after `step` of `steps`, as a share of the highest."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def _best_epoch(history: list[dict[str, float]]) -> int:
    """Index of the first epoch with the highest score; 0 for an empty history."""
    return max(range(len(history)), key=lambda i: history[i]["score"], default=0)
