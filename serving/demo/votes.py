"""Votes of the demo page: which of two models answers a query better, kept as answers of a survey.

A vote is two rows of the table `satisfaction`, one for each model, with the same time; `RATINGS` says with which
ratings. They are kept in a folder of their own, which has the layout of a data set, because DVC versions `data/`.
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

# What a vote on the challenger means on the survey's scale of 1 to 5: the ratings of champion and challenger.
RATINGS = {"better": (2, 4), "same": (3, 3), "worse": (4, 2)}
MAX_ROWS = 200_000  # the file is written anew for each vote


class Votes:
    """The votes in a folder.

    Args:
        folder: Gets satisfaction/votes.parquet.

    Raises:
        DataError: where the folder holds votes that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "satisfaction" / "votes.parquet"
        self._read()

    def answer(self, query_id: str, champion: str, challenger: str) -> str | None:
        """The vote on two versions for a query: a key of `RATINGS`; None where there is none."""
        table = self._read()
        ratings = _ratings(table.filter(pc.equal(table["query_id"], query_id)))
        for given in ratings.values():
            if given.keys() == {champion, challenger}:
                pair = given[champion], given[challenger]
                return next((vote for vote, values in RATINGS.items() if values == pair), None)
        return None

    def write(self, query_id: str, champion: str, challenger: str, vote: str) -> None:
        """Keep a vote; it replaces an earlier vote on the same query and versions.

        Safe for several writers at once, and for a kill at any point.

        Args:
            query_id: What was searched for.
            champion: Its version.
            challenger: Its version.
            vote: A key of `RATINGS`.

        Raises:
            DataError: where the file has no room left or cannot be read.
        """
        answered_at = datetime.now(UTC)
        rows = [
            {"query_id": query_id, "model_version": version, "rating": rating, "answered_at": answered_at}
            for version, rating in zip((champion, challenger), RATINGS[vote], strict=True)
        ]
        with self._locked():
            table = self._without(query_id, {champion, challenger})
            if len(table) + len(rows) > MAX_ROWS:
                raise DataError(
                    f"{self.path}: holds {len(table):,} answers and takes no more; copy it into the data set "
                    "and remove it"
                )
            table = pa.concat_tables([table, pa.Table.from_pylist(rows, SATISFACTION)])
            partial = self.path.with_name(".votes.partial")
            pq.write_table(table, partial)
            partial.replace(self.path)

    def _read(self) -> pa.Table:
        return store.read(self.folder, "satisfaction").cast(SATISFACTION)

    def _without(self, query_id: str, versions: set[str]) -> pa.Table:
        """All rows but those of the vote on a query and versions."""
        table = self._read()
        ratings = _ratings(table.filter(pc.equal(table["query_id"], query_id)))
        times = [time for time, given in ratings.items() if given.keys() == versions]
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


def _ratings(rows: pa.Table) -> dict[datetime, dict[str, int]]:
    """Time of a vote → version → rating."""
    ratings: dict[datetime, dict[str, int]] = {}
    for row in rows.to_pylist():
        ratings.setdefault(row["answered_at"], {})[row["model_version"]] = row["rating"]
    return ratings
