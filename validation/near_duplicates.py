"""When two pictures look the same."""

from collections.abc import Sequence

import faiss
import numpy as np
from PIL import Image
from scipy.fft import dctn
from tqdm import tqdm

BITS, CELLS = 256, 8
# Of the bits, and of 255: the same picture in another encoding, size or brightness stays below; see docs/validation.md.
NEAR, TINT = 20, 10
ROWS = 512  # compared with all others at a time


def appearance(image: Image.Image) -> bytes:
    """What a picture looks like, in 160 bytes; of one flat colour it means nothing.

    The first 32 are a perceptual hash: which of the 16 × 16 lowest frequencies of its grey lie above their median, as
    in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), with 256 bits in place of
    64: of small pictures on white, 64 cannot tell one pair of sunglasses from another. The others are Cb and Cr of its
    8 × 8 cells, for red and blue shoes are two products.
    """
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), dtype=np.float32)
    lowest = dctn(grey, norm="ortho")[:16, :16].ravel()
    cells = np.asarray(image.convert("YCbCr").resize((CELLS, CELLS), Image.Resampling.BOX))
    return np.packbits(lowest > np.median(lowest)).tobytes() + cells[..., 1:].tobytes()


def near(appearances: Sequence[bytes], groups: Sequence[str], same: Sequence[str]) -> np.ndarray:
    """For each of N pictures the nearest one of another group that looks the same.

    Args:
        appearances: Of `appearance`.
        groups: Within one, pictures may look the same.
        same: Pictures that are equal in this are the same one, and not looked for.

    Returns:
        int64 (N,): its place, the first of several; -1 where none is within `NEAR` bits, and `TINT` in every colour.
    """
    found = np.full(len(appearances), -1)
    if not len(appearances):
        return found
    told = np.frombuffer(b"".join(appearances), np.uint8).reshape(len(appearances), -1)
    bits, tints = np.ascontiguousarray(told[:, : BITS // 8]), told[:, BITS // 8 :].astype(np.int16)
    group, one = (np.unique(np.asarray(names, str), return_inverse=True)[1] for names in (groups, same))
    index = faiss.IndexBinaryFlat(BITS)
    index.add(bits)
    for start in tqdm(range(0, len(bits), ROWS), "near duplicates", unit="batch", disable=None):
        ends, distances, places = index.range_search(bits[start : start + ROWS], NEAR + 1)
        rows = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(int))
        other = np.flatnonzero((group[rows] != group[places]) & (one[rows] != one[places]))
        alike = (np.abs(tints[rows[other]] - tints[places[other]]) <= TINT).all(axis=1)
        rows, places, distances = (values[other[alike]] for values in (rows, places, distances))
        order = np.lexsort((places, distances, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        found[rows[first]] = places[first]
    return found
