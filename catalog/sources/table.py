"""Your own catalogue: a table of products, and optional tables of queries and judgements."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

from catalog.conversion import THREADS, Row
from catalog.fashion_queries import connected_components
from catalog.files import Files, Media
from catalog.galleries import CLIPS, PICTURES, find_by_id, list_media
from catalog.images import decode_and_hash
from catalog.preview import preview_table
from catalog.reading import Record
from catalog.schema import DataError
from catalog.sources import PREVIEWS, source
from catalog.splits import assign_splits
from catalog.tables import TableFormat, parse_mappings, read_table
from catalog.text import normalise


@source("table")
def table(
    files: Files,
    *,
    map: Sequence[str] = (),  # noqa: A002 - the name of the option
    pictures: Path | None = None,
    queries: Path | None = None,
    judgements: Path | None = None,
    personal: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
    header: str | None = None,
) -> Iterator[Row]:
    """Your own products.csv, .jsonl or .parquet, with pictures and clips in a column, a folder or a zip.

    Columns have the names of `catalog.schema` in any case, or known synonyms (`catalog.columns`), or those that --map
    gives; --dry-run shows them. Unknown columns become attributes. Pictures are taken from `images`, which contains
    paths or addresses, in order, or else from the file ID.jpg, .png, .webp and so on. Clips are taken from the column
    `video` (animated GIF or WebP, MP4, WebM), or else from ID.mp4, .webm; up to 16 frames are kept. The currency of
    prices such as "€ 12" or "USD 1,299.00" is kept; that of "$12" is ambiguous: add a column `currency`. Queries
    without a split get one, by a hash of the text; those that share text, picture or cluster get the same.

    Args:
        files: The table of products.
        map: COLUMN=NAME, such as title=name: the name of a column in your table; queries.text=search for other tables.
        pictures: Folder or zip of the pictures and clips; by default the folder of the table.
        queries: A table of queries: query_id, text; optionally image, split, segment, judged_by, frequency, cluster.
        judgements: A table of judgements: product_id, grade, and query_id, or the text of the query as query.
        personal: A column that is allowed although it looks like personal data.
        encoding: Encoding of text tables, such as cp1252; by default detected.
        delimiter: Delimiter of CSV tables; by default detected.
        header: Columns of a CSV of products without a header, such as product_id,title,price.

    Raises:
        DataError: if a table lacks a column, or a mapping names an unknown one.
    """
    table_format = _make_format(files, map, personal, encoding, delimiter, header)
    media = files.open_other(pictures) if pictures else files
    for where, values in read_table(files, "products", table_format):
        key = values.get("product_id")
        values["images"] = list_media(media, values.get("images")) or find_by_id(media, key, PICTURES)
        clips = list_media(media, values.get("video")) or find_by_id(media, key, CLIPS)
        values["video"] = next(iter(clips), None)
        yield Row("products", where, values)
    query_records = list(read_table(files.open_other(queries), "queries", table_format)) if queries else []
    query_ids = _add_ids(query_records)
    if judgements:
        query_records += _collect_queries(judgements, table_format, query_ids)
    yield from _query_rows(query_records, media)
    if judgements:
        yield from _judgement_rows(files.open_other(judgements), table_format, query_ids)


def _judgement_rows(
    files: Files, table_format: TableFormat, query_ids: Mapping[str | None, str]
) -> Iterator[Row]:
    """Yield the judgements; those that name a query by its text get its id."""
    for where, values in read_table(files, "judgements", table_format):
        text = normalise(str(values.get("query") or ""))
        values["query_id"] = values.get("query_id") or query_ids.get(text)
        yield Row("judgements", where, values)


def _make_format(
    files: Files,
    mappings: Sequence[str],
    personal: Sequence[str],
    encoding: str | None,
    delimiter: str | None,
    header: str | None,
) -> TableFormat:
    if files.source.is_dir() or files.zip:
        raise DataError(f"{files.source}: give the table itself, products.csv, .jsonl or .parquet")
    columns = [column.strip() for column in header.split(",")] if header else ()
    return TableFormat(parse_mappings(mappings), personal, encoding, delimiter, columns)


def _preview(
    files: Files,
    *,
    queries: Path | None,
    judgements: Path | None,
    pictures: Path | None,
    **options: Any,
) -> Iterator[str]:
    """Describe how the tables would be imported."""
    table_format = _make_format(files, options.pop("map"), **options)
    yield from preview_table(files, "products", table_format)
    for name, path in (("queries", queries), ("judgements", judgements)):
        if path:
            yield from preview_table(files.open_other(path), name, table_format)


PREVIEWS["table"] = _preview


def _add_ids(records: Sequence[Record]) -> dict[str | None, str]:
    """Give queries without an id one that depends only on their text; returns normalised text → id."""
    query_ids: dict[str | None, str] = {}
    for _, values in records:
        text = normalise(str(values.get("text") or ""))
        values["query_id"] = values.get("query_id") or (_make_id(text) if text else None)
        if text and values["query_id"] and not values.get("image"):
            query_ids.setdefault(text, str(values["query_id"]))
    return query_ids


def _make_id(text: str) -> str:
    return f"text-{blake2b(text.encode(), digest_size=6).hexdigest()}"


def _collect_queries(
    judgements: Path, table_format: TableFormat, query_ids: dict[str | None, str]
) -> Iterator[Record]:
    """Yield the queries that judgements name by a text that has no id yet, and add their ids to `query_ids`.

    The judgements are read a second time later; their faults are listed then.
    """
    with Files(judgements) as files:
        for where, values in read_table(files, "judgements", table_format):
            text = normalise(str(values.get("query") or ""))
            if values.get("query_id") or text is None or text in query_ids:
                continue
            query_ids[text] = _make_id(text)
            yield Record(where, {"query_id": query_ids[text], "text": str(values["query"]).strip()})


def _query_rows(queries: Sequence[Record], media: Files) -> Iterator[Row]:
    """Yield the queries; assigns a split to those that have none."""
    for _, values in queries:
        values["image"] = next(iter(list_media(media, values.get("image"))), None)
    keys = _split_keys([values for _, values in queries])
    given = {
        key: values["split"] for key, (_, values) in zip(keys, queries, strict=True) if values.get("split")
    }
    splits = assign_splits((key for key in keys if key not in given), present=given.values()) | given
    for key, (where, values) in zip(keys, queries, strict=True):
        values["split"] = values.get("split") or splits[key]
        yield Row("queries", where, values)


def _split_keys(queries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The key of each query's split: equal for queries that share a text, a picture or a cluster.

    A query with a picture shares only the picture: its text may repeat ("the same in red"). The key is the first name
    of a cluster, or else the first text or picture.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        nodes = list(pool.map(_query_node, queries))
    clusters = [("cluster", str(values["cluster"])) if values.get("cluster") else None for values in queries]
    roots = connected_components(
        (node, cluster or node) for node, cluster in zip(nodes, clusters, strict=True)
    )
    first: dict[Any, str] = {}
    for node in sorted(roots):  # "cluster" comes before "pixels" and "text"
        first.setdefault(roots[node], node[1])
    return [first[roots[node]] for node in nodes]


def _query_node(values: Mapping[str, Any]) -> tuple[str, str]:
    """What a query must not share with one of another split: its picture, or without one its text."""
    image = values["image"]
    if isinstance(image, Media):
        try:
            pixels = decode_and_hash(image.read())
        except ValueError:  # the conversion lists it, and leaves the picture out
            pixels = None
        if pixels:
            return "pixels", pixels
    return "text", normalise(str(values.get("text") or "")) or str(values.get("query_id"))
