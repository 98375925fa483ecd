"""The contrastive loss of L_text, L_vision and L_fused, and the weights of the grades in it."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from catalog.schema import EXACT, GAINS, GRADES
from fusion.plugin_registry import PluginRegistry

UNJUDGED, IGNORED = -1, -2

LOWEST = -1e4  # far below any score; differences of -inf would be nan

# The weight of a product of each grade.
LOSSES: PluginRegistry[Mapping[int, float]] = PluginRegistry("loss")
LOSSES("graded")(GAINS)
LOSSES("binary")({grade: float(grade == EXACT) for grade in GRADES})


def contrastive(scores: Tensor, grades: Tensor, loss: str = "graded") -> Tensor:
    """The contrastive loss of each query; it is low if products are ranked by grade.

    Every product with a weight is compared only with products of lower grades: -log of its share in their softmax,
    averaged by weight. So the relevant products of a query do not push each other away. With one exact product and all
    others unjudged this is InfoNCE (van den Oord et al., 2018).

    Args:
        scores: float of shape (Q, P), already divided by the temperature.
        grades: int of shape (Q, P): 0–3; `UNJUDGED`, which counts as irrelevant; or `IGNORED`, as if absent.
        loss: A name of `LOSSES`.

    Returns:
        float32 of shape (Q,), 0 for a query that has no target (see `answerable`).
    """
    scores, weights = scores.float(), _grade_weights(grades, loss)
    lower = [
        scores.masked_fill((grades >= grade) | (grades == IGNORED), LOWEST).logsumexp(1)
        for grade in GRADES[1:]
    ]
    rivals = torch.stack(lower, 1).gather(1, (grades.long() - 1).clamp(min=0))
    total = weights.sum(1)
    return (weights * softplus(rivals - scores)).sum(1) / total.where(total > 0, 1.0)


def answerable(grades: Tensor, loss: str = "graded") -> Tensor:
    """Which queries have a product with a weight, bool (Q,); arguments as for `contrastive`."""
    targets = [grade for grade, weight in LOSSES[loss].items() if weight]
    return torch.isin(grades, torch.tensor(targets, device=grades.device)).any(1)


def _grade_weights(grades: Tensor, loss: str) -> Tensor:
    weights = torch.tensor([LOSSES[loss][grade] for grade in GRADES], device=grades.device)
    return weights[grades.long().clamp(min=0)]
