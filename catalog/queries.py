"""Adds queries to a data set: derived from titles and attributes of products, or taken from a click log.

They are marked as `derived` or `implicit`, and reported separately from queries with human judgements.
"""

import sys
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from catalog import store
from catalog.clicks import count_searches, grade_clicks, read_impressions
from catalog.fashion_queries import MAX_PRODUCTS, MIN_PRODUCTS, connected_components
from catalog.images import decode_and_hash
from catalog.new_queries import (
    NewQuery,
    Proposal,
    read_known_queries,
    read_rows,
    select_additions,
    write_queries,
)
from catalog.progress import show_progress
from catalog.schema import DERIVED, EXACT, IMPLICIT, IRRELEVANT, SUBSTITUTE, main_picture
from catalog.splits import choose_salt, find_split, hash_fraction, read_salt
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

    Queries that the data set has stay in their splits. Derived again from products that have changed, they get the new
    exact matches, and only the queries that are new are added.

    Half of the queries name a category and an attribute: the one of brand, colour and material that most products have.
    Products with both are exact, others of the category are substitutes, a sample of the rest is irrelevant. The other
    half consists of every second word of a title: products with that title are exact. Queries whose products share a
    title or a picture are in the same split and cluster; the cluster's name is the first title of its products, and its
    hash decides the split. A query whose products belong to clusters in several splits is left out.

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
    return _add_queries(data, out, derive_queries(data, most, seed), DERIVED)


def add_click_queries(
    data: Path, log: Path | str, out: Path, personal: Sequence[str] = (), mappings: Sequence[str] = ()
) -> int:
    """Add the queries of a click log, with grades from the clicks; see `catalog.clicks`.

    The hash of a text decides its split. New queries get their number of searches as frequency. Queries that the data
    set already has stay in their splits; they get the frequency too, unless they have a picture or a frequency. Those
    that came from an earlier log get grades of products that they have no grade of.

    Args:
        data: The data set.
        log: A log of searches and clicks; see `catalog.logs.read_log`.
        out: Gets the data set with the new queries.
        personal: Columns of the log that are allowed although they look personal.
        mappings: COLUMN=NAME: the names of columns in the log.

    Returns:
        Number of queries added.

    Raises:
        DataError: if the log cannot be read, a column looks personal, or too few queries have clicks.
    """
    return _add_queries(data, out, read_click_queries(data, log, personal, mappings), IMPLICIT)


def derive_queries(data: Path, most: int, seed: int, retired: Collection[str] = ()) -> Proposal:
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
    queries = _derive_from_attributes(products, most // 2, seed, rng)
    queries += _derive_from_titles(products, most - len(queries), seed, rng)
    return _assign_splits(data, products, queries, retired)


def read_click_queries(
    data: Path,
    log: Path | str,
    personal: Sequence[str] = (),
    mappings: Sequence[str] = (),
    retired: Collection[str] = (),
) -> Proposal:
    """Read the queries of a click log, as `add_click_queries` does; a query is a cluster of its own.

    Args:
        data: The data set.
        log: See `add_click_queries`.
        personal: See `add_click_queries`.
        mappings: See `add_click_queries`.
        retired: Ids of queries of the data set that are about to be retired.
    """
    product_ids = set(store.read_table(data, "products", ["product_id"]).column(0).to_pylist())
    impressions = read_impressions(log, product_ids, personal, mappings)
    grades = grade_clicks(impressions)
    known = read_known_queries(data)
    salt = _find_salt(data, retired, (text for text in grades if text not in known))
    queries = [
        NewQuery(text, grades[text], known[text].split if text in known else find_split(text, salt))
        for text in grades
    ]
    return Proposal(queries, salt, count_searches(impressions))


def _find_salt(
    data: Path, retired: Collection[str], keys: Iterable[str], present: Collection[str | None] = ()
) -> int:
    """The salt of a data set; chosen if it has none.

    Args:
        data: The data set.
        retired: Ids of queries that are about to be retired.
        keys: Of the new queries, see `catalog.splits`.
        present: Splits that get new queries in any case.
    """
    salt = read_salt(data)
    if salt is not None:
        return salt
    rows = store.read_table(data, "queries", ["query_id", "split"]).to_pylist()
    staying = {row["split"] for row in rows if row["query_id"] not in retired}
    return choose_salt(keys, {split for split in staying | set(present) if split})


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


def _sample(keys: Iterable[str], most: int, seed: int) -> list[str]:
    """Sample keys by their hash: keys that come or go change the choice of few others.

    The hash is another one than that of the split: a sample must have queries of all splits.
    """
    return nsmallest(most, keys, key=lambda key: (hash_fraction(f"sample {key}", seed), key))


def _derive_from_attributes(
    products: Sequence[Product], most: int, seed: int, rng: np.random.Generator
) -> list[NewQuery]:
    """Derive queries from a category and an attribute; each product is exact for at most one query."""
    by_category: dict[str, list[str]] = defaultdict(list)
    for product in products:
        by_category[product.category].append(product.id)
    groups = {join_words(key): (key[1], ids) for key, ids in _largest_groups(products, by_category).items()}
    judge = Judge(products, rng)
    queries = []
    for text in _sample(groups, most, seed):
        exact, category = set(groups[text][1]), by_category[groups[text][0]]
        substitutes = judge.draw([product for product in category if product not in exact])
        grades = dict.fromkeys(substitutes, SUBSTITUTE) | dict.fromkeys(sorted(exact), EXACT)
        queries.append(NewQuery(text, judge.add_irrelevant(grades, category)))
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


def _derive_from_titles(
    products: Sequence[Product], most: int, seed: int, rng: np.random.Generator
) -> list[NewQuery]:
    """Derive queries from every second word of a title, or short piece where the script has no blanks."""
    by_title: dict[str, list[str]] = defaultdict(list)
    for product in products:
        by_title[product.title].append(product.id)
    titles = [
        title for title, ids in by_title.items() if len(split_words(title)) > 2 and len(ids) <= MAX_PRODUCTS
    ]
    judge = Judge(products, rng)
    queries: dict[str, NewQuery] = {}
    for title in _sample(titles, most, seed):
        words, exact = split_words(title), by_title[title]
        first = int(2 * hash_fraction(f"first word {title}", seed))
        text = join_words(words[first::2])
        grades = judge.add_irrelevant(dict.fromkeys(exact, EXACT), exact)
        queries.setdefault(text, NewQuery(text, grades))
    return list(queries.values())


def _assign_splits(
    data: Path, products: Sequence[Product], queries: Sequence[NewQuery], retired: Collection[str]
) -> Proposal:
    """Assign split and cluster; queries whose exact matches share an id, a title or a picture get the same ones.

    Queries that share these, or the text, with derived queries of the data set get their split and cluster; no split
    if there are several, or some are retired. Only other queries get the split of their cluster's hash.
    """
    titles = {product.id: product.title for product in products}
    exact = [[product for product, grade in query.grades.items() if grade == EXACT] for query in queries]
    targets = read_derived_targets(data, retired)
    hashes = hash_pictures(data, {*targets, *(product for ids in exact for product in ids)})
    existing = _read_text_groups(data, retired)
    for product, groups in targets.items():
        for key in target_keys(product, titles, hashes):
            existing[key] |= groups

    keys = [
        [("text", query.text), *(key for product in ids for key in target_keys(product, titles, hashes))]
        for query, ids in zip(queries, exact, strict=True)
    ]
    roots = connected_components((query_keys[0], key) for query_keys in keys for key in query_keys)
    bound: dict[Hashable, set[Group]] = defaultdict(set)
    names: dict[Hashable, str] = {}
    for query_keys, ids in zip(keys, exact, strict=True):
        root = roots[query_keys[0]]
        names[root] = min(filter(None, [names.get(root), *(titles[product] for product in ids)]))
        for key in query_keys:
            bound[root] |= existing.get(key, set())
    known_splits = {split for groups in bound.values() for split, _ in groups}
    salt = _find_salt(data, retired, (names[root] for root in names if not bound[root]), known_splits)
    return Proposal(
        [
            query._replace(
                split=_single({split for split, _ in bound[root]} or {find_split(names[root], salt)}),
                cluster=min(filter(None, (cluster for _, cluster in bound[root])), default=names[root]),
            )
            for query, query_keys in zip(queries, keys, strict=True)
            for root in [roots[query_keys[0]]]
        ],
        salt,
    )


def _single(splits: set[str | None]) -> str | None:
    return next(iter(splits)) if len(splits) == 1 else None


def target_keys(product: str, titles: Mapping[str, str], hashes: Mapping[str, str]) -> list[Key]:
    """What a product must not share with an exact match in another split: its title and its pixels.

    Args:
        product: Its id.
        titles: Product id → normalised title.
        hashes: Of `hash_pictures`.
    """
    values = {"id": product, "title": titles.get(product), "pixels": hashes.get(product)}
    return [(name, value) for name, value in values.items() if value]


def _read_text_groups(data: Path, retired: Collection[str]) -> dict[Key, set[Group]]:
    """The groups of derived queries by text, and by the first title of the cluster, whose product may be deleted."""
    groups: dict[Key, set[Group]] = defaultdict(set)
    for text, query in read_known_queries(data).items():
        if query.query_id in retired:
            groups["text", text].add((None, query.cluster))
        elif query.judged_by == DERIVED or (query.retired and query.split):
            groups["text", text].add((query.split, query.cluster))
            if query.cluster:
                groups["title", query.cluster].add((query.split, query.cluster))
    return groups


def read_derived_targets(data: Path, retired: Collection[str] = ()) -> dict[str, set[Group]]:
    """Read the exact matches of derived queries, present and retired: product id → splits and clusters of these.

    Args:
        data: The data set.
        retired: Ids of queries that are about to be retired.
    """
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
            targets[product].add((row["split"], row["cluster"]))
    return targets


def hash_pictures(data: Path, product_ids: Collection[str]) -> dict[str, str]:
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


def _add_queries(data: Path, out: Path, proposal: Proposal, judged_by: str) -> int:
    additions = select_additions(data, proposal.queries, judged_by)
    write_queries(data, out, additions, judged_by, proposal.salt, proposal.frequencies)
    if skipped := len(proposal.queries) - len(additions.queries) - len(additions.judgements):
        reason = "a text that is judged otherwise or retired, or products of another split"
        print(f"queries: skipped {skipped:,}, with {reason}", file=sys.stderr)
    return len(additions.queries)
