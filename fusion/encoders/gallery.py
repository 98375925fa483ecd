"""Pools the pictures of a gallery into one vector."""

import torch
from torch import Tensor, nn

HEADS = 8


class GalleryAttention(nn.Module):
    """Attention over pictures with learned queries, one per head; each head pools its share of the channels.

    As the pooling of Lee et al., "Set Transformer" (2019), with one seed and without further layers: a gallery of one
    picture gives exactly that picture's vector. The learned queries start at zero, which gives the mean.

    Args:
        dim: Width of the vectors, a multiple of `HEADS`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(HEADS, dim))

    def forward(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Pool P pictures of each item.

        Args:
            pictures: float (B, P, dim).
            mask: bool (B, P), which pictures exist.

        Returns:
            float (B, dim); meaningless for an item without a picture.
        """
        scores = (pictures @ self.queries.T).float() / pictures.shape[2] ** 0.5
        weights = scores.masked_fill(~mask[..., None], torch.finfo(scores.dtype).min).softmax(1)
        heads = pictures.unflatten(2, (HEADS, -1))
        return (heads * weights[..., None].to(pictures.dtype)).sum(1).flatten(1)
