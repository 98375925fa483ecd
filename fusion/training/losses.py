"""The contrastive loss that L_text, L_vision and L_fused have in common, and what the grades weigh in it."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from catalog.schema import EXACT, GAINS, GRADES

UNJUDGED, IGNORED = -1, -2

LOWEST = -1e4  # far below any score; not -inf, whose differences are nan

# What it weighs that a product of each grade is found.
LOSSES: Mapping[str, Mapping[int, float]] = {
    "graded": GAINS,
    "binary": {grade: float(grade == EXACT) for grade in GRADES},
}


def contrastive(scores: Tensor, grades: Tensor, loss: str = "graded") -> Tensor:
    """How far each query is from ranking its products by grade.

    Every product with a weight is compared with those of lower grades alone: -log of its share in their softmax,
    averaged by weight. So a query's own good products never push each other away. With one exact product and the rest
    unjudged this is InfoNCE (van den Oord et al., 2018).

    Args:
        scores: float of shape (Q, P), already divided by the temperature.
        grades: int of shape (Q, P): 0–3; `UNJUDGED`, which counts as irrelevant; or `IGNORED`, as if not there.
        loss: A name of `LOSSES`.

    Returns:
        float32 of shape (Q,), 0 where a query has nothing to learn from (see `answerable`).
    """
    scores, weights = scores.float(), _weights(grades, loss)
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


def _weights(grades: Tensor, loss: str) -> Tensor:
    worth = torch.tensor([LOSSES[loss][grade] for grade in GRADES], device=grades.device)
    return worth[grades.long().clamp(min=0)]
