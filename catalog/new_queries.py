"""Writes a data set with new queries and judgements, and without retired queries."""

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from catalog import store
from catalog.schema import DERIVED, EXACT, SPLITS, DataError
from catalog.splits import SALT
from catalog.text import normalise


class NewQuery(NamedTuple):
    """A query that the data set does not have yet, or that is proposed again.

    Attributes:
        text: Normalised text.
        grades: Product id → grade.
        split: None if the query fits into no split.
        cluster: As in `catalog.schema`.
        query_id: Of a retired query that comes back.
    """

    text: str
    grades: dict[str, int]
    split: str | None = None
    cluster: str | None = None
    query_id: str | None = None


class Proposal(NamedTuple):
    """Queries that could be added to a data set.

    Attributes:
        queries: Each text once.
        salt: Of their splits; see `catalog.splits`.
        frequencies: Normalised text → number of searches.
    """

    queries: list[NewQuery]
    salt: int
    frequencies: Mapping[str, int] = MappingProxyType({})


class KnownQuery(NamedTuple):
    """A query that the data set has or had.

    Attributes:
        query_id: Its id.
        split: None for a retired query that never comes back.
        cluster: As in `catalog.schema`.
        judged_by: None for a retired query, and for a query with a picture.
        retired: Whether the data set does not have it any more.
    """

    query_id: str
    split: str | None
    cluster: str | None
    judged_by: str | None
    retired: bool


class Additions(NamedTuple):
    """What is added to a data set.

    Attributes:
        queries: New queries, and retired ones that come back; each has a split.
        judgements: Of queries that the data set has: query id → product id → grade.
    """

    queries: list[NewQuery]
    judgements: dict[str, dict[str, int]]


def read_rows(data: Path, table: str) -> Iterator[dict[str, Any]]:
    """Read a table row by row; errors are those of `catalog.store.read_batches`."""
    for batch in store.read_batches(data, table):
        yield from batch.to_pylist()


def read_known_queries(data: Path) -> dict[str, KnownQuery]:
    """Read the queries that a data set has or had: normalised text → query."""
    known: dict[str, KnownQuery] = {}
    for row in read_rows(data, "retired"):
        if text := normalise(row["text"]):
            known[text] = KnownQuery(row["query_id"], row["split"], row["cluster"], None, retired=True)
    columns = ["query_id", "text", "image", "split", "judged_by", "cluster"]
    for batch in store.read_batches(data, "queries", columns):
        for row in batch.to_pylist():
            text = normalise(row["text"])
            if text and not (row["image"] and text in known):  # texts of queries with a picture may repeat
                judged_by = None if row["image"] else row["judged_by"]
                known[text] = KnownQuery(row["query_id"], row["split"], row["cluster"], judged_by, False)
    return known


def select_additions(data: Path, queries: Sequence[NewQuery], judged_by: str) -> Additions:
    """Select what a data set does not have: queries with a split and a new text, and judgements of known queries.

    A query that `catalog.update` retired comes back with its id. A known query of the same kind gets the products that
    it has no judgement of; a derived one only exact matches, because its other judgements are samples.

    Args:
        data: The data set.
        queries: Proposed queries; a known one is proposed with its split, or with None.
        judged_by: Kind of the proposed queries.
    """
    known, additions = read_known_queries(data), Additions([], {})
    for query in queries:
        earlier = known.get(query.text)
        if query.split is None or (earlier and earlier.split != query.split):
            continue
        if earlier is None or earlier.retired:
            additions.queries.append(query._replace(query_id=earlier.query_id if earlier else None))
        elif earlier.judged_by == judged_by:
            additions.judgements[earlier.query_id] = {
                product: grade
                for product, grade in query.grades.items()
                if judged_by != DERIVED or grade == EXACT
            }
    return additions


def write_queries(
    data: Path,
    out: Path,
    additions: Additions,
    judged_by: str,
    salt: int,
    frequencies: Mapping[str, int] = MappingProxyType({}),
    retired: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a data set with new queries and judgements, and print their numbers.

    The ids are `derived-0`, `derived-1`, … or `implicit-0`, …, after those that the data set has or had.

    Args:
        data: The data set.
        out: Gets the data set with the new queries.
        additions: New queries, and judgements of known ones. A judgement that is there stays.
        judged_by: One of `catalog.schema.JUDGED_BY`.
        salt: Is stored with the queries.
        frequencies: Normalised text → number of searches; for new queries, and for those without frequency and picture.
        retired: Rows of the table `retired`: queries of the data set that are left out, with their judgements.

    Raises:
        DataError: if the data set cannot be read, or a split would have no query.
    """
    leaving = {row["query_id"] for row in retired}
    existing = store.read_table(data, "queries", ["query_id", "split"]).to_pylist()
    present = {row["split"] for row in existing if row["query_id"] not in leaving}
    if missing := set(SPLITS) - present - {query.split for query in additions.queries}:
        number = len(additions.queries)
        raise DataError(f"{data}: gives {number} queries, but none for {', '.join(sorted(missing))}")
    rows = _number_queries(data, additions.queries, judged_by, [row["query_id"] for row in existing])
    with store.new_atomic_dir(out) as folder:
        link_tables(data, folder, ("products", "satisfaction"))
        with store.TableWriter(folder, "queries", metadata={SALT: str(salt).encode()}) as table:
            for row in read_rows(data, "queries"):
                if row["query_id"] not in leaving:
                    table.write(_add_frequency(row, frequencies))
            for key, query in rows.items():
                values = {"text": query.text, "split": query.split, "cluster": query.cluster}
                row = {"query_id": key, "judged_by": judged_by, **values}
                table.write(_add_frequency(row, frequencies))
        more = additions.judgements | {key: query.grades for key, query in rows.items()}
        merged = write_judgements(data, folder, lambda row: row["query_id"] not in leaving, more)
        write_retired(data, folder, retired, rows)
    merged -= sum(len(query.grades) for query in rows.values())
    _print_summary(judged_by, additions, merged)


def _number_queries(
    data: Path, queries: Sequence[NewQuery], judged_by: str, existing: Sequence[str]
) -> dict[str, NewQuery]:
    """Give new queries ids that no query has or had; those that come back keep theirs."""
    ids = [*existing, *(row["query_id"] for row in read_rows(data, "retired"))]
    matches = (re.fullmatch(rf"{judged_by}-(\d+)", key) for key in ids)
    numbers = count(1 + max((int(match[1]) for match in matches if match), default=-1))
    return {query.query_id or f"{judged_by}-{next(numbers)}": query for query in queries}


def link_tables(data: Path, folder: Path, tables: Sequence[str]) -> None:
    """Hard-link the files of unchanged tables, or copy them to another file system."""
    for table in tables:
        for path in store.list_files(data, table):
            link_file(path, folder / table / path.name)


def link_file(path: Path, target: Path) -> None:
    """Hard-link a file, or copy it to another file system."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(path, target)


def write_judgements(
    data: Path,
    folder: Path,
    keeps: Callable[[Mapping[str, Any]], bool],
    more: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> int:
    """Write the judgements of a data set to a folder.

    Args:
        data: The data set.
        folder: Gets the table.
        keeps: Whether a row stays.
        more: Judgements that are added, unless the pair has one: query id → product id → grade.

    Returns:
        Number of judgements added.
    """
    added = {query: dict(grades) for query, grades in more.items()}
    with store.TableWriter(folder, "judgements") as table:
        for row in read_rows(data, "judgements"):
            if keeps(row):
                added.get(row["query_id"], {}).pop(row["product_id"], None)
                table.write(row)
        for query, grades in added.items():
            for product, grade in grades.items():
                table.write({"query_id": query, "product_id": product, "grade": grade})
    return sum(map(len, added.values()))


def write_retired(
    data: Path, folder: Path, retired: Sequence[Mapping[str, Any]], returning: Collection[str] = ()
) -> None:
    """Write the table of retired queries to a folder: those of a data set, without `returning` ids, and more rows."""
    staying = [row for row in read_rows(data, "retired") if row["query_id"] not in returning]
    rows = [*staying, *retired]
    if rows:
        with store.TableWriter(folder, "retired") as table:
            for row in rows:
                table.write(row)


def _add_frequency(row: dict[str, Any], frequencies: Mapping[str, int]) -> dict[str, Any]:
    """Add the frequency of a query's text, unless the query has a frequency or a picture."""
    text = normalise(row["text"])
    if text is None or text not in frequencies or row.get("image") or row.get("frequency") is not None:
        return row
    return row | {"frequency": frequencies[text]}


def _print_summary(judged_by: str, additions: Additions, merged: int) -> None:
    queries = additions.queries
    counts = Counter(grade for query in queries for grade in query.grades.values())
    grades = ", ".join(f"{counts[grade]:,} of grade {grade}" for grade in sorted(counts, reverse=True))
    print(f"queries: added {len(queries):,}, {judged_by}; judgements: {grades or 'none'}", file=sys.stderr)
    if returning := sum(query.query_id is not None for query in queries):
        print(f"queries: {returning:,} of them were retired and come back to their splits", file=sys.stderr)
    if judged := sum(map(len, additions.judgements.values())):
        print(
            f"queries: {len(additions.judgements):,} are known and stay in their splits; they get {merged:,} new "
            f"judgements, and keep {judged - merged:,} that they have",
            file=sys.stderr,
        )
