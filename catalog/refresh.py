"""Replaces the judged test queries of a data set: each use of test queries costs evidence, new queries restore it."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog import store
from catalog.new_queries import Additions, read_rows, select_additions, write_queries
from catalog.queries import derive_queries, read_click_queries
from catalog.schema import DERIVED, EXACT, IMPLICIT, DataError
from catalog.splits import SHARES

MIN_QUERIES = 50  # new test queries; fewer decide no comparison of models


def refresh_judgements(
    data: Path,
    out: Path,
    log: Path | str | None = None,
    personal: Sequence[str] = (),
    most: int = 1000,
    seed: int = 1,
    mappings: Sequence[str] = (),
) -> int:
    """Write a data set with new test queries in place of the judged ones.

    Other queries keep their split. New queries of the train and valid splits are not added. A retired query never comes
    back: the table `retired` keeps its text. For a derived query it keeps the exact matches too, and new derived
    queries share no title or picture with these: they would repeat the old evidence.

    Args:
        data: The data set.
        out: Gets the data set with the new queries.
        log: A click log, see `catalog.queries.add_click_queries`; by default queries are derived from the products.
        personal: Columns of the log that are allowed although they look personal.
        most: Maximal number of derived queries.
        seed: Random seed of derived queries; another one than that of the data set's queries.
        mappings: COLUMN=NAME: the names of columns in the log.

    Returns:
        Number of queries added.

    Raises:
        DataError: if no test query is judged, the log cannot be read, or there are fewer than `MIN_QUERIES` new ones.
    """
    retired = _find_judged(data)
    if not retired:
        raise DataError(f"{data}: no test query has judgements; add some with python -m catalog queries")
    if log:
        proposal = read_click_queries(data, log, personal, mappings, retired)
        advice = "give a longer or later log"
    else:
        proposal = derive_queries(data, round(most / SHARES["test"]), seed, retired)
        advice = "give another --seed, a larger --most, or a log of clicks"
    judged_by = IMPLICIT if log else DERIVED
    additions = select_additions(data, proposal.queries, judged_by)
    added = [query for query in additions.queries if query.split == "test"]
    added = added if log else added[:most]
    if len(added) < MIN_QUERIES:
        message = f"gives {len(added)} new test queries, but at least {MIN_QUERIES} are needed; {advice}"
        raise DataError(f"{log or data}: {message}")
    rows = list(retired.values())
    write_queries(data, out, Additions(added, {}), judged_by, proposal.salt, proposal.frequencies, rows)
    print(f"test queries: retired {len(retired):,}, added {len(added):,}", file=sys.stderr)
    return len(added)


def _find_judged(data: Path) -> dict[str, dict[str, Any]]:
    """Find the judged test queries: id → row of the table `retired`."""
    columns = ["query_id", "text", "split", "judged_by"]
    queries = {row["query_id"]: row for row in store.read_table(data, "queries", columns).to_pylist()}
    exact: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(data, "judgements"):
        key = row["query_id"]
        if key in queries and queries[key]["split"] == "test":
            exact[key] += [row["product_id"]] if row["grade"] == EXACT else []
    return {
        key: {
            "query_id": key,
            "text": queries[key]["text"],
            "targets": targets if queries[key]["judged_by"] == DERIVED else None,
        }
        for key, targets in exact.items()
    }
