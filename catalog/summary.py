"""Summary of a data set for people: statistics as text, and a contact sheet of pictures and clips."""

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import NamedTuple
from zlib import crc32

import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from catalog.images import PictureError, decode, fit
from catalog.schema import EXACT, GRADE_NAMES, SPLITS, main_picture
from catalog.store import read_batches

TOP = 12  # number of categories listed
ROWS_PER_BATCH = 128  # few, because products can have clips
TILE, CAPTION = 144, 44  # pixels of a picture and of its caption's height


def summarise_data(data: Path) -> str:
    """Summarise the tables of a data set as text; reads it in batches.

    Raises:
        DataError: if a table is missing or cannot be read.
    """
    sections = (_summarise_products, _summarise_queries, _summarise_judgements)
    return "\n\n".join("\n".join(summarise(data)) for summarise in sections)


def _summarise_products(data: Path) -> Iterator[str]:
    count, present, categories = 0, Counter[str](), Counter[str]()
    prices: list[float] = []
    lengths, frames, pictures = Counter[int](), Counter[int](), Counter[int]()
    optional = ("description", "category", "brand", "color", "material", "price", "images")
    for batch in read_batches(data, "products", ("title", *optional, "video"), ROWS_PER_BATCH):
        count += batch.num_rows
        present.update({name: batch.num_rows - batch[name].null_count for name in optional})
        categories.update(name for name in batch["category"].to_pylist() if name)
        lengths.update(len(title.split()) for title in batch["title"].to_pylist())
        prices += [price for price in batch["price"].to_pylist() if price is not None]
        prices = [min(prices), max(prices)] if prices else []
        pictures.update(count for count in pc.list_value_length(batch["images"]).to_pylist() if count)
        frames.update(count for count in pc.list_value_length(batch["video"]).to_pylist() if count)
    yield f"{count:,} products"
    yield "  with      " + ", ".join(f"{name} {_format_share(present[name], count)}" for name in optional)
    if prices:
        yield f"  prices    {prices[0]:,.2f} to {prices[1]:,.2f}"
    if lengths:
        yield f"  titles    {min(lengths)} to {max(lengths)} words, median {median(lengths.elements()):.0f}"
    if several := sum(products for count, products in pictures.items() if count > 1):
        yield f"  galleries {several:,} ({_format_share(several, count)}), up to {max(pictures)} pictures"
    if clips := frames.total():
        spread = f"{min(frames)} to {max(frames)} frames, median {median(frames.elements()):.0f}"
        yield f"  clips     {clips:,} ({_format_share(clips, count)}), {spread}"
    yield f"  {len(categories)} categories: " + ", ".join(
        f"{name} {number:,}" for name, number in categories.most_common(TOP)
    )


def _summarise_queries(data: Path) -> Iterator[str]:
    cells: Counter[tuple[str, str]] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    clusters: Counter[str | None] = Counter()
    for batch in read_batches(data, "queries", ("text", "split", "segment", "cluster")):
        clusters.update(batch["cluster"].to_pylist())
        for query in batch.to_pylist():
            segment = query["segment"] or "-"
            cells[segment, query["split"]] += 1
            if query["text"] and len(examples[segment]) < TOP // 2:
                examples[segment].append(query["text"])
    single = clusters.pop(None, 0)  # a query without a cluster is one of its own
    yield f"{cells.total():,} queries in {len(clusters) + single:,} clusters"
    yield f"  {'segment':<12}" + "".join(f"{split:>9}" for split in SPLITS)
    for segment in sorted({segment for segment, _ in cells}):
        yield f"  {segment:<12}" + "".join(f"{cells[segment, split]:>9,}" for split in SPLITS)
    for segment, texts in sorted(examples.items()):
        yield from (f"  {segment:<12}{text}" for text in texts)


def _summarise_judgements(data: Path) -> Iterator[str]:
    grades: Counter[int] = Counter()
    exact: Counter[str] = Counter()
    for batch in read_batches(data, "judgements"):
        grades.update(batch["grade"].to_pylist())
        for query, grade in zip(batch["query_id"].to_pylist(), batch["grade"].to_pylist(), strict=True):
            exact[query] += grade == EXACT
    yield f"{grades.total():,} judgements"
    for grade, name in sorted(GRADE_NAMES.items(), reverse=True):
        yield f"  {grade} {name:<11}{grades[grade]:>10,}  {_format_share(grades[grade], grades.total())}"
    if exact:
        matches = exact.values()
        yield f"  exact matches of a query: {min(matches)} to {max(matches)}, median {median(matches):g}"


def _format_share(part: int, total: int) -> str:
    return f"{part / total:.0%}" if total else "0%"


class Tile(NamedTuple):
    """A picture of the sheet, and the caption under it."""

    picture: bytes
    caption: str


def write_contact_sheet(data: Path, out: Path, count: int = 48, columns: int = 8) -> None:
    """Write one PNG with three sections: pictures of products, clips as strips of frames, pictures of queries.

    Args:
        data: The data set.
        out: The PNG file.
        count: Number of product pictures, at most; a third as many of queries, an eighth as many clips.
        columns: Pictures per row; of a longer clip, evenly spaced frames.

    Raises:
        DataError: if a table is missing or cannot be read.
    """
    sections = [
        _split_into_rows(_select_tiles(data, "products", "title", count), columns),
        _select_strips(data, count // 8, columns),
        _split_into_rows(_select_tiles(data, "queries", "text", count // 3), columns),
    ]
    *ends, height = accumulate(len(rows) * (TILE + CAPTION) for rows in sections)
    sheet = Image.new("RGB", (columns * TILE, max(1, height)), "white")
    for y, row in enumerate(row for rows in sections for row in rows):
        for x, tile in enumerate(row):
            _paste(sheet, tile, x * TILE, y * (TILE + CAPTION))
    for end in ends:
        ImageDraw.Draw(sheet).line([(0, end - 1), (sheet.width, end - 1)], fill="black", width=2)
    sheet.save(out, "PNG")


def _split_into_rows(tiles: Sequence[Tile], columns: int) -> list[Sequence[Tile]]:
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def _select_tiles(data: Path, table: str, text: str, count: int) -> list[Tile]:
    """Select rows that have a picture, by the picture's hash: a reproducible, unordered sample."""
    column = "images" if table == "products" else "image"
    pictured = (
        Tile(picture, row[text] or "")
        for batch in read_batches(data, table, (text, column))
        for row in batch.to_pylist()
        if (picture := main_picture(row))
    )
    return nsmallest(count, pictured, key=lambda tile: crc32(tile.picture))


def _select_strips(data: Path, count: int, columns: int) -> list[Sequence[Tile]]:
    """Select clips, like `_select_tiles`; each is a row of frames, with the title under the first."""
    clips = (
        [
            Tile((frame and frame["bytes"]) or b"", "" if number else row["title"])
            for number, frame in enumerate(row["video"])
        ]
        for batch in read_batches(data, "products", ("title", "video"), ROWS_PER_BATCH)
        for row in batch.to_pylist()
        if row["video"]
    )
    selected = nsmallest(count, clips, key=lambda tiles: crc32(tiles[0].picture))
    return [tiles[:: -(-len(tiles) // columns)] for tiles in selected]


def _paste(sheet: Image.Image, tile: Tile, x: int, y: int) -> None:
    try:
        picture = Image.fromarray(fit(decode(tile.picture), TILE - 8))
    except PictureError as error:
        picture = Image.new("RGB", (TILE - 8, TILE - 8), "lightgrey")
        ImageDraw.Draw(picture).text((6, 6), "\n".join(textwrap.wrap(str(error), 20)), fill="black")
    sheet.paste(picture, (x + 4, y + 4))
    lines = textwrap.wrap(tile.caption, 21)[:3]
    ImageDraw.Draw(sheet).text(
        (x + 4, y + TILE - 2), "\n".join(lines), fill="black", font=ImageFont.load_default(11)
    )
