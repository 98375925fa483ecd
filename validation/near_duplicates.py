"""Near-duplicate detection of pictures."""

from collections.abc import Sequence

import faiss
import numpy as np
from PIL import Image
from scipy.fft import dctn

from catalog.progress import show_progress

HASH_BITS, CELLS = 256, 8
# Bits, and steps of 255: the same picture in another encoding, size or brightness stays below; see docs/validation.md.
MAX_HASH_DISTANCE, MAX_COLOUR_DIFFERENCE = 20, 10
BATCH_ROWS = 512  # compared with all others at a time


def picture_signature(image: Image.Image) -> bytes:
    """Describe a picture in 160 bytes, for `find_near_duplicates`. It means nothing for a picture of one flat colour.

    The first 32 bytes are a perceptual hash: which of the 16 × 16 lowest frequencies of the grey picture are above
    their median, as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), with 256
    bits instead of 64: 64 bits do not distinguish small pictures of sunglasses on white. The other bytes are Cb and Cr
    of its 8 × 8 cells, because red and blue shoes are two products.
    """
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), dtype=np.float32)
    lowest = dctn(grey, norm="ortho")[:16, :16].ravel()
    cells = np.asarray(image.convert("YCbCr").resize((CELLS, CELLS), Image.Resampling.BOX))
    return np.packbits(lowest > np.median(lowest)).tobytes() + cells[..., 1:].tobytes()


def find_near_duplicates(
    signatures: Sequence[bytes], groups: Sequence[str], pixel_hashes: Sequence[str]
) -> np.ndarray:
    """Find for each of N pictures the nearest near duplicate in another group.

    Args:
        signatures: Results of `picture_signature`.
        groups: Near duplicates within a group are ignored.
        pixel_hashes: Pictures with equal hashes are identical, and ignored.

    Returns:
        int64 (N,): index of the near duplicate, the first of several; -1 where no picture is within
        `MAX_HASH_DISTANCE` bits, and `MAX_COLOUR_DIFFERENCE` in every colour.
    """
    nearest = np.full(len(signatures), -1)
    if not len(signatures):
        return nearest
    content = np.frombuffer(b"".join(signatures), np.uint8).reshape(len(signatures), -1)
    hash_bytes = HASH_BITS // 8
    hashes, colours = np.ascontiguousarray(content[:, :hash_bytes]), content[:, hash_bytes:].astype(np.int16)
    group, pixels = (
        np.unique(np.asarray(names, str), return_inverse=True)[1] for names in (groups, pixel_hashes)
    )
    index = faiss.IndexBinaryFlat(HASH_BITS)
    index.add(hashes)
    for start in show_progress(range(0, len(hashes), BATCH_ROWS), "near duplicates", unit="batch"):
        rows, others, distances = _search(index, hashes, start)
        eligible = np.flatnonzero((group[rows] != group[others]) & (pixels[rows] != pixels[others]))
        difference = np.abs(colours[rows[eligible]] - colours[others[eligible]])
        similar = eligible[(difference <= MAX_COLOUR_DIFFERENCE).all(axis=1)]
        rows, others, distances = rows[similar], others[similar], distances[similar]
        order = np.lexsort((others, distances, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        nearest[rows[first]] = others[first]
    return nearest


def _search(
    index: faiss.IndexBinaryFlat, hashes: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search the near hashes of a batch that begins at `start`: rows, near rows and their distances, each (pairs,)."""
    ends, distances, others = index.range_search(hashes[start : start + BATCH_ROWS], MAX_HASH_DISTANCE + 1)
    rows = start + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(int))
    return rows, others, distances
