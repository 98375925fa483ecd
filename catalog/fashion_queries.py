"""Queries and judgements derived from the annotations of fashion products: gender, article type, base colour."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE
from catalog.splits import SHARES
from catalog.text import normalise

Node = TypeVar("Node", bound=Hashable)

IMAGE_QUERIES = 340  # each removes its picture from the catalogue
MIN_PRODUCTS, MAX_PRODUCTS = 3, 100  # exact matches of a query; all of them are judged
MAX_JUDGED = {SUBSTITUTE: 60, COMPLEMENT: 20, IRRELEVANT: 40}  # per query, by grade

# Words of shoppers instead of the shop's article types.
SINGULAR = {
    "Backpacks": "backpack",
    "Belts": "belt",
    "Caps": "cap",
    "Clutches": "clutch",
    "Dresses": "dress",
    "Handbags": "handbag",
    "Jackets": "jacket",
    "Kurtas": "kurta",
    "Sarees": "saree",
    "Shirts": "shirt",
    "Skirts": "skirt",
    "Sweaters": "jumper",
    "Sweatshirts": "sweatshirt",
    "Tops": "top",
    "Tshirts": "t-shirt",
    "Wallets": "wallet",
    "Watches": "watch",
}
PHRASES = (
    "{gender} {colour} {article}",
    "{colour} {article} for {gender}",
    "{colour} {singular} for {gender}",
    "{article} {gender} {colour}",
    "{gender} {usage} {article} {colour}",
    "{colour} {season} {article} for {gender}",
)


class Combo(NamedTuple):
    """The attributes that a derived query asks for."""

    gender: str
    article: str
    colour: str


class Style(NamedTuple):
    """A product and its annotations; a row of styles.csv."""

    id: str
    gender: str
    master: str
    sub: str
    article: str
    colour: str
    season: str
    year: str
    usage: str
    title: str

    @property
    def combo(self) -> Combo:
        return Combo(self.gender, self.article, self.colour)


class Query(NamedTuple):
    """A derived query: a text, or the picture of one of the products, its `donor`."""

    combo: Combo
    text: str | None = None
    donor: str | None = None


def derive_queries(
    styles: Sequence[Style], hashes: Mapping[str, str], rng: np.random.Generator
) -> list[Query]:
    """Derive one text query for each combination, and picture queries for some."""
    groups: dict[Combo, list[Style]] = defaultdict(list)
    for style in styles:
        if all(style.combo):
            groups[style.combo].append(style)
    combos = [combo for combo, group in groups.items() if MIN_PRODUCTS <= len(group) <= MAX_PRODUCTS]
    occurrences = Counter(hashes.values())

    queries, texts = [], set()
    for index in rng.permutation(len(combos)):
        text = phrase_query(combos[index], groups[combos[index]], rng)
        if normalise(text) not in texts:
            texts.add(normalise(text))
            queries.append(Query(combos[index], text=text))
    by_picture: list[Query] = []
    for index in rng.permutation(len(combos)):
        pictured = [style.id for style in groups[combos[index]] if style.id in hashes]
        donors = [product for product in pictured if occurrences[hashes[product]] == 1]
        if donors and len(by_picture) < IMAGE_QUERIES:
            by_picture.append(Query(combos[index], donor=str(rng.choice(donors))))
    return queries + by_picture


def phrase_query(combo: Combo, group: Sequence[Style], rng: np.random.Generator) -> str:
    """Phrase a query for a combination; names usage and season only if all its products have the same."""
    words = {
        "gender": combo.gender.lower(),
        "colour": combo.colour.lower(),
        "article": combo.article.lower(),
        "singular": SINGULAR.get(combo.article, ""),
    }
    for name in ("usage", "season"):
        values = {getattr(style, name).lower() for style in group}
        words[name] = values.pop() if len(values) == 1 else ""
    phrases = [phrase for phrase in PHRASES if all(words[name] for name in words if f"{{{name}}}" in phrase)]
    return str(rng.choice(phrases)).format(**words)


def split_combos(
    combos: Sequence[Combo], styles: Sequence[Style], hashes: Mapping[str, str], rng: np.random.Generator
) -> dict[Combo, str]:
    """Assign combinations to splits; those whose products share a title or pixels are in the same split.

    Args:
        combos: The combination of each query; shares of splits are shares of these queries.
        styles: All products.
        hashes: Product id → hash of the picture's pixels.
        rng: Breaks ties.
    """
    query_counts = Counter(combos)
    groups: dict[str, list[Combo]] = defaultdict(list)
    for combo, cluster in cluster_combos(combos, styles, hashes).items():
        groups[cluster].append(combo)
    sized = [(sum(query_counts[combo] for combo in group), group) for group in groups.values()]
    shuffled = [sized[index] for index in rng.permutation(len(sized))]
    missing = {split: share * len(combos) for split, share in SHARES.items()}
    splits = {}
    for size, group in sorted(shuffled, key=lambda pair: -pair[0]):
        split = max(missing, key=lambda name: missing[name] / SHARES[name])
        missing[split] -= size
        splits.update(dict.fromkeys(group, split))
    return splits


def cluster_combos(
    combos: Sequence[Combo], styles: Sequence[Style], hashes: Mapping[str, str]
) -> dict[Combo, str]:
    """Name the cluster of each combination: combinations whose products share a title or pixels have the same.

    Args:
        combos: The combination of each query.
        styles: All products.
        hashes: Product id → hash of the picture's pixels.
    """
    unique = dict.fromkeys(combos)
    roots = connected_components(
        (style.combo, key)
        for style in styles
        if style.combo in unique
        for key in (("title", normalise(style.title)), ("pixels", hashes.get(style.id, style.id)))
    )
    first: dict[Hashable, Combo] = {}
    for combo in sorted(unique):
        first.setdefault(roots[combo], combo)
    return {combo: " ".join(first[roots[combo]]).casefold() for combo in unique}


def connected_components(links: Iterable[tuple[Node, Node]]) -> dict[Node, Node]:
    """Find connected components with union-find: each node → the representative of its component."""
    parents: dict[Node, Node] = {}

    def find_root(node: Node) -> Node:
        while parents.setdefault(node, node) != node:
            parents[node] = node = parents[parents[node]]
        return node

    for node, neighbour in links:
        parents[find_root(node)] = find_root(neighbour)
    return {node: find_root(node) for node in list(parents)}


class Grader:
    """Judges products for a combination: all exact matches, and samples of the other grades."""

    def __init__(self, styles: Sequence[Style], rng: np.random.Generator) -> None:
        self._styles, self._rng = styles, rng
        self._index: dict[Hashable, list[Style]] = defaultdict(list)
        for style in styles:
            self._index[style.article].append(style)
            self._index[style.sub, style.gender, style.colour].append(style)

    def judge(self, combo: Combo) -> Iterator[tuple[str, int]]:
        """Yield pairs of product id and grade; each product at most once."""
        exact = [style for style in self._index[combo.article] if style.combo == combo]
        pools = self._collect_pools(combo, exact)
        yield from ((style.id, EXACT) for style in exact)
        for grade, pool in pools.items():
            for index in self._rng.permutation(len(pool))[: MAX_JUDGED[grade]]:
                yield pool[index].id, grade

    def _collect_pools(self, combo: Combo, exact: Sequence[Style]) -> dict[int, list[Style]]:
        """Collect the candidates of each grade but exact; irrelevant ones are drawn from all products."""
        same_article = self._index[combo.article]
        subs = sorted({style.sub for style in exact})
        similar = [style for sub in subs for style in self._index[sub, combo.gender, combo.colour]]
        drawn = self._rng.choice(
            len(self._styles), min(2 * MAX_JUDGED[IRRELEVANT], len(self._styles)), replace=False
        )
        pools = {
            SUBSTITUTE: [
                style
                for style in same_article
                if (style.gender == combo.gender) != (style.colour == combo.colour)
            ],
            COMPLEMENT: [style for style in similar if style.article != combo.article],
        }
        related = {style.id for pool in (exact, *pools.values()) for style in pool}
        candidates = [self._styles[index] for index in drawn]
        return pools | {IRRELEVANT: [style for style in candidates if style.id not in related]}
