"""Assignment of queries to splits, for sources that do not define splits."""

import hashlib
from collections.abc import Iterable, Mapping

from catalog.schema import SPLITS

SHARES = dict(zip(SPLITS, (0.60, 0.15, 0.25), strict=True))  # of the queries


def assign_splits(keys: Iterable[str], shares: Mapping[str, float] = SHARES) -> dict[str, str]:
    """Assign keys to splits by their hash, so that the same keys always get the same splits.

    Args:
        keys: One key for all queries that must be in the same split, such as a normalised text.
        shares: Share of each split; they sum to 1. No split is empty if there are at least as many keys as splits.

    Returns:
        Key → name of its split.
    """
    ranked = sorted(set(keys), key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())
    splits, start = {}, 0
    for position, (name, share) in enumerate(shares.items(), start=1):
        remaining = len(shares) - position  # each later split needs a key
        if remaining:
            end = max(start + 1, min(start + round(share * len(ranked)), len(ranked) - remaining))
        else:
            end = len(ranked)
        splits.update(dict.fromkeys(ranked[start:end], name))
        start = end
    return splits
