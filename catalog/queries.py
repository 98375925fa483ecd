"""Queries for a catalogue that has none: derived from what is written of its products, or from what shoppers clicked.

Either way they are marked, `derived` or `implicit`, and reported apart from those that people judged.
"""

import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from catalog import store
from catalog.clicks import count_searches, graded, impressions
from catalog.derived import FEWEST, MOST, connect
from catalog.images import pixels_of
from catalog.schema import DERIVED, EXACT, IMPLICIT, IRRELEVANT, SPLITS, SUBSTITUTE, DataError
from catalog.splits import split
from catalog.text import normalise

COLUMNS = ("brand", "color", "material")  # of which a query names one, beside the last part of the category
WORD = re.compile(r"\w+(?:[-'’.]\w+)*")
JUDGED = 40  # substitutes, and irrelevant products, at most, of a derived query


class Product(NamedTuple):
    """What queries are made of; all normalised but the id."""

    id: str
    title: str
    kind: str  # last part of the category
    told: tuple[str, ...]  # of `COLUMNS`


class Asked(NamedTuple):
    """A query before it has an id: its text, and the grades of products."""

    text: str
    grades: dict[str, int]


def derive(data: Path, out: Path, most: int = 1000, seed: int = 0) -> int:
    """Add queries made from titles and attributes to a data set; the same seed makes the same.

    Half of them name a category and a brand, colour or material, whichever of these is known of most products: who has
    both is exact, others of the category are substitutes, a draw of the rest irrelevant. The others hold every other
    word of a title: products of that title are exact. Products that share a title or a picture are asked for in one
    split.

    Args:
        data: The data set.
        out: Gets it with these queries beside its own; see `catalog.schema`.
        most: Queries, at most.
        seed: Of what is drawn by chance.

    Returns:
        Queries added.

    Raises:
        DataError: where the data set cannot be read, or too little can be asked.
    """
    rows = store.read(data, "products", ["product_id", "title", "category", *COLUMNS]).to_pylist()
    products = [
        Product(
            row["product_id"],
            normalise(row["title"]) or "",
            normalise((row["category"] or "").rpartition("/")[2]) or "",
            tuple(normalise(row[name]) or "" for name in COLUMNS),
        )
        for row in rows
    ]
    rng = np.random.default_rng(seed)
    asked = _by_attribute(products, most // 2, rng)
    asked += _by_title(products, most - len(asked), rng)
    return _add(data, out, asked, _splits(data, products, asked), DERIVED)


def from_clicks(data: Path, log: Path, out: Path, personal: Collection[str] = ()) -> int:
    """Add the queries of a log of impressions, with grades from its clicks; see `catalog.clicks`.

    Each gets its frequency: how often the log has it. So do queries that the data set has already, unless they have
    a picture, or a frequency.

    Args:
        data: The data set.
        log: A row for each product that was shown: query, product_id, position (1 is the first), clicked (0 or 1);
            .csv, .jsonl or .parquet.
        out: Gets the data set with these queries beside its own.
        personal: Columns of the log that may be there though they look personal.

    Returns:
        Queries added.

    Raises:
        DataError: where the log cannot be read, a column looks personal, or too few of its queries were clicked on.
    """
    known = set(store.read(data, "products", ["product_id"]).column(0).to_pylist())
    seen = impressions(log, known, personal)
    asked = [Asked(text, grades) for text, grades in graded(seen).items()]
    splits = split(one.text for one in asked)
    return _add(data, out, asked, [splits[one.text] for one in asked], IMPLICIT, count_searches(seen))


def _by_attribute(products: Sequence[Product], most: int, rng: np.random.Generator) -> list[Asked]:
    """Of a category and an attribute; every product is exact for one query at most."""
    shelves: dict[str, list[str]] = defaultdict(list)
    for one in products:
        shelves[one.kind].append(one.id)
    found: dict[tuple[str, str], list[str]] = {}
    for place in range(len(COLUMNS)):
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for one in products:
            if one.kind and one.told[place]:
                groups[one.told[place], one.kind].append(one.id)
        groups = {
            key: group
            for key, group in groups.items()
            if FEWEST <= len(group) <= MOST and len(group) < len(shelves[key[1]])
        }
        found = max(found, groups, key=lambda those: sum(map(len, those.values())))
    asked = []
    keys = list(found)
    for index in rng.permutation(len(keys))[:most]:
        key, exact = keys[index], set(found[keys[index]])
        near = [one for one in shelves[key[1]] if one not in exact]
        grades = dict.fromkeys(_draw(near, rng), SUBSTITUTE) | dict.fromkeys(sorted(exact), EXACT)
        asked.append(Asked(" ".join(key), _with_others(grades, products, shelves[key[1]], rng)))
    return asked


def _by_title(products: Sequence[Product], most: int, rng: np.random.Generator) -> list[Asked]:
    """Of every other word of a title."""
    titles: dict[str, list[str]] = defaultdict(list)
    for one in products:
        titles[one.title].append(one.id)
    usable = [title for title, ids in titles.items() if len(WORD.findall(title)) > 2 and len(ids) <= MOST]
    asked: dict[str, Asked] = {}
    for index in rng.permutation(len(usable))[:most]:
        words, exact = WORD.findall(usable[index]), titles[usable[index]]
        text = " ".join(words[int(rng.integers(2)) :: 2])
        grades = _with_others(dict.fromkeys(exact, EXACT), products, exact, rng)
        asked.setdefault(text, Asked(text, grades))
    return list(asked.values())


def _draw(ids: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [ids[index] for index in rng.permutation(len(ids))[:JUDGED]]


def _with_others(
    grades: dict[str, int], products: Sequence[Product], related: Collection[str], rng: np.random.Generator
) -> dict[str, int]:
    """Grades, and irrelevant products that are none of the related ones."""
    kin = set(related)
    drawn = [products[index].id for index in rng.integers(len(products), size=2 * JUDGED)]
    return dict.fromkeys([one for one in drawn if one not in kin][:JUDGED], IRRELEVANT) | grades


def _splits(data: Path, products: Sequence[Product], asked: Sequence[Asked]) -> list[str | None]:
    """The split of each query: one for all whose exact matches share an id, a title or a picture.

    That of derived queries that the data has already, where it shares them with these; None where with several splits.
    """
    titles = {one.id: one.title for one in products}
    exact = [[one for one, grade in query.grades.items() if grade == EXACT] for query in asked]
    own = _own_targets(data)
    pixels = _pixels(data, {*own, *(one for ids in exact for one in ids)})

    def keys(product: str) -> list[tuple[str, str]]:
        return [("title", titles[product]), ("pixels", pixels.get(product, product))]

    fixed: dict[tuple[str, str], set[str]] = defaultdict(set)
    for product, its_splits in own.items():
        for key in keys(product):
            fixed[key] |= its_splits
    roots = connect(
        (("query", str(n)), key) for n, ids in enumerate(exact) for one in ids for key in keys(one)
    )
    lots = [str(roots["query", str(number)]) for number in range(len(asked))]
    bound: dict[str, set[str]] = defaultdict(set)
    for lot, ids in zip(lots, exact, strict=True):
        bound[lot].update(name for one in ids for key in keys(one) for name in fixed.get(key, ()))
    free = split(lot for lot in lots if not bound[lot])
    chosen = free | {lot: min(names) for lot, names in bound.items() if len(names) == 1}
    return [chosen.get(lot) for lot in lots]


def _own_targets(data: Path) -> dict[str, set[str]]:
    """Product → splits of the derived queries that it is exact for already."""
    queries = store.read(data, "queries", ["query_id", "split", "judged_by"]).to_pylist()
    splits = {row["query_id"]: row["split"] for row in queries if row["judged_by"] == DERIVED}
    found: dict[str, set[str]] = defaultdict(set)
    for batch in store.batches(data, "judgements"):
        for row in batch.to_pylist():
            if row["grade"] == EXACT and row["query_id"] in splits:
                found[row["product_id"]].add(splits[row["query_id"]])
    return found


def _pixels(data: Path, wanted: Collection[str]) -> dict[str, str]:
    """Product id → hash of its picture's pixels, for those that have one."""

    def look(row: dict[str, Any]) -> tuple[str, str] | None:
        if row["product_id"] not in wanted or row["image"] is None or row["image"]["bytes"] is None:
            return None
        pixels = pixels_of(row["image"]["bytes"])
        return (row["product_id"], pixels) if pixels else None

    found: dict[str, str] = {}
    with ThreadPoolExecutor() as pool, tqdm(desc="looking", unit="product", disable=None) as bar:
        for batch in store.batches(data, "products", ["product_id", "image"], rows=256):
            found.update(filter(None, pool.map(look, batch.to_pylist())))
            bar.update(batch.num_rows)
    return found


def _add(
    data: Path,
    out: Path,
    asked: Sequence[Asked],
    splits: Sequence[str | None],
    judged_by: str,
    searches: Mapping[str, int] | None = None,
) -> int:
    """Write the data set with those queries that have a split and are not asked yet; products are the same files.

    `searches` are the frequencies of normalised texts.
    """
    searches = searches or {}
    own = store.read(data, "queries", ["query_id", "text", "split"]).to_pydict()
    taken, ids = {normalise(text) for text in own["text"]}, set(own["query_id"])
    fresh = [(one, name) for one, name in zip(asked, splits, strict=True) if name and one.text not in taken]
    if missing := set(SPLITS) - {*own["split"], *(name for _, name in fresh)}:
        raise DataError(f"{data}: gives {len(fresh)} queries, and none for {', '.join(sorted(missing))}")
    named = {f"{judged_by}-{number}": one for number, one in enumerate(fresh)}
    if already := ids & named.keys():
        raise DataError(
            f"{data}: has {judged_by} queries already, such as {min(already)}; begin with the data without"
        )
    with store.fresh(out) as folder:
        for table in ("products", "satisfaction"):
            for path in store.files(data, table):
                _link(path, folder / table / path.name)
        with (
            store.TableWriter(folder, "queries") as queries,
            store.TableWriter(folder, "judgements") as judgements,
        ):
            for batch in store.batches(data, "queries"):
                for row in batch.to_pylist():
                    queries.write(_add_frequency(row, searches))
            for batch in store.batches(data, "judgements"):
                for row in batch.to_pylist():
                    judgements.write(row)
            for key, (one, its_split) in named.items():
                row = {"query_id": key, "text": one.text, "split": its_split, "judged_by": judged_by}
                queries.write(_add_frequency(row, searches))
                for product, grade in one.grades.items():
                    judgements.write({"query_id": key, "product_id": product, "grade": grade})
    _tell(judged_by, [one for one, _ in fresh], len(asked) - len(fresh))
    return len(fresh)


def _add_frequency(row: dict[str, Any], searches: Mapping[str, int]) -> dict[str, Any]:
    """A query with the frequency of its text, unless it has one, or a picture makes it another query."""
    text = normalise(row["text"])
    if text is None or text not in searches or row.get("image") or row.get("frequency") is not None:
        return row
    return row | {"frequency": searches[text]}


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(path, target)


def _tell(judged_by: str, asked: Sequence[Asked], taken: int) -> None:
    counts = Counter(grade for one in asked for grade in one.grades.values())
    said = ", ".join(f"{counts[grade]:,} of grade {grade}" for grade in sorted(counts, reverse=True))
    rest = f"; {taken:,} left out, which would ask the same again, or in another split" if taken else ""
    print(f"queries: {len(asked):,} more, {judged_by}, with judgements {said}{rest}", file=sys.stderr)
