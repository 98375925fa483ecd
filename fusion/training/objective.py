"""The joint loss of a step, over all processes that train.

L = α·L_text + β·L_vision + L_fused + γ·L_tags + δ·L_pairs
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fusion.entities import UNKNOWABLE
from fusion.features import Items
from fusion.model import ProductSearchModel
from fusion.training.distributed import gather, total, world
from fusion.training.losses import IGNORED, LOWEST, answerable, contrastive
from fusion.training.sampling import one_each

UNTAGGED = -1
TERMS = ("fused", "text", "vision", "video")  # a loss for each of `ProductSearchModel.views`


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
        loss: A name of `fusion.training.losses.LOSSES`.
        alpha: Weight of L_text, the query against the product's text alone.
        beta: Weight of L_vision, against its picture alone; and of the same for its clip alone.
        gamma: Weight of L_tags, the cross-entropy of the products' tags, whole and through each modality alone.
        delta: Weight of L_pairs, in which each product's text and picture find each other among the step's products.
        modality_dropout: Chance that a product with several modalities loses one of them in L_fused.
        picture_swap: Chance that L_fused shows a product's text beside the picture of another one of its category. On
            products that training has seen, pictures tell more than they will on new ones; so where they disagree with
            what words say, they are trusted too much.
        chunk: Queries or products encoded at a time, their activations made again when gradients are due; so memory
            does not grow with the batch. None keeps all.
    """

    loss: str = "graded"
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 0.0
    modality_dropout: float = 0.2
    picture_swap: float = 0.0
    chunk: int | None = None

    @property
    def weights(self) -> tuple[float, ...]:
        """Of `TERMS`."""
        return 1.0, self.alpha, self.beta, self.beta


def joint_loss(
    model: ProductSearchModel,
    queries: Items,
    products: Items,
    grades: np.ndarray,
    categories: np.ndarray,
    tags: np.ndarray,
    objective: Objective,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """A step's loss. Every process is given the whole step, and encodes its share.

    Args:
        model: Both towers.
        queries: Q of them.
        products: P of them, each once.
        grades: int (Q, P), as for `fusion.training.losses.contrastive`.
        categories: int (P,), equal where products are of the same kind.
        tags: int64 (P, T), for each of `ModelConfig.tags` the product's value, or `UNTAGGED`.
        objective: What counts how much.
        rng: In the same state in all processes.

    Returns:
        This process's part of the loss, a scalar; the gradients of all parts have to be summed. And the value over all
        processes of the loss and of each of `TERMS`, and of the tags.
    """
    device = next(model.parameters()).device
    present = products.present[:, : len(model.config.modalities)]
    lost = _lost(present, objective.modality_dropout, rng)
    shown_with = _swapped(present, categories, objective.picture_swap, rng)
    here = world()

    def encode_queries(rows: np.ndarray) -> Tensor:
        return model.encode_query(queries.batch(rows, device))

    def encode_products(rows: np.ndarray) -> Tensor:
        others = None
        if len(swapped := np.flatnonzero(shown_with[rows] != rows)):
            pictures = products.batch(shown_with[rows[swapped]], device)
            others = torch.from_numpy(swapped).to(device), pictures
        return model.views(products.batch(rows, device), torch.from_numpy(lost[rows]).to(device), others)

    encoded = _encode(encode_products, here.share(len(products)), objective.chunk, device)
    seen = gather(encoded, len(products))
    has = torch.from_numpy(present).to(device)

    def sums(rows: np.ndarray) -> Tensor:
        """Of each term over some queries."""
        asked = model.scale * encode_queries(rows)
        judged = torch.from_numpy(grades[rows]).to(device)
        terms = [contrastive(asked @ seen[:, 0].T, judged, objective.loss)]
        for view, there in enumerate(has.T, start=1):
            terms.append(contrastive(asked @ seen[:, view].T, judged.where(there, IGNORED), objective.loss))
        return torch.stack(terms, 1)

    own = np.arange(here.rank, len(queries), here.size)
    found = _encode(sums, own, objective.chunk, device).sum(0)
    shown = [np.ones(len(products), bool), *present.T]  # by each view
    counts = torch.tensor([_answerable(grades, there, objective.loss) for there in shown])
    terms = found / counts.clamp(min=1).to(device)
    loss = (terms * torch.tensor(objective.weights[: len(terms)], device=device)).sum()
    tagged = _tag_loss(model, encoded, np.stack(shown, 1), tags)
    paired = _pair_loss(seen[:, 1:3], products, model.scale)
    loss = loss + objective.gamma * tagged + objective.delta * paired
    values = total(torch.stack([loss, tagged, paired, *terms])).tolist()
    return loss, dict(zip(("loss", "tags", "pairs", *TERMS), values, strict=False))


def label_loss(
    model: ProductSearchModel, tokens: np.ndarray, entities: np.ndarray, chunk: int | None
) -> tuple[Tensor, float]:
    """The mean cross-entropy of words' entities. Every process is given all texts, and reads its share.

    Args:
        model: Has the labeller, which alone learns from this.
        tokens: int32 (L, T).
        entities: int64 (L, T), as `fusion.entities.Entities.label` returns them.
        chunk: As in `Objective`.

    Returns:
        This process's part, a scalar, and the value over all processes.
    """
    device = next(model.parameters()).device
    if not model.config.entities:
        return torch.zeros((), device=device), 0.0

    def sums(rows: np.ndarray) -> Tensor:
        texts, labels = (torch.from_numpy(of[rows]).to(device) for of in (tokens, entities))
        return model.labeller.loss(texts.long(), labels)

    here = world()
    own = np.arange(here.rank, len(tokens), here.size)
    known = max(1, int((entities != UNKNOWABLE).sum()))
    loss = _encode(sums, own, chunk, device).sum() / known
    return loss, float(total(loss))


def _pair_loss(seen: Tensor, products: Items, scale: Tensor) -> Tensor:
    """InfoNCE both ways (as in CLIP, Radford et al., 2021) between texts and pictures, this process's part of it.

    Products whose texts are equal do not compete.

    Args:
        seen: Each product's text alone and its picture alone, unit vectors, float (P, 2, dim).
        products: The same, P of them.
        scale: Of the scores.
    """
    both = np.flatnonzero(products.present[:, :2].all(1))
    if not len(both):
        return seen.new_zeros(())
    here = world()
    own = torch.arange(here.rank, len(both), here.size, device=seen.device)
    _, text = np.unique(products.tokens[both], axis=0, return_inverse=True)
    group = torch.from_numpy(text.ravel()).to(seen.device)
    rivals = (group[own, None] != group) | (own[:, None] == torch.arange(len(both), device=seen.device))
    words, pictures = scale * seen[both, 0], seen[both, 1]
    ways = (words[own] @ pictures.T, pictures[own] @ words.T)
    losses = [cross_entropy(one.masked_fill(~rivals, LOWEST), own, reduction="sum") for one in ways]
    return torch.stack(losses).mean() / len(both)


def _tag_loss(model: ProductSearchModel, encoded: Tensor, shown: np.ndarray, tags: np.ndarray) -> Tensor:
    """The mean over kinds of tags of their cross-entropy, this process's part of it.

    Args:
        model: Has the heads.
        encoded: This process's share of the products, as `ProductSearchModel.views`.
        shown: bool (P, 1 + M), which of all products each view shows.
        tags: See `joint_loss`.
    """
    known = np.where(shown[..., None], tags[:, None], UNTAGGED)
    own = torch.from_numpy(known[world().rank :: world().size]).to(encoded.device)
    losses = [
        cross_entropy(logits.flatten(0, 1), own[..., kind].flatten(), ignore_index=UNTAGGED, reduction="sum")
        / max(1, (known[..., kind] != UNTAGGED).sum())
        for kind, logits in enumerate(model.tag(encoded[: len(own)]))
    ]
    return torch.stack(losses).mean() if losses else encoded.new_zeros(())


def _answerable(grades: np.ndarray, there: np.ndarray, loss: str) -> int:
    return int(answerable(torch.from_numpy(grades[:, there]), loss).sum())


def _encode(
    encode: Callable[[np.ndarray], Tensor], rows: np.ndarray, chunk: int | None, device: torch.device
) -> Tensor:
    """`encode` of all rows, in chunks if they are to be cached: "gradient caching" of Gao et al., 2021."""
    if chunk is None or len(rows) <= chunk:
        return encode(rows)

    def again(index: Tensor) -> Tensor:
        return encode(index.cpu().numpy())

    # The rows travel as a tensor on the device, by which the random state to restore is found.
    parts = torch.from_numpy(rows).to(device).split(chunk)
    return torch.cat([checkpoint(again, part, use_reentrant=False) for part in parts])


def _lost(present: np.ndarray, chance: float, rng: np.random.Generator) -> np.ndarray:
    """One modality of some products that have several, bool like `present`."""
    unlucky = (present.sum(1) > 1) & (rng.random(len(present)) < chance)
    victim = (rng.random(present.shape) * present).argmax(1)
    return (np.arange(present.shape[1]) == victim[:, None]) & unlucky[:, None]


def _swapped(
    present: np.ndarray, categories: np.ndarray, chance: float, rng: np.random.Generator
) -> np.ndarray:
    """For each product the one of its category with whose picture it is shown, mostly itself: int64 (P,)."""
    shown_with = np.arange(len(present))
    both = np.flatnonzero(present[:, :2].all(1))
    both = both[categories[both].argsort(kind="stable")]
    chosen = both[rng.random(len(both)) < chance]
    shown_with[chosen] = one_each(categories[both], both, categories[chosen], rng)[1]
    return shown_with
