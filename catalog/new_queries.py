"""Writes a data set with new queries, and without retired ones."""

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from catalog import store
from catalog.schema import SPLITS, DataError
from catalog.text import normalise


class NewQuery(NamedTuple):
    """A query that has no id yet.

    Attributes:
        text: Normalised text.
        grades: Product id → grade.
        split: None if the query fits into no split.
        cluster: As in `catalog.schema`.
    """

    text: str
    grades: dict[str, int]
    split: str | None = None
    cluster: str | None = None


def read_rows(data: Path, table: str) -> Iterator[dict[str, Any]]:
    """Read a table row by row; errors are those of `catalog.store.read_batches`."""
    for batch in store.read_batches(data, table):
        yield from batch.to_pylist()


def select_new(data: Path, queries: Sequence[NewQuery]) -> list[NewQuery]:
    """Select the queries that have a split, and a text that no query of the data set has or had."""
    columns = [store.read_table(data, name, ["text"]).column(0) for name in ("queries", "retired")]
    texts = {normalise(text) for column in columns for text in column.to_pylist()}
    return [query for query in queries if query.split and query.text not in texts]


def write_queries(
    data: Path,
    out: Path,
    queries: Sequence[NewQuery],
    judged_by: str,
    frequencies: Mapping[str, int] | None = None,
    retired: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a data set with new queries, and print their number.

    The ids are `derived-0`, `derived-1`, … or `implicit-0`, …, after those that the data set has or had.

    Args:
        data: The data set.
        out: Gets the data set with the new queries.
        queries: The new queries, each with a split.
        judged_by: One of `catalog.schema.JUDGED_BY`.
        frequencies: Normalised text → number of searches; for new queries, and for those without frequency and picture.
        retired: Rows of the table `retired`: queries of the data set that are left out, with their judgements.

    Raises:
        DataError: if the data set cannot be read, or a split would have no query.
    """
    leaving = {row["query_id"] for row in retired}
    existing = store.read_table(data, "queries", ["query_id", "split"]).to_pylist()
    present = {row["split"] for row in existing if row["query_id"] not in leaving}
    if missing := set(SPLITS) - present - {query.split for query in queries}:
        raise DataError(f"{data}: gives {len(queries)} queries, but none for {', '.join(sorted(missing))}")
    ids = [row["query_id"] for row in (*existing, *read_rows(data, "retired"))]
    numbers = (re.fullmatch(rf"{judged_by}-(\d+)", key) for key in ids)
    first = 1 + max((int(match[1]) for match in numbers if match), default=-1)
    rows = {f"{judged_by}-{number}": query for number, query in enumerate(queries, start=first)}
    with store.new_atomic_dir(out) as folder:
        _link_tables(data, folder, ("products", "satisfaction"))
        with store.TableWriter(folder, "queries") as table:
            for row in read_rows(data, "queries"):
                if row["query_id"] not in leaving:
                    table.write(_add_frequency(row, frequencies or {}))
            for key, query in rows.items():
                values = {"text": query.text, "split": query.split, "cluster": query.cluster}
                row = {"query_id": key, "judged_by": judged_by, **values}
                table.write(_add_frequency(row, frequencies or {}))
        _write_judgements(data, folder, rows, leaving)
        _write_retired(data, folder, retired)
    _print_summary(judged_by, queries)


def _link_tables(data: Path, folder: Path, tables: Sequence[str]) -> None:
    """Hard-link the files of unchanged tables, or copy them to another file system."""
    for table in tables:
        for path in store.list_files(data, table):
            target = folder / table / path.name
            target.parent.mkdir(exist_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:  # another file system
                shutil.copyfile(path, target)


def _write_judgements(
    data: Path, folder: Path, queries: Mapping[str, NewQuery], retired: Collection[str]
) -> None:
    with store.TableWriter(folder, "judgements") as table:
        for row in read_rows(data, "judgements"):
            if row["query_id"] not in retired:
                table.write(row)
        for key, query in queries.items():
            for product, grade in query.grades.items():
                table.write({"query_id": key, "product_id": product, "grade": grade})


def _write_retired(data: Path, folder: Path, retired: Sequence[Mapping[str, Any]]) -> None:
    rows = [*read_rows(data, "retired"), *retired]
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


def _print_summary(judged_by: str, queries: Sequence[NewQuery]) -> None:
    counts = Counter(grade for query in queries for grade in query.grades.values())
    grades = ", ".join(f"{counts[grade]:,} of grade {grade}" for grade in sorted(counts, reverse=True))
    print(f"queries: added {len(queries):,}, {judged_by}; judgements: {grades}", file=sys.stderr)
