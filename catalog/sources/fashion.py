"""*Fashion Product Images (Small)* in its published layout: `styles.csv` and `images/ID.jpg`, a folder or a zip.

It has no queries, so they are derived from what its annotators noted: gender, article type and base colour. Hence
only a merchant's own words become searchable columns: the title and the category path. The colour, season, usage,
year and gender go to `attributes`, which nothing searches; in `color` they would hand a text search the very words
that the judgements are made of, and the picture would have nothing left to tell.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from catalog.conversion import Row
from catalog.derived import FEWEST, MOST, Combo, Grader, Query, Style, assign, derive
from catalog.images import pixels_of
from catalog.reading import Files
from catalog.schema import DERIVED, DataError
from catalog.sources import source

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
MOST_BYTES = 1 << 30  # of styles.csv


@source("fashion")
def fashion(files: Files, *, seed: int = 0) -> Iterator[Row]:
    """Fashion Product Images: styles.csv and images/; queries are derived from its annotations.

    Grades: 3 the same gender, article type and colour; 2 the same article type, and one of the other two; 1 another
    article type of the sub-category, the same gender and colour; 0 a sample of the rest. Combinations that share a
    title or a picture are kept in one split. A query's picture is taken out of its product's row: a shopper's photo
    is never the shop's own.

    Args:
        files: As published.
        seed: Of the choice of queries, of their words, of judged products and of splits.

    Raises:
        DataError: where the layout is another.
    """
    rng = np.random.default_rng(seed)
    table = files.need("styles.csv")
    try:
        text = files.read(table, MOST_BYTES).decode("utf-8-sig")
    except ValueError as error:
        raise DataError(f"{files.source}: {table} cannot be read as UTF-8 ({error})") from error
    styles, defects = parse(text, files.source)
    for reason, lines in defects.items():
        for line in lines:
            files.fault(f"{table} line {line}", reason)
    folder = PurePosixPath(table).parent / "images"
    pictures = {PurePosixPath(name).stem: name for name in files.all(f"{folder}/*.jpg")}
    for identity in sorted(pictures.keys() - {style.id for style in styles}):
        files.fault(pictures[identity], "no product of this id")
    hashes = _hashes(files, pictures, [style.id for style in styles if style.id in pictures])
    queries = derive(styles, hashes, rng)
    if not queries:
        raise DataError(
            f"{files.source}: no gender, article type and colour with {FEWEST} to {MOST} products"
        )
    splits = assign([query.combo for query in queries], styles, hashes, rng)
    donors = {query.donor for query in queries}
    for style in styles:
        image = None if style.id in donors else files.picture(f"{folder}/{style.id}.jpg")
        yield Row("products", f"{table}, id {style.id}", _product(style) | {"image": image})
    yield from _queries(queries, splits, files, folder, Grader(styles, rng))


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


def _product(style: Style) -> dict[str, Any]:
    noted = {
        "gender": style.gender,
        "baseColour": style.colour,
        "season": style.season,
        "year": style.year,
        "usage": style.usage,
    }
    category = "/".join(filter(None, (style.master, style.sub, style.article)))
    return {"product_id": style.id, "title": style.title, "category": category, "attributes": noted}


def _queries(
    queries: Sequence[Query], splits: Mapping[Combo, str], files: Files, folder: PurePosixPath, grader: Grader
) -> Iterator[Row]:
    judgements = []
    for number, query in enumerate(queries):
        kind = "text" if query.text else "image"
        own = {
            "query_id": f"{kind}-{number:04}",
            "text": query.text,
            "image": files.picture(f"{folder}/{query.donor}.jpg") if query.donor else None,
            "split": splits[query.combo],
            "segment": f"derived-{kind}",
            "judged_by": DERIVED,
        }
        yield Row("queries", f"query {number}", own)
        judgements += [(own["query_id"], *judged) for judged in grader.judge(query.combo)]
    for query_id, product, grade in judgements:
        yield Row("judgements", "", {"query_id": query_id, "product_id": product, "grade": grade})


def _hashes(files: Files, pictures: Mapping[str, str], ids: Sequence[str]) -> dict[str, str]:
    """Product id → hash of the picture's pixels; pictures that cannot be decoded are left out."""

    def hashed(identity: str) -> str | None:
        try:
            return pixels_of(files.read(pictures[identity]))
        except ValueError:
            return None

    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(hashed, ids), total=len(ids), desc="looking", unit="picture", disable=None)
        return {identity: pixels for identity, pixels in zip(ids, found, strict=True) if pixels}
