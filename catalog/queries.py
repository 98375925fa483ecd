"""Adds queries to a data set: derived from titles and attributes of products, or taken from a click log.

They are marked as `derived` or `implicit`, and reported separately from queries with human judgements.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from catalog import store
from catalog.clicks import count_searches, grade_clicks, read_impressions
from catalog.fashion_queries import MAX_PRODUCTS, MIN_PRODUCTS, connected_components
from catalog.images import decode_and_hash
from catalog.new_queries import NewQuery, read_rows, select_new, write_queries
from catalog.progress import show_progress
from catalog.schema import DERIVED, EXACT, IMPLICIT, IRRELEVANT, SUBSTITUTE, DataError, main_picture
from catalog.splits import assign_splits
from catalog.text import join_words, normalise, split_words
from catalog.threads import cpu_count

ATTRIBUTES = ("brand", "color", "material")  # a derived query names one of these and a category
MAX_JUDGED = 40  # substitutes of a derived query, and also irrelevant products

Key = tuple[str, str]
Group = tuple[str | None, str | None]  # split, None if retired; and cluster


class Product(NamedTuple):
    """A product's texts that queries are derived from; all but the id are normalised."""

    id: str
    title: str
    category: str  # last part of the path
    attributes: tuple[str, ...]  # values of `ATTRIBUTES`


class Judge:
    """Adds judgements of randomly drawn products to those of a query."""

    def __init__(self, products: Sequence[Product], rng: np.random.Generator) -> None:
        self._products, self._rng = products, rng

    def draw(self, ids: Sequence[str]) -> list[str]:
        """Draw at most `MAX_JUDGED` ids."""
        return [ids[index] for index in self._rng.permutation(len(ids))[:MAX_JUDGED]]

    def add_irrelevant(self, grades: Mapping[str, int], related: Collection[str]) -> dict[str, int]:
        """Add irrelevant products, none of which is in `related`, to the grades of a query."""
        excluded = set(related)
        indices = self._rng.integers(len(self._products), size=2 * MAX_JUDGED)
        drawn = [self._products[index].id for index in indices]
        irrelevant = [product for product in drawn if product not in excluded][:MAX_JUDGED]
        return dict.fromkeys(irrelevant, IRRELEVANT) | dict(grades)


def add_derived_queries(data: Path, out: Path, most: int = 1000, seed: int = 0) -> int:
    """Add queries derived from titles and attributes to a data set; reproducible by the seed.

    Half of the queries name a category and an attribute: the one of brand, colour and material that most products have.
    Products with both are exact, others of the category are substitutes, a sample of the rest is irrelevant. The other
    half consists of every second word of a title: products with that title are exact. Queries whose products share a
    title or a picture are in the same split and cluster; the cluster's name is the first title of its products.

    Args:
        data: The data set.
        out: Gets the data set with the new queries; see `catalog.schema`.
        most: Maximal number of queries.
        seed: Random seed.

    Returns:
        Number of queries added.

    Raises:
        DataError: if the data set cannot be read, or gives too few queries.
    """
    _refuse_second_kind(data, DERIVED)
    return _add_queries(data, out, derive_queries(data, most, seed), DERIVED)


def add_click_queries(
    data: Path, log: Path, out: Path, personal: Sequence[str] = (), mappings: Sequence[str] = ()
) -> int:
    """Add the queries of a click log, with grades from the clicks; see `catalog.clicks`.

    New queries get their number of searches as frequency. Queries that the data set already has get it too, unless
    they have a picture or a frequency.

    Args:
        data: The data set.
        log: A log of searches and clicks, in a layout of `catalog.logs`; .csv, .jsonl or .parquet.
        out: Gets the data set with the new queries.
        personal: Columns of the log that are allowed although they look personal.
        mappings: COLUMN=NAME: the names of columns in the log.

    Returns:
        Number of queries added.

    Raises:
        DataError: if the log cannot be read, a column looks personal, or too few queries have clicks.
    """
    _refuse_second_kind(data, IMPLICIT)
    queries, frequencies = read_click_queries(data, log, personal, mappings)
    return _add_queries(data, out, queries, IMPLICIT, frequencies)


def derive_queries(data: Path, most: int, seed: int, retired: Collection[str] = ()) -> list[NewQuery]:
    """Derive queries from the products of a data set, as `add_derived_queries` does.

    Queries that share products with retired derived queries, of the table `retired` or of `retired`, have no split.

    Args:
        data: The data set.
        most: Maximal number of queries.
        seed: Random seed.
        retired: Ids of queries of the data set that are about to be retired.
    """
    products = _read_products(data)
    rng = np.random.default_rng(seed)
    queries = _derive_from_attributes(products, most // 2, rng)
    queries += _derive_from_titles(products, most - len(queries), rng)
    return _assign_splits(data, products, queries, retired)


def read_click_queries(
    data: Path, log: Path, personal: Sequence[str] = (), mappings: Sequence[str] = ()
) -> tuple[list[NewQuery], dict[str, int]]:
    """Read the queries of a click log, as `add_click_queries` does; a query is a cluster of its own.

    Returns:
        The queries, and normalised text → number of searches.
    """
    product_ids = set(store.read_table(data, "products", ["product_id"]).column(0).to_pylist())
    impressions = read_impressions(log, product_ids, personal, mappings)
    grades = grade_clicks(impressions)
    splits = assign_splits(grades)
    queries = [NewQuery(text, grades[text], splits[text]) for text in grades]
    return queries, count_searches(impressions)


def _refuse_second_kind(data: Path, judged_by: str) -> None:
    """Refuse a data set that has such queries already: their number would grow with each call."""
    query_ids = store.read_table(data, "queries", ["query_id"]).column(0).to_pylist()
    if existing := sorted(key for key in query_ids if re.fullmatch(rf"{judged_by}-\d+", key)):
        raise DataError(
            f"{data}: already has {judged_by} queries, such as {existing[0]}; start with the data without them"
        )


def _read_products(data: Path) -> list[Product]:
    columns = ["product_id", "title", "category", *ATTRIBUTES]
    return [
        Product(
            row["product_id"],
            normalise(row["title"]) or "",
            normalise((row["category"] or "").rpartition("/")[2]) or "",
            tuple(normalise(row[name]) or "" for name in ATTRIBUTES),
        )
        for row in store.read_table(data, "products", columns).to_pylist()
    ]


def _derive_from_attributes(
    products: Sequence[Product], most: int, rng: np.random.Generator
) -> list[NewQuery]:
    """Derive queries from a category and an attribute; each product is exact for at most one query."""
    by_category: dict[str, list[str]] = defaultdict(list)
    for product in products:
        by_category[product.category].append(product.id)
    groups = _largest_groups(products, by_category)
    judge = Judge(products, rng)
    queries = []
    keys = list(groups)
    for index in rng.permutation(len(keys))[:most]:
        key, exact = keys[index], set(groups[keys[index]])
        category = by_category[key[1]]
        substitutes = judge.draw([product for product in category if product not in exact])
        grades = dict.fromkeys(substitutes, SUBSTITUTE) | dict.fromkeys(sorted(exact), EXACT)
        queries.append(NewQuery(join_words(key), judge.add_irrelevant(grades, category)))
    return queries


def _largest_groups(
    products: Sequence[Product], by_category: Mapping[str, Sequence[str]]
) -> dict[Key, list[str]]:
    """Group products by attribute value and category, with the attribute that covers most products.

    Args:
        products: The products.
        by_category: Category → its product ids.

    Returns:
        (value, category) → product ids, for groups of a suitable size.
    """
    largest: dict[Key, list[str]] = {}
    for position in range(len(ATTRIBUTES)):
        groups: dict[Key, list[str]] = defaultdict(list)
        for product in products:
            if product.category and product.attributes[position]:
                groups[product.attributes[position], product.category].append(product.id)
        groups = {
            key: group
            for key, group in groups.items()
            if MIN_PRODUCTS <= len(group) <= MAX_PRODUCTS and len(group) < len(by_category[key[1]])
        }
        largest = max(largest, groups, key=lambda candidate: sum(map(len, candidate.values())))
    return largest


def _derive_from_titles(products: Sequence[Product], most: int, rng: np.random.Generator) -> list[NewQuery]:
    """Derive queries from every second word of a title, or short piece where the script has no blanks."""
    by_title: dict[str, list[str]] = defaultdict(list)
    for product in products:
        by_title[product.title].append(product.id)
    titles = [
        title for title, ids in by_title.items() if len(split_words(title)) > 2 and len(ids) <= MAX_PRODUCTS
    ]
    judge = Judge(products, rng)
    queries: dict[str, NewQuery] = {}
    for index in rng.permutation(len(titles))[:most]:
        words, exact = split_words(titles[index]), by_title[titles[index]]
        text = join_words(words[int(rng.integers(2)) :: 2])
        grades = judge.add_irrelevant(dict.fromkeys(exact, EXACT), exact)
        queries.setdefault(text, NewQuery(text, grades))
    return list(queries.values())


def _assign_splits(
    data: Path, products: Sequence[Product], queries: Sequence[NewQuery], retired: Collection[str]
) -> list[NewQuery]:
    """Assign split and cluster; queries whose exact matches share an id, a title or a picture get the same ones.

    Queries that share these with derived queries of the data set get their split and cluster; no split if there are
    several, or some are retired.
    """
    titles = {product.id: product.title for product in products}
    exact = [[product for product, grade in query.grades.items() if grade == EXACT] for query in queries]
    existing = _read_derived_targets(data, retired)
    hashes = _hash_pictures(data, {*existing, *(product for ids in exact for product in ids)})

    def keys(product: str) -> list[Key]:
        return [("title", titles[product]), ("pixels", hashes.get(product, product))]

    existing_groups: dict[Key, set[Group]] = defaultdict(set)
    for product, targeted in existing.items():
        for key in keys(product):
            existing_groups[key] |= targeted
    roots = connected_components(
        (("query", str(number)), key)
        for number, ids in enumerate(exact)
        for product in ids
        for key in keys(product)
    )
    groups = [str(roots["query", str(number)]) for number in range(len(queries))]
    bound: dict[str, set[Group]] = defaultdict(set)
    names: dict[str, str] = {}
    for group, ids in zip(groups, exact, strict=True):
        for product in ids:
            names[group] = min(names.get(group, titles[product]), titles[product])
            for key in keys(product):
                bound[group] |= existing_groups.get(key, set())
    free = assign_splits(group for group in groups if not bound[group])
    return [
        query._replace(
            split=free[group] if group in free else _single({split for split, _ in bound[group]}),
            cluster=min(filter(None, (cluster for _, cluster in bound[group])), default=names[group]) or None,
        )
        for query, group in zip(queries, groups, strict=True)
    ]


def _single(splits: set[str | None]) -> str | None:
    return next(iter(splits)) if len(splits) == 1 else None


def _read_derived_targets(data: Path, retired: Collection[str]) -> dict[str, set[Group]]:
    """Read the exact matches of derived queries, present and retired: product id → splits and clusters of these."""
    queries = store.read_table(data, "queries", ["query_id", "split", "judged_by", "cluster"]).to_pylist()
    groups: dict[str, Group] = {
        row["query_id"]: (None if row["query_id"] in retired else row["split"], row["cluster"])
        for row in queries
        if row["judged_by"] == DERIVED
    }
    targets: dict[str, set[Group]] = defaultdict(set)
    for row in read_rows(data, "judgements"):
        if row["grade"] == EXACT and row["query_id"] in groups:
            targets[row["product_id"]].add(groups[row["query_id"]])
    for row in read_rows(data, "retired"):
        for product in row["targets"] or ():
            targets[product].add((None, None))
    return targets


def _hash_pictures(data: Path, product_ids: Collection[str]) -> dict[str, str]:
    """Hash the pixels of main pictures: product id → hash, for products that have a usable picture."""

    def hash_picture(row: dict[str, Any]) -> tuple[str, str] | None:
        picture = main_picture(row) if row["product_id"] in product_ids else None
        if picture is None:
            return None
        pixels = decode_and_hash(picture)
        return (row["product_id"], pixels) if pixels else None

    hashes: dict[str, str] = {}
    with ThreadPoolExecutor(cpu_count()) as pool, show_progress(desc="hash pictures", unit="product") as bar:
        for batch in store.read_batches(data, "products", ["product_id", "images"], rows=256):
            hashes.update(filter(None, pool.map(hash_picture, batch.to_pylist())))
            bar.update(batch.num_rows)
    return hashes


def _add_queries(
    data: Path,
    out: Path,
    queries: Sequence[NewQuery],
    judged_by: str,
    frequencies: Mapping[str, int] | None = None,
) -> int:
    added = select_new(data, queries)
    write_queries(data, out, added, judged_by, frequencies)
    if skipped := len(queries) - len(added):
        print(
            f"queries: skipped {skipped:,}, with a known text or products of another split", file=sys.stderr
        )
    return len(added)
