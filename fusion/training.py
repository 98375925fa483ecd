"""The training loop, and nothing else."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fusion.features import Items
from fusion.losses import graded_contrastive
from fusion.model import MODALITIES, ProductSearchModel
from fusion.sampling import Step, TrainingSet
from fusion.text import PAD, UNKNOWN

WARM_UP = 0.1
AVERAGED = 0.98  # what the average of the weights keeps of itself in a step
HIDDEN = 0.2  # share of the vocabulary that a step hides in products
MEASURED = 10_000  # pictures that the features are standardised by, at most


def joint_loss(
    model: ProductSearchModel,
    queries: dict[str, Tensor],
    products: dict[str, Tensor],
    grades: Tensor,
    *,
    alpha: float,
    beta: float,
    modality_dropout: float,
) -> dict[str, Tensor]:
    """L = α·L_text + β·L_vision + L_fused: the query against the text alone, the picture alone, and both.

    Args:
        model: Both towers.
        queries: A batch of Q queries.
        products: A batch of P products.
        grades: int64 (Q, P).
        alpha: Weight of the text loss.
        beta: Weight of the vision loss.
        modality_dropout: Chance that a product with both modalities loses one of them in L_fused.

    Returns:
        Scalars: `loss` and its three terms, `text`, `vision` and `fused`.
    """
    asked = model.scale * model.encode_query(queries)
    parts = model.parts(products)
    present = parts.present
    dropped = torch.rand(len(present), device=present.device) < modality_dropout
    victim = torch.randint(len(MODALITIES), (len(present),), device=present.device)
    lost = torch.nn.functional.one_hot(victim, len(MODALITIES)).bool() & (dropped & present.all(1))[:, None]
    fused = graded_contrastive(asked @ model.fuse_product(parts.only(~lost)).T, grades)

    def alone(modality: str) -> Tensor:
        has = present[:, MODALITIES.index(modality)]
        vectors = model.fuse_product(parts.rows(has), only=(modality,))
        return graded_contrastive(asked @ vectors.T, grades[:, has])

    text, vision = alone("text"), alone("image")
    return {"loss": alpha * text + beta * vision + fused, "text": text, "vision": vision, "fused": fused}


def fit(
    model: ProductSearchModel,
    data: TrainingSet,
    validate: Callable[[ProductSearchModel], float],
    *,
    epochs: int,
    patience: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    alpha: float,
    beta: float,
    modality_dropout: float,
    seed: int,
    checkpoint: Path,
) -> list[dict[str, float]]:
    """Train in place, and leave the model with the weights of its best epoch.

    What is scored and kept are running averages of the weights over the last steps, which generalise better than
    those of any one step (Polyak and Juditsky, 1992).

    Every epoch draws its random numbers from (seed, epoch) alone, so that a run that goes on from the checkpoint
    ends with the same weights as one that was never stopped.

    Args:
        model: On the device to train on.
        data: What may be seen.
        validate: The score of a model in evaluation mode, higher is better.
        epochs: At most this many.
        patience: Epochs without a better score before stopping.
        batch_size: Queries in a step, half of them judged.
        learning_rate: Highest; warms up over a tenth of all steps, then falls along a cosine.
        weight_decay: Of AdamW.
        alpha: See `joint_loss`.
        beta: See `joint_loss`.
        modality_dropout: See `joint_loss`.
        seed: Of everything random.
        checkpoint: Written after each epoch; if it exists, training goes on from it.

    Returns:
        One row an epoch: epoch, loss and its terms, and the score.

    Raises:
        FloatingPointError: where the loss is not finite; names epoch and step.
    """
    device = next(model.parameters()).device
    steps = data.steps(batch_size)
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},  # biases, temperature
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, epochs * steps))
    seen = _pictures(data)
    if len(seen):
        model.measure(seen)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
    averaged = cast(ProductSearchModel, average.module)
    state: dict[str, Any] = {"history": [], "best": None}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    history: list[dict[str, float]] = state["history"]
    done = len(history)
    with tqdm(total=epochs * steps, initial=done * steps, desc="train", unit="step") as bar:
        for epoch in range(done, epochs):
            if epoch - _best_epoch(history) > patience:
                break
            torch.manual_seed(seed * 1_000_003 + epoch)
            rng = np.random.default_rng([seed, epoch])
            sums: dict[str, float] = {}
            model.train()
            for number, step in enumerate(data.epoch(batch_size, rng), start=1):
                losses = _losses(model, data, step, device, alpha, beta, modality_dropout)
                if not torch.isfinite(losses["loss"]):
                    raise FloatingPointError(
                        f"the loss is {losses['loss'].item()} in epoch {epoch + 1}, step {number}; "
                        "lower train.learning_rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                losses["loss"].backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                average.update_parameters(model)
                schedule.step()
                sums = {name: sums.get(name, 0.0) + value.item() for name, value in losses.items()}
                bar.set_postfix(epoch=epoch + 1, loss=f"{sums['loss'] / number:.3f}", refresh=False)
                bar.update()
            means = {name: total / steps for name, total in sums.items()}
            history.append({"epoch": epoch + 1, **means, "score": float(validate(averaged.eval()))})
            if _best_epoch(history) == epoch:
                state["best"] = {name: value.clone() for name, value in averaged.state_dict().items()}
            state |= {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "history": history,
            }
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint)
    model.load_state_dict(state["best"])
    model.eval()
    return history


def _losses(
    model: ProductSearchModel,
    data: TrainingSet,
    step: Step,
    device: torch.device,
    alpha: float,
    beta: float,
    modality_dropout: float,
) -> dict[str, Tensor]:
    queries = step.queries.batch(slice(None), device)
    products = data.products.batch(step.products, device)
    products["tokens"] = _hide(products["tokens"], model.config.vocabulary)
    grades = torch.from_numpy(step.grades).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return joint_loss(
            model, queries, products, grades, alpha=alpha, beta=beta, modality_dropout=modality_dropout
        )


def _hide(tokens: Tensor, vocabulary: int) -> Tensor:
    """Make some words unknown in all products of a step: what a text leaves unsaid is to be read off the picture."""
    hidden = torch.rand(vocabulary, device=tokens.device) < HIDDEN
    return torch.where(hidden[tokens] & (tokens != PAD), UNKNOWN, tokens)


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
