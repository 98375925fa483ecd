"""*Fashion Product Images (Small)* in its published layout: `styles.csv` and `images/ID.jpg`, a folder or a zip.

It has no queries. They are derived from the annotations gender, article type and base colour. Therefore only the title
and the category path become searchable columns. Colour, season, usage, year and gender go to `attributes`, which no
search reads: otherwise a text search would match the words that the judgements are derived from.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from catalog.conversion import Row
from catalog.fashion_queries import (
    MAX_PRODUCTS,
    MIN_PRODUCTS,
    Grader,
    Query,
    Style,
    cluster_combos,
    derive_queries,
    split_combos,
)
from catalog.files import Files
from catalog.images import decode_and_hash
from catalog.progress import show_progress
from catalog.schema import DERIVED, DataError
from catalog.sources import source
from catalog.threads import cpu_count

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
MAX_BYTES = 1 << 30  # of styles.csv


@source("fashion")
def fashion(files: Files, *, seed: int = 0) -> Iterator[Row]:
    """Fashion Product Images: styles.csv and images/; queries are derived from its annotations.

    Grades: 3 same gender, article type and colour; 2 same article type, and either gender or colour; 1 another article
    type of the sub-category, same gender and colour; 0 a sample of the rest. Combinations that share a title or a
    picture are in the same split and cluster. The picture of a query is removed from its product, because a shopper's
    photo is never the shop's own.

    Args:
        files: The folder or zip as published.
        seed: Random seed of queries, their words, judged products and splits.

    Raises:
        DataError: if the layout is wrong.
    """
    rng = np.random.default_rng(seed)
    table = files.require("styles.csv")
    styles = _read_styles(files, table)
    folder = PurePosixPath(table).parent / "images"
    hashes = _hash_pictures(files, folder, styles)
    queries = derive_queries(styles, hashes, rng)
    if not queries:
        raise DataError(
            f"{files.source}: no gender, article type and colour with {MIN_PRODUCTS} to {MAX_PRODUCTS} products"
        )
    combos = [query.combo for query in queries]
    clusters = cluster_combos(combos, styles, hashes)
    splits = split_combos(combos, styles, hashes, rng)
    donors = {query.donor for query in queries}
    for style in styles:
        images = None if style.id in donors else [files.get_media(f"{folder}/{style.id}.jpg")]
        yield Row("products", f"{table}, id {style.id}", _product_values(style) | {"images": images})
    grader = Grader(styles, rng)
    judgements: list[tuple[str, str, int]] = []
    for number, query in enumerate(queries):
        image = files.get_media(f"{folder}/{query.donor}.jpg") if query.donor else None
        values = _query_values(number, query, splits[query.combo])
        values |= {"image": image, "cluster": clusters[query.combo]}
        yield Row("queries", f"query {number}", values)
        judgements += [(values["query_id"], *judgement) for judgement in grader.judge(query.combo)]
    for query_id, product, grade in judgements:
        yield Row("judgements", "", {"query_id": query_id, "product_id": product, "grade": grade})


def _read_styles(files: Files, table: str) -> list[Style]:
    try:
        text = files.read(table, MAX_BYTES).decode("utf-8-sig")
    except ValueError as error:
        raise DataError(f"{files.source}: {table} cannot be read as UTF-8 ({error})") from error
    styles, defects = parse_styles(text, files.source)
    for reason, lines in defects.items():
        for line in lines:
            files.add_fault(f"{table} line {line}", reason)
    return styles


def parse_styles(text: str, where: Path) -> tuple[list[Style], dict[str, list[int]]]:
    """Parse styles.csv; its last column can contain commas without quotes.

    Returns:
        The usable rows, and defect → line numbers of the skipped rows.
    """
    lines = text.split("\n")  # splitlines() would also split at characters that titles can contain
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
        product_id = fields[0]
        if len(fields) < len(Style._fields):
            defects["too few columns"].append(number)
        elif not (product_id.isascii() and product_id.isdigit()):
            defects["an id that is not a number"].append(number)
        elif product_id in styles:
            defects["a duplicate id"].append(number)
        elif not title:
            defects["no title"].append(number)
        else:
            styles[product_id] = Style._make(fields)
    return list(styles.values()), defects


def _product_values(style: Style) -> dict[str, Any]:
    attributes = {
        "gender": style.gender,
        "baseColour": style.colour,
        "season": style.season,
        "year": style.year,
        "usage": style.usage,
    }
    category = "/".join(filter(None, (style.master, style.sub, style.article)))
    return {"product_id": style.id, "title": style.title, "category": category, "attributes": attributes}


def _query_values(number: int, query: Query, split: str) -> dict[str, Any]:
    kind = "text" if query.text else "image"
    return {
        "query_id": f"{kind}-{number:04}",
        "text": query.text,
        "split": split,
        "segment": f"derived-{kind}",
        "judged_by": DERIVED,
    }


def _hash_pictures(files: Files, folder: PurePosixPath, styles: Sequence[Style]) -> dict[str, str]:
    """Hash the pixels of pictures: product id → hash, for products that have a usable picture."""
    pictures = {PurePosixPath(name).stem: name for name in files.find_all(f"{folder}/*.jpg")}
    for product_id in sorted(pictures.keys() - {style.id for style in styles}):
        files.add_fault(pictures[product_id], "no product with this id")
    product_ids = [style.id for style in styles if style.id in pictures]

    def hash_picture(product_id: str) -> str | None:
        try:
            return decode_and_hash(files.read(pictures[product_id]))
        except ValueError:
            return None

    with ThreadPoolExecutor(cpu_count()) as pool:
        results = pool.map(hash_picture, product_ids)
        hashes = show_progress(results, "hash pictures", len(product_ids), unit="picture")
        return {product_id: pixels for product_id, pixels in zip(product_ids, hashes, strict=True) if pixels}
