"""Evidence that is used again: how the level of a test is spent over looks at the same queries.

Each candidate that is compared with the champion on the same queries is a look. Tested at the full level each time,
about half of all streams of 30 worthless candidates would have one promoted. Look k therefore gets the share
1 / (k·(k + 1)) of the level: 1/2, 1/6, 1/12, … All shares add up to 1. So the probability that any worthless candidate
is promoted against one champion stays below the level, however many candidates come and however they depend on each
other. This is alpha-spending (Lan & DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70, 1983)
for a stream of hypotheses; as in α-investing (Foster & Stine, JRSS B 70, 2008), a promotion starts with a full level.

Test sets change by and by. A look counts as much as the share of the present queries that it had seen. A sketch of the
query ids estimates that share: the smallest hashes, a uniform sample of the ids (Beyer et al., "On synopses for
distinct-value estimation under multiset operations", SIGMOD 2007).
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

SKETCH = 64  # hashes: the share has a standard error of at most 6 %
HASH_BYTES = 5


def look_level(level: float, look: float) -> float:
    """The level of a look: `level` / (k·(k + 1)).

    Args:
        level: Of all looks together.
        look: Its number k, at least 1; a fraction where earlier looks saw only some of the queries.
    """
    return level / (look * (look + 1))


def sketch_queries(query_ids: Iterable[str]) -> list[str]:
    """The `SKETCH` smallest hashes of query ids, as hexadecimal digits, ascending."""
    return sorted(blake2b(query.encode(), digest_size=HASH_BYTES).hexdigest() for query in query_ids)[:SKETCH]


def seen_share(present: Sequence[str], earlier: Sequence[str]) -> float:
    """The estimated share of present queries that an earlier look saw.

    Args:
        present, earlier: Of `sketch_queries`.
    """
    if not present or not earlier:
        return 0.0
    # A full sketch holds all hashes up to its last; above that nothing is known.
    limits = [sketch[-1] for sketch in (present, earlier) if len(sketch) == SKETCH]
    sample = [value for value in present if not limits or value <= min(limits)]
    if not sample:  # a much larger earlier set, of which nothing is known here
        return 0.0
    return len(set(sample) & set(earlier)) / len(sample)


def number_look(present: Sequence[str], earlier: Iterable[Sequence[str]]) -> float:
    """The number of a look at the present queries: 1, plus the shares of them that earlier looks saw.

    Args:
        present: Of `sketch_queries`.
        earlier: The sketches of earlier looks.
    """
    return 1.0 + sum(seen_share(present, sketch) for sketch in earlier)
