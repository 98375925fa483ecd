"""The training losses. L = α·L_text + β·L_vision + L_fused, each a graded contrastive loss."""

import torch
from torch import Tensor

from catalog.schema import GAINS, GRADES

UNJUDGED = -1

WEIGHTS = [GAINS[grade] for grade in GRADES]


def graded_contrastive(scores: Tensor, grades: Tensor) -> Tensor:
    """Cross-entropy between the softmax of the scores and the normalised weights of the grades.

    With one exact product per query and the rest unjudged this is InfoNCE (van den Oord et al., 2018).

    Args:
        scores: float of shape (Q, P), already divided by the temperature.
        grades: int of shape (Q, P): 0–3, or `UNJUDGED`, which counts as irrelevant.

    Returns:
        The mean over the queries that have any target, a scalar; 0 where none has.
    """
    weights = torch.tensor(WEIGHTS, device=scores.device)[grades.clamp(min=0)]
    total = weights.sum(1)
    answerable = total > 0
    if not answerable.any():
        return scores.sum() * 0.0
    targets = weights[answerable] / total[answerable, None]
    return -(targets * scores[answerable].log_softmax(1)).sum(1).mean()
