"""*Fashion Product Images (Small)* in its published layout: `styles.csv` and `images/ID.jpg`, a folder or a zip.

It has no queries, so they are derived from what its annotators noted: gender, article type and base colour. Hence
only a merchant's own words become searchable columns: the title and the category path. The colour, season, usage,
year and gender go to `attributes`, which nothing searches; in `color` they would hand a text search the very words
that the judgements are made of, and the picture would have nothing left to tell.
"""

import csv
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from catalog.derived import FEWEST, MOST, Combo, Grader, Query, Style, assign, derive
from catalog.images import PictureError, decode, pixel_hash
from catalog.schema import DataError
from catalog.sources import source
from catalog.store import TableWriter, fresh

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"


class Published(NamedTuple):
    """The files of the published layout: the table's text, and the pictures by product id."""

    styles: str
    pictures: Mapping[str, str]
    read: Callable[[str], bytes]


@source("fashion")
def fashion(source: Path, out: Path, seed: int = 0) -> None:
    """Import the data set and derive queries with judgements. The same seed gives the same bytes.

    Grades: 3 the same gender, article type and colour; 2 the same article type, and one of the other two; 1 another
    article type of the sub-category, the same gender and colour; 0 a sample of the rest. Combinations that share a
    title or a picture are kept in one split. A query's picture is taken out of its product's row: a shopper's photo
    is never the shop's own.

    Args:
        source: The folder or zip that holds `styles.csv` and `images/`, possibly one folder down.
        out: Gets the data set; see `catalog.schema`.
        seed: Of the choice of queries, of their words, of judged products and of splits.

    Raises:
        DataError: where the layout is another, or a zip is broken.
    """
    rng = np.random.default_rng(seed)
    with _published(source) as files:
        styles, defects = parse(files.styles, source)
        _tell(styles, defects, files.pictures)
        hashes = _hashes(files, [style.id for style in styles if style.id in files.pictures])
        queries = derive(styles, hashes, rng)
        if not queries:
            raise DataError(f"{source}: no gender, article type and colour with {FEWEST} to {MOST} products")
        splits = assign([query.combo for query in queries], styles, hashes, rng)
        with fresh(out) as folder:
            _write_products(folder, styles, files, {query.donor for query in queries})
            _write_queries(folder, queries, splits, files, Grader(styles, rng))


def parse(text: str, where: Path) -> tuple[list[Style], dict[str, list[int]]]:
    """Read styles.csv, whose last column may hold commas without quotes.

    Returns:
        The usable rows, and for each kind of defect the numbers of the lines that were skipped for it.
    """
    lines = text.split("\n")  # splitlines() would also split at rarer characters, which titles may hold
    if lines[0].strip() != HEADER:
        raise DataError(f"{where}: styles.csv does not begin with the line {HEADER}")
    styles: dict[str, Style] = {}
    defects: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = next(csv.reader([line]))
        title = ",".join(fields[9:]).strip()
        fields = [field.strip() for field in fields[:9]] + [title] * (len(fields) > 9)
        identity = fields[0]
        if len(fields) < len(Style._fields):
            defects["too few columns"].append(number)
        elif not (identity.isascii() and identity.isdigit()):
            defects["an id that is no number"].append(number)
        elif identity in styles:
            defects["an id seen before"].append(number)
        elif not title:
            defects["no title"].append(number)
        else:
            styles[identity] = Style._make(fields)
    return list(styles.values()), defects


def _write_products(folder: Path, styles: Sequence[Style], files: Published, donors: set[str | None]) -> None:
    with TableWriter(folder, "products") as table:
        for style in tqdm(styles, desc="writing", unit="product", disable=None):
            noted = {
                "gender": style.gender,
                "baseColour": style.colour,
                "season": style.season,
                "year": style.year,
                "usage": style.usage,
            }
            table.write(
                {
                    "product_id": style.id,
                    "title": style.title,
                    "category": "/".join(filter(None, (style.master, style.sub, style.article))) or None,
                    "image": None if style.id in donors else _picture(files, style.id),
                    "attributes": [(name, value) for name, value in noted.items() if value],
                }
            )


def _write_queries(
    folder: Path, queries: Sequence[Query], splits: Mapping[Combo, str], files: Published, grader: Grader
) -> None:
    with TableWriter(folder, "queries") as table, TableWriter(folder, "judgements") as judgements:
        for number, query in enumerate(queries):
            kind = "text" if query.text else "image"
            identity = f"{kind}-{number:04}"
            table.write(
                {
                    "query_id": identity,
                    "text": query.text,
                    "image": _picture(files, query.donor) if query.donor else None,
                    "split": splits[query.combo],
                    "segment": f"derived-{kind}",
                }
            )
            for product, grade in grader.judge(query.combo):
                judgements.write({"query_id": identity, "product_id": product, "grade": grade})


def _picture(files: Published, identity: str) -> dict[str, Any] | None:
    if identity not in files.pictures:
        return None
    return {"bytes": files.read(files.pictures[identity]), "path": f"{identity}.jpg"}


def _hashes(files: Published, ids: Sequence[str]) -> dict[str, str]:
    """Product id → hash of the picture's pixels; pictures that cannot be decoded are left out."""

    def hashed(identity: str) -> str | None:
        try:
            return pixel_hash(decode(files.read(files.pictures[identity])))
        except PictureError:
            return None

    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(hashed, ids), total=len(ids), desc="reading", unit="picture", disable=None)
        return {identity: pixels for identity, pixels in zip(ids, found, strict=True) if pixels}


def _tell(styles: Sequence[Style], defects: Mapping[str, list[int]], pictures: Mapping[str, str]) -> None:
    ids = {style.id for style in styles}
    say = [f"{len(ids):,} products"]
    for defect, lines in defects.items():
        first = ", ".join(map(str, lines[:10])) + (" …" if len(lines) > 10 else "")
        say.append(f"skipped {len(lines):,} rows with {defect}: line {first}")
    if without := len(ids - pictures.keys()):
        say.append(f"{without:,} products have no picture; kept, with their text alone")
    if left := len(pictures.keys() - ids):
        say.append(f"{left:,} pictures have no product; left out")
    print("\n".join(f"fashion: {line}" for line in say), file=sys.stderr)


@contextmanager
def _published(source: Path) -> Iterator[Published]:
    if source.is_dir():
        names = [
            p.relative_to(source).as_posix()
            for d in (".", "*", "*/*")
            for p in source.glob(f"{d}/*")
            if p.is_file()
        ]
        yield _layout(source, names, lambda name: (source / name).read_bytes())
        return
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source}: neither a folder nor a readable zip ({error})") from error

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{source}: {name} cannot be read ({error}); fetch the zip again") from error

    with archive:
        yield _layout(source, archive.namelist(), read)


def _layout(source: Path, names: Sequence[str], read: Callable[[str], bytes]) -> Published:
    paths = [PurePosixPath(name) for name in names]
    tables = [path for path in paths if path.name == "styles.csv" and len(path.parts) <= 2]
    if not tables:
        raise DataError(f"{source}: no styles.csv, at the top or one folder down")
    table = min(tables, key=lambda path: len(path.parts))
    folder = table.parent / "images"
    pictures = {path.stem: str(path) for path in paths if path.parent == folder and path.suffix == ".jpg"}
    try:
        return Published(read(str(table)).decode("utf-8-sig"), pictures, read)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {table} is not UTF-8 ({error})") from error
