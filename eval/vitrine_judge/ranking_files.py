"""Files of judgements and runs: parquet, TREC, tables of text and JSON, as three columns of equal length.

The content of a file says its format, and whether it is compressed; see `vitrine_judge.compressed_files`,
`vitrine_judge.text_files` and `vitrine_judge.parquet_files`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vitrine_judge import text_files
from vitrine_judge.compressed_files import check_path, read_bytes, read_content
from vitrine_judge.errors import JudgeError
from vitrine_judge.id_codes import encode_ids
from vitrine_judge.layouts import RUN, FileLayout, PairColumns

BATCH = 1 << 23  # pairs in memory at a time; larger files are read in batches
ROW_GROUP = 2 * BATCH  # pairs in a row group of a parquet file, which a reader reads at once
SYSTEM_TAG = "vitrine"  # the last column of a TREC run names the system
PARQUET = b"PAR1"  # the first bytes of a parquet file


def read_pairs(path: Path, layout: FileLayout) -> PairColumns:
    """Read a file or folder of any format; its content says which.

    A folder is a BEIR data set, of which the test judgements are read, or holds parquet files.

    Raises:
        JudgeError: as the reader of that format.
    """
    path = check_path(path)
    if path.is_dir():
        beir = path / "qrels" / "test.tsv"
        return read_beir(beir, layout) if beir.exists() else read_parquet(path, layout)
    if read_bytes(path, len(PARQUET)) == PARQUET:
        return read_parquet(path, layout)
    content = read_content(path)
    if content.startswith(PARQUET):
        return read_parquet(path, layout, content)
    if text_files.is_nested_json(content):
        return columns_of_nested(text_files.parse_json(content, str(path)), str(path))
    return text_files.parse_text(content, layout, str(path))


def read_trec(path: Path, layout: FileLayout) -> PairColumns:
    """Read a TREC file.

    Raises:
        JudgeError: an unreadable file or line.
    """
    return text_files.parse_trec(read_content(check_path(path)), layout, str(path))


def read_beir(path: Path, layout: FileLayout) -> PairColumns:
    """Read a tab-separated file of BEIR judgements.

    Raises:
        JudgeError: an unreadable file or line, another header, or a layout that is not `JUDGEMENTS`.
    """
    return text_files.parse_delimited(read_content(check_path(path)), layout, str(path))


def read_parquet(path: Path, layout: FileLayout, content: bytes | None = None) -> PairColumns:
    """Read a parquet file, or a folder of them; `content` holds its bytes where they are not those at `path`.

    Raises:
        JudgeError: an unreadable file, or a missing column.
    """
    from vitrine_judge.parquet_files import read_names, read_table  # takes time, and text does not need it

    path = check_path(path)
    columns = layout.choose_columns(read_names(path, content), str(path))
    return columns_of_table(read_table(path, columns, content), layout, str(path))


def columns_of_table(table: pa.Table, layout: FileLayout, where: str) -> PairColumns:
    """The columns of an Arrow table; `where` names it in errors.

    Raises:
        JudgeError: a missing column.
    """
    if not isinstance(table, pa.Table | pa.RecordBatch):
        raise JudgeError(f"{where}: expected an Arrow table, not {type(table).__name__}")
    return PairColumns(*(table[name] for name in layout.choose_columns(table.schema.names, where)))


def columns_of_nested(nested: Mapping[Any, Mapping[Any, float]], where: str) -> PairColumns:
    """The columns of {query: {product: value}}; `where` names it in errors.

    Raises:
        JudgeError: another structure, or query ids as for `vitrine_judge.id_codes.encode_ids`.
    """
    if not isinstance(nested, Mapping):
        raise JudgeError(f"{where}: expected {{query: {{product: number}}}}, not {type(nested).__name__}")
    if not all(issubclass(kind, Mapping) for kind in set(map(type, nested.values()))):
        invalid = next(query for query, pairs in nested.items() if not isinstance(pairs, Mapping))
        raise JudgeError(f"{where}: query '{invalid}': expected {{query: {{product: number}}}}")
    names, codes = encode_ids(list(nested), f"{where}: query ids")
    codes = np.repeat(codes, np.fromiter(map(len, nested.values()), np.int64, len(nested)))
    query_ids = codes if names is None else pa.DictionaryArray.from_arrays(codes, names)
    product_ids = list(chain.from_iterable(nested.values()))
    values = list(chain.from_iterable(pairs.values() for pairs in nested.values()))
    return PairColumns(query_ids, product_ids, values)


def is_large_parquet(path: Path) -> bool:
    """Whether this is a parquet file of more than `BATCH` rows."""
    path = check_path(path)
    if not path.is_file() or read_bytes(path, len(PARQUET)) != PARQUET:
        return False
    from vitrine_judge.parquet_files import count_rows

    return count_rows(path) > BATCH


def read_query_batches(path: Path, layout: FileLayout) -> Iterator[PairColumns]:
    """Read a parquet file in batches of about `BATCH` rows. Each batch ends with the last row of a query.

    Raises:
        JudgeError: an unreadable file, a missing column, or a query of more than `BATCH` rows.
    """
    from vitrine_judge.parquet_files import read_batches, read_names

    columns = layout.choose_columns(read_names(path), str(path))
    remaining: list[pa.RecordBatch] = []
    for batch in read_batches(path, columns, BATCH):
        remaining.append(batch)
        if sum(map(len, remaining)) <= BATCH:
            continue
        table = pa.Table.from_batches(remaining)
        start = _last_query_start(table[columns[0]], path)
        yield columns_of_table(table[:start], layout, str(path))
        remaining = table[start:].to_batches()
    yield columns_of_table(pa.Table.from_batches(remaining), layout, str(path))


def write_parquet(
    path: Path, layout: FileLayout, query_ids: pa.Array, product_ids: pa.Array, values: np.ndarray
) -> None:
    """Write what `read_parquet` reads: ids as dictionary arrays, numbers as float64."""
    from vitrine_judge.parquet_files import write_table

    columns = dict(zip(layout.headers[0], (query_ids, product_ids, pa.array(values)), strict=True))
    write_table(path, columns, ROW_GROUP, layout.headers[0][:2])


def write_trec(path: Path, layout: FileLayout, pairs: PairColumns, ranks: Sequence[int]) -> None:
    """Write what `read_trec` reads; numbers keep all digits.

    Raises:
        JudgeError: an id that holds a blank, or a query id that begins with "#"; the format cannot express them.
    """
    for name in (*dict.fromkeys(pairs.query_ids), *sorted(set(pairs.product_ids))):
        if len(name.encode().split()) != 1:
            raise JudgeError(f"{path}: id {name!r} holds a blank; TREC files cannot, use parquet")
    if comments := [name for name in pairs.query_ids if name.startswith("#")]:
        raise JudgeError(f"{path}: query '{comments[0]}' would be a comment in a TREC file; use parquet")
    columns = {
        "query_id": pairs.query_ids,
        "product_id": pairs.product_ids,
        layout.value: [f"{value:.17g}" for value in pairs.values],
        "rank": ranks,
        "iteration": ["Q0" if layout == RUN else "0"] * len(ranks),
        "tag": [SYSTEM_TAG] * len(ranks),
    }
    lines = zip(*(columns[name] for name in layout.trec), strict=True)
    path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


def _last_query_start(query_ids: pa.ChunkedArray, path: Path) -> int:
    """The row at which the last query begins."""
    _, codes = encode_ids(query_ids, f"{path}: query ids")
    changes = np.flatnonzero(codes[1:] != codes[:-1])
    if not len(changes):
        raise JudgeError(f"{path}: query '{query_ids[0]}' has more than {BATCH:,} products; give fewer")
    return int(changes[-1]) + 1
