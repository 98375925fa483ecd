"""The split of a query: decided once, by a hash of what the query is, and stored.

The split depends on the key and a salt alone, never on other queries. So a query that comes later moves none. The salt
is 0 except for small data, where a hash can leave a split empty: then it is the smallest number with which no split is.
`python -m catalog queries` stores it in the metadata of the queries' files and uses it again.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from pathlib import Path

from catalog import store
from catalog.schema import SPLITS, DataError

SHARES = dict(zip(SPLITS, (0.60, 0.15, 0.25), strict=True))  # of the queries, in expectation
SALT = b"vitrine.split_salt"  # metadata of the queries' files
MAX_SALTS = 1000  # three keys need 7 on average


def hash_fraction(key: str, salt: int = 0) -> float:
    """Hash a key to a number from 0 to 1, uniformly distributed."""
    digest = hashlib.blake2b(f"{salt} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def find_split(key: str, salt: int = 0, shares: Mapping[str, float] = SHARES) -> str:
    """Find the split of a key.

    Args:
        key: One key for all queries that must be in the same split, such as a normalised text.
        salt: Of `choose_salt`.
        shares: Probability of each split; they sum to 1.
    """
    fraction = hash_fraction(key, salt)
    ends = zip(shares, accumulate(shares.values()), strict=True)
    return next((name for name, end in ends if fraction < end), list(shares)[-1])


def choose_salt(
    keys: Iterable[str], present: Collection[str] = (), shares: Mapping[str, float] = SHARES
) -> int:
    """Choose the smallest salt with which no split is empty; 0 if there are too few keys.

    Args:
        keys: See `find_split`.
        present: Splits that have queries already.
        shares: Probability of each split.
    """
    distinct = list(dict.fromkeys(keys))
    missing = shares.keys() - set(present)
    if len(distinct) < len(missing):
        return 0
    return next((salt for salt in range(MAX_SALTS) if _covers(distinct, salt, missing, shares)), 0)


def _covers(keys: Iterable[str], salt: int, missing: Collection[str], shares: Mapping[str, float]) -> bool:
    remaining = set(missing)
    for key in keys:
        if not remaining:
            break
        remaining.discard(find_split(key, salt, shares))
    return not remaining


def assign_splits(
    keys: Iterable[str], shares: Mapping[str, float] = SHARES, present: Collection[str] = ()
) -> dict[str, str]:
    """Find the splits of the keys of a new data set; see `choose_salt` for the arguments.

    Returns:
        Key → name of its split. No split is empty if there are at least as many keys as splits.
    """
    distinct = list(dict.fromkeys(keys))
    salt = choose_salt(distinct, present, shares)
    return {key: find_split(key, salt, shares) for key in distinct}


def read_salt(data: Path) -> int | None:
    """Read the salt of a data set; None if none is stored.

    Raises:
        DataError: if the queries cannot be read, or their files have several salts or one that is no number.
    """
    files = store.list_files(data, "queries")
    salts = {(store.open_file(path).schema_arrow.metadata or {}).get(SALT) for path in files} - {None}
    if not salts:
        return None
    text = b" and ".join(sorted(salt for salt in salts if salt)).decode(errors="replace")
    if not text.isdecimal():
        raise DataError(
            f"{data / 'queries'}: the metadata {SALT.decode()} is '{text}', not a number; the files are of several "
            "data sets, or damaged"
        )
    return int(text)
