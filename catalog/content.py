"""The content of a product as a hash: equal hashes, equal vectors and equal words in the index."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from catalog import store
from catalog.schema import TEXT_COLUMNS, list_pictures

SIZE = 16  # bytes of a hash
TEXTS = (*TEXT_COLUMNS, "language", "group_id")
# all that encoders and BM25 read; price, stock, currency and updated_at are left out
CONTENT_COLUMNS = (*TEXTS, "attributes", "images", "video")
HASHES = pa.binary(SIZE)


def hash_row(row: Mapping[str, Any]) -> bytes:
    """Hash what encoders and BM25 read of a product.

    Each part goes in with its length, so that no two contents have the same bytes.

    Args:
        row: Of the products table, with `CONTENT_COLUMNS`.
    """
    digest = blake2b(digest_size=SIZE)

    def add(part: bytes | None) -> None:
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")

    for name in TEXTS:
        text = row[name]
        add(None if text is None else text.encode())
    for parts in (list_pictures(row), row["video"] or ()):
        digest.update(b"[")
        for part in parts:
            add(part["bytes"])
    digest.update(b"[")
    for key, value in row["attributes"] or ():
        add(key.encode())
        add(None if value is None else value.encode())
    return digest.digest()


def hash_rows(batch: pa.RecordBatch) -> pa.Array:
    """Hash the products of a batch: `SIZE` bytes each, in their order."""
    return pa.array(map(hash_row, batch.to_pylist()), HASHES)


def hash_products(data: Path) -> pa.ChunkedArray:
    """Hash all products of a data set, in their order; holds one batch of pictures at a time."""
    batches: Iterator[pa.RecordBatch] = store.read_batches(data, "products", CONTENT_COLUMNS)
    return pa.chunked_array([hash_rows(batch) for batch in batches], HASHES)
