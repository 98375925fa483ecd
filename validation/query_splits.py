"""The splits of a data set's queries, as hashes: what the champion's registered model keeps of its queries.

A query that moves from the training split to the test split would let the champion be judged by what it was trained on.
"""

from hashlib import blake2b

import pandas as pd
import pyarrow as pa

from catalog.schema import SPLITS

QUERY_SPLITS = "query_splits.parquet"
SCHEMA = pa.schema(
    [
        ("query", pa.uint64()),  # hash of the query's identity: it does not reveal what people search for
        ("split", pa.dictionary(pa.int8(), pa.string())),
    ]
)
SHOWN = 60  # characters of a query


def hash_splits(queries: pd.DataFrame) -> pa.Table:
    """Make the table of hashes and splits.

    Args:
        queries: The frame of `validation.data_profile`.

    Returns:
        A row per query of `SCHEMA`, in the order of the hashes; 9 bytes per query.
    """
    known = queries[queries.identity.notna() & queries.split.isin(SPLITS)].drop_duplicates("identity")
    hashes = pd.Series([_hash(identity) for identity in known.identity], known.index, dtype="uint64")
    frame = pd.DataFrame({"query": hashes, "split": known.split}).sort_values("query", ignore_index=True)
    return pa.Table.from_pandas(frame, SCHEMA, preserve_index=False)


def find_moved(queries: pd.DataFrame, reference: pa.Table) -> pd.DataFrame:
    """Find the queries that are in another split than in an earlier data set.

    Args:
        queries: The frame of `validation.data_profile`.
        reference: `hash_splits` of the earlier data set.

    Returns:
        A row per query that both have: `query`, its id; `moved`, such as "red chair (train → test)", null where it
        stayed.
    """
    earlier = dict(zip(reference["query"].to_pylist(), reference["split"].to_pylist(), strict=True))
    rows = []
    for row in queries[queries.identity.notna()].itertuples():
        old = earlier.get(_hash(row.identity))
        if old:
            text = "a picture" if pd.isna(row.text) else row.text[:SHOWN]
            rows.append((row.query_id, None if old == row.split else f"{text} ({old} → {row.split})"))
    return pd.DataFrame(rows, columns=["query", "moved"], dtype="str")


def _hash(identity: str) -> int:
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big")
