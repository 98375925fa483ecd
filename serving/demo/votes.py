"""Votes of the demo page: which of two models answers a query better, stored as survey answers.

A vote is two rows of the table `satisfaction`, one per model, with the same time and the ratings of `RATINGS`. Votes
have their own folder, in the layout of a data set, because DVC versions `data/`.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.schema import SATISFACTION, DataError

# Vote on the challenger → ratings of champion and challenger on the survey's scale of 1 to 5.
RATINGS = {"better": (2, 4), "same": (3, 3), "worse": (4, 2)}
MAX_ROWS = 200_000  # each vote rewrites the file


class Votes:
    """The votes in a folder.

    Args:
        folder: For satisfaction/votes.parquet.

    Raises:
        DataError: existing votes cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "satisfaction" / "votes.parquet"
        self._read()

    def read_vote(self, query_id: str, champion: str, challenger: str) -> str | None:
        """Return the vote on two versions for a query, a key of `RATINGS`; None if there is none."""
        table = self._read()
        votes = _ratings_by_time(table.filter(pc.equal(table["query_id"], query_id)))
        for ratings in votes.values():
            if ratings.keys() == {champion, challenger}:
                pair = ratings[champion], ratings[challenger]
                return next((vote for vote, values in RATINGS.items() if values == pair), None)
        return None

    def write_vote(self, query_id: str, champion: str, challenger: str, vote: str) -> None:
        """Write a vote; it replaces an earlier vote on the same query and versions.

        Safe for concurrent writers, and if the process is killed at any point.

        Args:
            query_id: The query.
            champion: The champion's version.
            challenger: The challenger's version.
            vote: A key of `RATINGS`.

        Raises:
            DataError: the file is full or cannot be read.
        """
        answered_at = datetime.now(UTC)
        rows = [
            {"query_id": query_id, "model_version": version, "rating": rating, "answered_at": answered_at}
            for version, rating in zip((champion, challenger), RATINGS[vote], strict=True)
        ]
        with self._locked():
            table = self._read_without(query_id, {champion, challenger})
            if len(table) + len(rows) > MAX_ROWS:
                raise DataError(
                    f"{self.path}: full, with {len(table):,} answers; copy it into the data set and remove it"
                )
            table = pa.concat_tables([table, pa.Table.from_pylist(rows, SATISFACTION)])
            partial = self.path.with_name(".votes.partial")
            pq.write_table(table, partial)
            partial.replace(self.path)

    def _read(self) -> pa.Table:
        return store.read_table(self.folder, "satisfaction").cast(SATISFACTION)

    def _read_without(self, query_id: str, versions: set[str]) -> pa.Table:
        """Read all rows except those of the vote on a query and versions."""
        table = self._read()
        votes = _ratings_by_time(table.filter(pc.equal(table["query_id"], query_id)))
        times = [time for time, ratings in votes.items() if ratings.keys() == versions]
        replaced = pc.and_(
            pc.equal(table["query_id"], query_id),
            pc.is_in(table["answered_at"], pa.array(times, SATISFACTION.field("answered_at").type)),
        )
        return table.filter(pc.invert(replaced))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            yield


def _ratings_by_time(rows: pa.Table) -> dict[datetime, dict[str, int]]:
    """Group the ratings of each vote: time → version → rating."""
    ratings: dict[datetime, dict[str, int]] = {}
    for row in rows.to_pylist():
        ratings.setdefault(row["answered_at"], {})[row["model_version"]] = row["rating"]
    return ratings
