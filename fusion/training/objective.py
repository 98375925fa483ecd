"""The joint loss of a step, over all training processes.

L = α·L_text + β·L_vision + L_fused + γ·L_tags + δ·L_pairs, and with a teacher + λ·L_distillation
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fusion.entities import UNLABELLED
from fusion.features import Items
from fusion.model import ProductSearchModel
from fusion.training.distillation import Imitation, Teacher
from fusion.training.distributed import current_world, gather_rows, sum_over_processes
from fusion.training.losses import IGNORED, LOWEST, answerable, contrastive
from fusion.training.sampling import draw_one_each

UNTAGGED = -1
TERMS = {
    "text": "text",
    "image": "vision",
    "video": "video",
    "joint": "joint",
}  # the loss of each modality's view


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
        loss: A name of `fusion.training.losses.LOSSES`.
        alpha: Weight of L_text, the query against the product's text only.
        beta: Weight of L_vision, the query against the product's picture only, and of the same loss for its clip and
            for its joint vector.
        gamma: Weight of L_tags, the cross-entropy of the products' tags, in the fused view and each unimodal view.
        delta: Weight of L_pairs, which matches each product's text with its picture among the step's products.
        distillation: Weight of L_distillation, see `fusion.training.distillation.Imitation`; only with a teacher.
        modality_dropout: Chance that a product with several modalities loses one of them in L_fused.
        picture_swap: Chance that L_fused combines a product's text with the picture of another product of its category.
            Pictures of training products are more informative than pictures of new ones; without swaps the model
            trusts pictures too much where they contradict words.
        chunk: Queries or products encoded at a time. Activations are computed again for the gradients, so memory does
            not grow with the batch. None keeps all activations.
        precision: What encoders and fusions compute in: "float32", or "bf16", bfloat16 by autocast. With both, weights,
            embeddings, similarities and losses are float32.
    """

    loss: str = "graded"
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 0.0
    distillation: float = 0.0
    modality_dropout: float = 0.2
    picture_swap: float = 0.0
    chunk: int | None = None
    precision: str = "float32"

    def weigh_terms(self, modalities: Sequence[str]) -> list[float]:
        """The weights of L_fused and of the losses of some modalities."""
        return [1.0, *(self.alpha if name == "text" else self.beta for name in modalities)]


class LossBatch(NamedTuple):
    """The input of `joint_loss`.

    Attributes:
        queries: Q queries.
        products: P products, each once.
        grades: int (Q, P), as for `fusion.training.losses.contrastive`.
        categories: int (P,), equal for products of the same category.
        tags: int64 (P, T), for each of `ModelConfig.tags` the product's value, or `UNTAGGED`.
        teacher: Its vectors of the Q queries and P products; None without a teacher.
    """

    queries: Items
    products: Items
    grades: np.ndarray
    categories: np.ndarray
    tags: np.ndarray
    teacher: Teacher | None = None


def joint_loss(
    model: ProductSearchModel, batch: LossBatch, objective: Objective, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a step. Every process gets the whole batch and encodes its share.

    Args:
        model: Both towers.
        batch: The queries and products of the step.
        objective: The weights of the terms.
        rng: In the same state in all processes.

    Returns:
        This process's part of the loss, a scalar; the gradients of all parts must be summed. And the values over all
        processes of the loss, of L_fused, of each of `TERMS` that the model has, of L_tags and L_pairs, and with a
        teacher of L_distillation.
    """
    modalities = model.config.modalities
    present = batch.products.present[:, model.config.modality_columns]
    encoded = _encode_products(model, batch, present, objective, rng)
    views = gather_rows(encoded, len(batch.products))
    in_view = np.stack([np.ones(len(batch.products), bool), *present.T], 1)
    imitation = Imitation(batch.teacher, views.device) if batch.teacher else None
    terms = _query_terms(model, batch, views, in_view, imitation, objective)
    view_terms = terms[: views.shape[1]]
    weights = torch.tensor(objective.weigh_terms(modalities), device=terms.device)
    contrastive_loss = (view_terms * weights).sum()
    tag_loss = _tag_loss(model, encoded, in_view, batch.tags)
    pair_loss = _pair_loss(views[:, 1:3], batch.products, model.scale, objective.chunk)
    loss = contrastive_loss + objective.gamma * tag_loss + objective.delta * pair_loss
    names = ["fused", *(TERMS[name] for name in modalities)]
    parts = {"tags": tag_loss, "pairs": pair_loss, **dict(zip(names, view_terms, strict=True))}
    if imitation:
        product_term = _product_imitation(model, views[:, 0], imitation, objective.chunk)
        parts["distillation"] = (terms[-1] + product_term) / 2
        loss = loss + objective.distillation * parts["distillation"]
    parts = {"loss": loss, **parts}
    values = sum_over_processes(torch.stack(list(parts.values()))).tolist()
    return loss, dict(zip(parts, values, strict=True))


def _encode_products(
    model: ProductSearchModel,
    batch: LossBatch,
    present: np.ndarray,
    objective: Objective,
    rng: np.random.Generator,
) -> Tensor:
    """This process's share of the products, as `ProductSearchModel.encode_views`."""
    products, device = batch.products, _device(model)
    hidden = _draw_hidden_modalities(present, objective.modality_dropout, rng)
    donors = _draw_picture_donors(present, batch.categories, objective.picture_swap, rng)

    def encode(rows: np.ndarray) -> Tensor:
        swapped = None
        if len(swapped_rows := np.flatnonzero(donors[rows] != rows)):
            donor_batch = products.batch(donors[rows[swapped_rows]], device)
            swapped = torch.from_numpy(swapped_rows).to(device), donor_batch
        product_batch, row_hidden = products.batch(rows, device), torch.from_numpy(hidden[rows]).to(device)
        with _autocast(device, objective):
            return model.encode_views(product_batch, row_hidden, swapped)

    return _run_in_chunks(encode, current_world().share_rows(len(products)), objective.chunk, device)


def _query_terms(
    model: ProductSearchModel,
    batch: LossBatch,
    views: Tensor,
    in_view: np.ndarray,
    imitation: Imitation | None,
    objective: Objective,
) -> Tensor:
    """This process's part of L_fused and of the loss of each modality, means over all answerable queries; then of the
    queries' imitation.

    Args:
        model: Encodes the queries.
        batch: The queries and the grades.
        views: Of all products, as `ProductSearchModel.encode_views`.
        in_view: bool (P, 1 + M), whether a product has the modality of each view.
        imitation: Of the teacher; None without one.
        objective: The loss, the size of chunks, and the precision.

    Returns:
        float (1 + M,), or (2 + M,) with a teacher.
    """
    device = views.device
    has_modality = torch.from_numpy(in_view[:, 1:]).to(device)

    def query_losses(rows: np.ndarray) -> Tensor:
        """The loss of each query and term."""
        with _autocast(device, objective):
            embeddings = model.encode_query(batch.queries.batch(rows, device))
        queries = model.scale * embeddings
        grades = torch.from_numpy(batch.grades[rows]).to(device)
        scores = queries @ views[:, 0].T
        losses = [contrastive(scores, grades, objective.loss)]
        for view, has in enumerate(has_modality.T, start=1):
            losses.append(contrastive(queries @ views[:, view].T, grades.where(has, IGNORED), objective.loss))
        if imitation:
            losses.append(imitation.compare_queries(scores, rows))
        return torch.stack(losses, 1)

    losses = _run_in_chunks(query_losses, _own_rows(len(batch.queries)), objective.chunk, device).sum(0)
    counts = [_count_answerable(batch.grades, has, objective.loss) for has in in_view.T]
    if imitation:
        counts.append(imitation.query_count)
    return losses / torch.tensor(counts).clamp(min=1).to(device)


def _product_imitation(
    model: ProductSearchModel, products: Tensor, imitation: Imitation, chunk: int | None
) -> Tensor:
    """This process's part of the products' imitation, the mean over all products that the teacher encodes.

    Args:
        model: Has the temperature.
        products: Unit vectors of all products, float (P, dim).
        imitation: Of the teacher.
        chunk: As in `Objective`.
    """

    def product_losses(rows: np.ndarray) -> Tensor:
        return imitation.compare_products(model.scale * products[rows] @ products.T, rows)

    losses = _run_in_chunks(product_losses, _own_rows(len(products)), chunk, products.device)
    return losses.sum() / max(1, imitation.product_count)


def entity_loss(
    model: ProductSearchModel, tokens: np.ndarray, entities: np.ndarray, objective: Objective
) -> tuple[Tensor, float]:
    """The mean cross-entropy of words' entities. Every process gets all texts and reads its share.

    Args:
        model: Its labeller is the only part that learns from this loss.
        tokens: int32 (L, T).
        entities: int64 (L, T), as `fusion.entities.Entities.label` returns them.
        objective: The size of chunks, and the precision.

    Returns:
        This process's part, a scalar, and the value over all processes.
    """
    device = _device(model)
    if not model.config.entities:
        return torch.zeros((), device=device), 0.0

    def label_losses(rows: np.ndarray) -> Tensor:
        texts, labels = (torch.from_numpy(array[rows]).to(device) for array in (tokens, entities))
        with _autocast(device, objective):
            return model.labeller.loss(texts.long(), labels)

    labelled_count = max(1, int((entities != UNLABELLED).sum()))
    loss = (
        _run_in_chunks(label_losses, _own_rows(len(tokens)), objective.chunk, device).sum() / labelled_count
    )
    return loss, float(sum_over_processes(loss))


def _pair_loss(unimodal: Tensor, products: Items, scale: Tensor, chunk: int | None) -> Tensor:
    """This process's part of InfoNCE between texts and pictures, in both directions (as in CLIP, Radford et al., 2021).

    Products whose texts are equal do not compete.

    Args:
        unimodal: Each product's text embedding and picture embedding, unit vectors, float (P, 2, dim).
        products: The P products.
        scale: Of the scores.
        chunk: As in `Objective`.
    """
    complete = np.flatnonzero(products.present[:, :2].all(1))
    if not len(complete):
        return unimodal.new_zeros(())
    device = unimodal.device
    _, text_number = np.unique(products.tokens[complete], axis=0, return_inverse=True)
    text, numbers = (
        torch.from_numpy(text_number.ravel()).to(device),
        torch.arange(len(complete), device=device),
    )
    texts, pictures = scale * unimodal[complete, 0], unimodal[complete, 1]

    def pair_losses(rows: np.ndarray) -> Tensor:
        """The sum of each direction over some of the complete products, float (1, 2)."""
        places = torch.from_numpy(rows).to(device)
        rivals = (text[places, None] != text) | (places[:, None] == numbers)
        directions = (texts[places] @ pictures.T, pictures[places] @ texts.T)
        losses = [
            cross_entropy(scores.masked_fill(~rivals, LOWEST), places, reduction="sum")
            for scores in directions
        ]
        return torch.stack(losses)[None]

    losses = _run_in_chunks(pair_losses, _own_rows(len(complete)), chunk, device)
    return losses.sum(0).mean() / len(complete)


def _tag_loss(model: ProductSearchModel, encoded: Tensor, in_view: np.ndarray, tags: np.ndarray) -> Tensor:
    """This process's part of the tags' cross-entropy, the mean over kinds of tags.

    Args:
        model: Has the heads.
        encoded: This process's share of the products, as `ProductSearchModel.encode_views`.
        in_view: bool (P, 1 + M), whether a product has the modality of each view.
        tags: See `LossBatch`.
    """
    targets = np.where(in_view[..., None], tags[:, None], UNTAGGED)
    own_targets = torch.from_numpy(targets[_own_rows(len(targets))]).to(encoded.device)
    losses = [
        cross_entropy(
            logits.flatten(0, 1), own_targets[..., kind].flatten(), ignore_index=UNTAGGED, reduction="sum"
        )
        / max(1, (targets[..., kind] != UNTAGGED).sum())
        for kind, logits in enumerate(model.score_tags(encoded[: len(own_targets)]))
    ]
    return torch.stack(losses).mean() if losses else encoded.new_zeros(())


def _autocast(device: torch.device, objective: Objective) -> torch.autocast:
    """What the forward passes run in; a chunk that is computed again enters it again."""
    return torch.autocast(device.type, torch.bfloat16, enabled=objective.precision == "bf16")


def _device(model: ProductSearchModel) -> torch.device:
    return next(model.parameters()).device


def _own_rows(count: int) -> np.ndarray:
    """The rows out of `count` of which this process computes the loss: each row in exactly one process."""
    world = current_world()
    return np.arange(world.rank, count, world.size)


def _count_answerable(grades: np.ndarray, in_view: np.ndarray, loss: str) -> int:
    return int(answerable(torch.from_numpy(grades[:, in_view]), loss).sum())


def _run_in_chunks(
    function: Callable[[np.ndarray], Tensor], rows: np.ndarray, chunk: int | None, device: torch.device
) -> Tensor:
    """Apply a function to all rows; in chunks, with gradient caching (Gao et al., 2021), if `chunk` is smaller."""
    if chunk is None or len(rows) <= chunk:
        return function(rows)

    def run_chunk(chunk_rows: Tensor) -> Tensor:
        return function(chunk_rows.cpu().numpy())

    # Rows are tensors on the device because `checkpoint` restores the random state of its arguments' device.
    chunks = torch.from_numpy(rows).to(device).split(chunk)
    return torch.cat([checkpoint(run_chunk, chunk_rows, use_reentrant=False) for chunk_rows in chunks])


def _draw_hidden_modalities(present: np.ndarray, chance: float, rng: np.random.Generator) -> np.ndarray:
    """Draw one modality to hide of some products that have several, bool like `present`."""
    chosen = (present.sum(1) > 1) & (rng.random(len(present)) < chance)
    modality = (rng.random(present.shape) * present).argmax(1)
    return (np.arange(present.shape[1]) == modality[:, None]) & chosen[:, None]


def _draw_picture_donors(
    present: np.ndarray, categories: np.ndarray, chance: float, rng: np.random.Generator
) -> np.ndarray:
    """For each product the product of its category whose picture it gets, mostly itself: int64 (P,)."""
    donors = np.arange(len(present))
    complete = np.flatnonzero(present[:, :2].all(1))
    complete = complete[categories[complete].argsort(kind="stable")]
    chosen = complete[rng.random(len(complete)) < chance]
    donors[chosen] = draw_one_each(categories[complete], complete, categories[chosen], rng)[1]
    return donors
