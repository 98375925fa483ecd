"""Which split a query belongs to, where its source does not say."""

import hashlib
from collections.abc import Iterable, Mapping

from catalog.schema import SPLITS

SHARES = dict(zip(SPLITS, (0.60, 0.15, 0.25), strict=True))  # of the queries


def split(keys: Iterable[str], shares: Mapping[str, float] = SHARES) -> dict[str, str]:
    """Assign keys to splits by a hash of each, so that the same keys always get the same.

    Args:
        keys: Of what must stay in one split, such as the normalised texts of queries.
        shares: Of each split, in all 1; none is left empty where there are as many keys as splits.
    """
    ranked = sorted(set(keys), key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())
    chosen, start = {}, 0
    for place, (name, share) in enumerate(shares.items(), start=1):
        rest = len(shares) - place
        end = (
            max(start + 1, min(start + round(share * len(ranked)), len(ranked) - rest))
            if rest
            else len(ranked)
        )
        chosen.update(dict.fromkeys(ranked[start:end], name))
        start = end
    return chosen
