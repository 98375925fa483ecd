"""Decoding of pictures for bench/gpu.py, without PyTorch: processes that only decode start fast."""

import numpy as np

from catalog.images import decode, fit


def decode_square(data: bytes, side: int) -> np.ndarray:
    """A picture fitted into a white square, uint8 (side, side, 3)."""
    return fit(decode(data, side=side), side)
