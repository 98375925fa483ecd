"""Files of judgements and runs: parquet, TREC, BEIR and JSON, as three columns of equal length."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from vitrine_judge.arrays import map_parallel
from vitrine_judge.errors import JudgeError
from vitrine_judge.id_codes import encode_ids, is_text

BATCH = 1 << 23  # pairs in memory at a time; larger files are read in batches
ROW_GROUP = 2 * BATCH  # pairs in a row group of a parquet file, which a reader reads at once
SYSTEM_TAG = "vitrine"  # the last column of a TREC run names the system
PARQUET = b"PAR1"  # the first bytes of a parquet file
BEIR_COLUMNS = ("query-id", "corpus-id", "score")  # the header of BEIR judgements
UNREAD_COLUMNS = ("iteration", "rank", "tag")  # of TREC files


class PairColumns(NamedTuple):
    """N pairs of a query and a product, each with a number: three columns of length N."""

    query_ids: Any
    product_ids: Any
    values: Any


class FileLayout(NamedTuple):
    """The columns of a file of judgements or of a run.

    Attributes:
        value: The name of the column of numbers: "grade" or "score".
        trec: The columns of a TREC file, in order.
    """

    value: str
    trec: tuple[str, ...]

    @property
    def parquet(self) -> list[str]:
        """The columns of a parquet file."""
        return ["query_id", "product_id", self.value]


JUDGEMENTS = FileLayout("grade", ("query_id", "iteration", "product_id", "grade"))
RUN = FileLayout("score", ("query_id", "iteration", "product_id", "rank", "score", "tag"))


def read_pairs(path: Path, layout: FileLayout) -> PairColumns:
    """Read a file or folder of any format; its content says which.

    A folder is a BEIR data set, of which the test judgements are read, or holds parquet files.

    Raises:
        JudgeError: as the reader of that format.
    """
    if path.is_dir():
        beir = path / "qrels" / "test.tsv"
        return read_beir(beir, layout) if beir.exists() else read_parquet(path, layout)
    head = read_bytes(path, 4096).lstrip()
    if head.startswith(PARQUET):
        return read_parquet(path, layout)
    if head.startswith(b"{"):
        return _read_json(path, layout)
    if tuple(head.split(b"\n")[0].decode(errors="replace").split()) == BEIR_COLUMNS:
        return read_beir(path, layout)
    return read_trec(path, layout)


def read_trec(path: Path, layout: FileLayout) -> PairColumns:
    """Read a TREC file; any number of blanks and tabs separates the columns.

    Raises:
        JudgeError: an unreadable file or line.
    """
    text = read_bytes(path).replace(b"\t", b" ").replace(b"\r", b"")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    text = text.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")
    return _parse_csv(path, text, " ", layout.trec, has_header=False)


def read_beir(path: Path, layout: FileLayout) -> PairColumns:
    """Read a tab-separated file of BEIR judgements.

    Raises:
        JudgeError: an unreadable file or line, another header, or a layout that is not `JUDGEMENTS`.
    """
    if layout != JUDGEMENTS:
        raise JudgeError(f"{path}: this file holds BEIR judgements; give a run here")
    return _parse_csv(path, read_bytes(path), "\t", BEIR_COLUMNS, has_header=True)


def read_parquet(path: Path, layout: FileLayout) -> PairColumns:
    """Read a parquet file, or a folder of them.

    Raises:
        JudgeError: an unreadable file, or a missing column.
    """
    return columns_of_table(read_table(path, layout.parquet), layout, str(path))


def columns_of_table(table: pa.Table, layout: FileLayout, where: str) -> PairColumns:
    """The columns of an Arrow table; `where` names it in errors.

    Raises:
        JudgeError: a missing column.
    """
    if missing := [name for name in layout.parquet if name not in table.column_names]:
        raise JudgeError(f"{where}: column '{missing[0]}' is missing; needed are {', '.join(layout.parquet)}")
    return PairColumns(*(table[name] for name in layout.parquet))


def columns_of_nested(nested: Mapping[Any, Mapping[Any, float]], where: str) -> PairColumns:
    """The columns of {query: {product: value}}; `where` names it in errors.

    Raises:
        JudgeError: query ids as for `vitrine_judge.id_codes.encode_ids`.
    """
    names, codes = encode_ids(list(nested), f"{where}: query ids")
    codes = np.repeat(codes, np.fromiter(map(len, nested.values()), np.int64, len(nested)))
    query_ids = codes if names is None else pa.DictionaryArray.from_arrays(codes, names)
    product_ids = list(chain.from_iterable(nested.values()))
    values = list(chain.from_iterable(pairs.values() for pairs in nested.values()))
    return PairColumns(query_ids, product_ids, values)


def is_large_parquet(path: Path) -> bool:
    """Whether this is a parquet file of more than `BATCH` rows."""
    if not path.is_file() or not read_bytes(path, len(PARQUET)).startswith(PARQUET):
        return False
    with _parquet_errors(path):
        return bool(pq.read_metadata(path).num_rows > BATCH)


def read_query_batches(path: Path, layout: FileLayout) -> Iterator[PairColumns]:
    """Read a parquet file in batches of about `BATCH` rows. Each batch ends with the last row of a query.

    Raises:
        JudgeError: an unreadable file, a missing column, or a query of more than `BATCH` rows.
    """
    remaining: list[pa.RecordBatch] = []
    for batch in _read_batches(path, layout.parquet):
        remaining.append(batch)
        if sum(map(len, remaining)) <= BATCH:
            continue
        table = pa.Table.from_batches(remaining)
        start = _last_query_start(table["query_id"], path)
        yield columns_of_table(table[:start], layout, str(path))
        remaining = table[start:].to_batches()
    yield columns_of_table(pa.Table.from_batches(remaining), layout, str(path))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file, or those of the named columns that it has; text as dictionaries.

    Raises:
        JudgeError: an unreadable file.
    """
    with _parquet_errors(path):
        schema = pq.read_schema(path) if path.is_file() else pq.ParquetDataset(path).schema
        names, text_names = _select_columns(schema, columns)

        def read_column(name: str) -> pa.ChunkedArray:
            return pq.read_table(path, columns=[name], read_dictionary=text_names, use_threads=False)[name]

        return pa.table(dict(zip(names, map_parallel(read_column, names), strict=True)))


def write_parquet(
    path: Path, layout: FileLayout, query_ids: pa.Array, product_ids: pa.Array, values: np.ndarray
) -> None:
    """Write what `read_parquet` reads: ids as dictionary arrays, numbers as float64.

    Few row groups, all ids in their dictionaries and no further compression: read several times as fast.
    """
    columns = [query_ids, product_ids, pa.array(values)]
    table = pa.table(dict(zip(layout.parquet, columns, strict=True)))
    pq.write_table(
        table,
        path,
        use_dictionary=["query_id", "product_id"],
        row_group_size=ROW_GROUP,
        dictionary_pagesize_limit=2**30,
        compression="none",
    )


def write_trec(path: Path, layout: FileLayout, pairs: PairColumns, ranks: Sequence[int]) -> None:
    """Write what `read_trec` reads; numbers keep all digits.

    Raises:
        JudgeError: an id that holds a blank, which the format cannot express.
    """
    for name in (*dict.fromkeys(pairs.query_ids), *sorted(set(pairs.product_ids))):
        if len(name.split()) != 1:
            raise JudgeError(f"{path}: id {name!r} holds a blank; TREC files cannot, use parquet")
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


def read_bytes(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes of a file; all for −1.

    Raises:
        JudgeError: an unreadable file.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise JudgeError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _read_json(path: Path, layout: FileLayout) -> PairColumns:
    try:
        nested = json.loads(read_bytes(path))
    except ValueError as error:
        raise JudgeError(f"{path}: not readable as JSON ({error})") from error
    if not all(isinstance(pairs, dict) for pairs in nested.values()):
        raise JudgeError(f"{path}: expected {{query: {{product: {layout.value}}}}}")
    return columns_of_nested(nested, str(path))


def _parse_csv(
    path: Path, text: bytes, delimiter: str, columns: Sequence[str], has_header: bool
) -> PairColumns:
    """Parse delimited text; without a header, `columns` are its columns in order."""
    query, product, value = (name for name in columns if name not in UNREAD_COLUMNS)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            # with more threads errors would not name the row
            pyarrow.csv.ReadOptions(column_names=None if has_header else columns, use_threads=False),
            pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
            pyarrow.csv.ConvertOptions(
                column_types={query: pa.string(), product: pa.string(), value: pa.float64()},
                include_columns=[query, product, value],
                null_values=[],  # a score of "NA" is an error, not a missing value
            ),
        )
    except (pa.ArrowException, KeyError) as error:
        message = f"{path}: {str(error).strip()}; expected the columns {', '.join(columns)}"
        raise JudgeError(message) from error
    return PairColumns(table[query], table[product], table[value])


def _read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """As `read_table`, in batches of `BATCH` rows."""
    with _parquet_errors(path):
        names, text_names = _select_columns(pq.read_schema(path), columns)
        file = pq.ParquetFile(path, read_dictionary=text_names, pre_buffer=False)
        yield from file.iter_batches(BATCH, columns=names)


def _last_query_start(query_ids: pa.ChunkedArray, path: Path) -> int:
    """The row at which the last query begins."""
    _, codes = encode_ids(query_ids, f"{path}: query ids")
    changes = np.flatnonzero(codes[1:] != codes[:-1])
    if not len(changes):
        raise JudgeError(f"{path}: query '{query_ids[0]}' has more than {BATCH:,} products; give fewer")
    return int(changes[-1]) + 1


def _select_columns(schema: pa.Schema, columns: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The columns to read, and those of them that hold text."""
    fields = [field for field in schema if columns is None or field.name in columns]
    return [field.name for field in fields], [field.name for field in fields if is_text(field.type)]


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise JudgeError(f"{path}: not a readable parquet file ({error}); write it again") from error
