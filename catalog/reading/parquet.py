"""Reads the rows of a parquet file."""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.reading.records import Header, Record, join_lines
from catalog.schema import DataError

BATCH_ROWS = 1024


def read_parquet(stream: IO[bytes], name: str) -> Iterator[Header | Record]:
    """Read the header, then the rows.

    Raises:
        DataError: if it is not a parquet file, or damaged.
    """
    number = 0
    try:
        parquet = pq.ParquetFile(pa.PythonFile(stream, mode="r"))
        yield Header(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{name} row {number}", values)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{name}: not a parquet file, or damaged ({join_lines(error)}); download it again"
        ) from error
