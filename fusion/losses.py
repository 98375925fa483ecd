"""The training losses. L = α·L_text + β·L_vision + L_fused, each a graded contrastive loss."""

import torch
from torch import Tensor

from catalog.schema import GAINS, GRADES

UNJUDGED, IGNORED = -1, -2

LOWEST = -1e4  # far below any score; not -inf, which times a target of 0 is nan

WEIGHTS = [GAINS[grade] for grade in GRADES]


def graded_contrastive(scores: Tensor, grades: Tensor) -> Tensor:
    """Cross-entropy between the softmax of the scores and the normalised weights of the grades.

    With one exact product per query and the rest unjudged this is InfoNCE (van den Oord et al., 2018).

    Args:
        scores: float of shape (Q, P), already divided by the temperature.
        grades: int of shape (Q, P): 0–3; `UNJUDGED`, which counts as irrelevant; or `IGNORED`, as if not there.

    Returns:
        The mean over the queries that have any target, a scalar; 0 where none has.
    """
    weights = torch.tensor(WEIGHTS, device=scores.device)[grades.clamp(min=0)]
    total = weights.sum(1)
    answerable = total > 0
    if not answerable.any():
        return scores.sum() * 0.0
    targets = weights[answerable] / total[answerable, None]
    kept = scores[answerable].float().masked_fill(grades[answerable] == IGNORED, LOWEST)
    return -(targets * kept.log_softmax(1)).sum(1).mean()
