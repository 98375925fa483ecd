"""When two pictures look the same."""

from collections.abc import Sequence

import faiss
import numpy as np
from PIL import Image
from scipy.fft import dctn

BITS = 256
# Of the bits: the same picture in another encoding, size or brightness stays below; see docs/catalogues.md.
NEAR = 20
ROWS = 512  # compared with all others at a time


def perceptual_hash(image: Image.Image) -> str:
    """What a picture looks like, in 64 hex digits: which of its 16 × 16 lowest frequencies lie above their median.

    Grey, so that colour plays no part; of one flat colour it means nothing. Zauner, "Implementation and Benchmarking of
    Perceptual Image Hash Functions" (2010), with 256 bits in place of 64: of small pictures on white, 64 cannot tell
    one pair of sunglasses from another.
    """
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), dtype=np.float32)
    lowest = dctn(grey, norm="ortho")[:16, :16].ravel()
    return np.packbits(lowest > np.median(lowest)).tobytes().hex()


def near(hashes: Sequence[str], groups: Sequence[str], same: Sequence[str]) -> np.ndarray:
    """For each of N pictures the nearest one of another group that looks the same.

    Args:
        hashes: Of `perceptual_hash`.
        groups: Within one, pictures may look the same.
        same: Pictures that are equal in this are the same one, and not looked for.

    Returns:
        int64 (N,): its place, the first of several; -1 where there is none within `NEAR` bits.
    """
    found = np.full(len(hashes), -1)
    if not len(hashes):
        return found
    bits = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, BITS // 8)
    group, one = (np.unique(np.asarray(names, str), return_inverse=True)[1] for names in (groups, same))
    index = faiss.IndexBinaryFlat(BITS)
    index.add(bits)
    for start in range(0, len(bits), ROWS):
        ends, distances, places = index.range_search(bits[start : start + ROWS], NEAR + 1)
        rows = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(int))
        other = (group[rows] != group[places]) & (one[rows] != one[places])
        rows, places, distances = rows[other], places[other], distances[other]
        order = np.lexsort((places, distances, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        found[rows[first]] = places[first]
    return found
