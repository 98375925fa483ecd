"""Tables of queries: the rows of the judged queries, in their order."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from vitrine_judge.arrays import locate
from vitrine_judge.errors import JudgeError


def read_query_table(path: Path, query_ids: np.ndarray) -> pa.Table:
    """Read a table with a column query_id.

    Args:
        path: The file.
        query_ids: (Q,) str, the judged queries.

    Returns:
        Q rows, in the order of `query_ids`.

    Raises:
        JudgeError: no column query_id, or a query that the table lacks.
    """
    from vitrine_judge.parquet_files import read_table  # takes time, and few commands need it

    table = read_table(path)
    if "query_id" not in table.column_names:
        raise JudgeError(f"{path}: column 'query_id' is missing")
    rows = locate(pa.array(query_ids), table["query_id"].combine_chunks().cast(pa.string()))
    if (rows < 0).any():
        raise JudgeError(f"{path}: the judged query '{query_ids[rows.argmin()]}' is missing; add its row")
    return table.take(pa.array(rows))
