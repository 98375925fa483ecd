"""Queries and judgements derived from what annotators noted of fashion products: gender, article type, base colour."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE
from catalog.splits import SHARES
from catalog.text import normalise

IMAGE_QUERIES = 340  # each takes its picture out of the catalogue
FEWEST, MOST = 3, 100  # products a query may be for; all of them are judged
JUDGED = {SUBSTITUTE: 60, COMPLEMENT: 20, IRRELEVANT: 40}  # at most, per query

# Shoppers rarely type the shop's word for a thing.
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
    "{colour} {one} for {gender}",
    "{article} {gender} {colour}",
    "{gender} {usage} {article} {colour}",
    "{colour} {season} {article} for {gender}",
)


class Combo(NamedTuple):
    """What a derived query is for."""

    gender: str
    article: str
    colour: str


class Style(NamedTuple):
    """A product and what was noted of it; a row of styles.csv."""

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
    """A derived query: by words, or by the picture of one of the products (its `donor`)."""

    combo: Combo
    text: str | None = None
    donor: str | None = None


def derive(styles: Sequence[Style], hashes: Mapping[str, str], rng: np.random.Generator) -> list[Query]:
    """Choose what is asked: each combination in words of its own, then some by picture."""
    groups: dict[Combo, list[Style]] = defaultdict(list)
    for style in styles:
        if all(style.combo):
            groups[style.combo].append(style)
    combos = [combo for combo, group in groups.items() if FEWEST <= len(group) <= MOST]
    occurrences = Counter(hashes.values())

    queries, taken = [], set()
    for index in rng.permutation(len(combos)):
        text = word(combos[index], groups[combos[index]], rng)
        if normalise(text) not in taken:
            taken.add(normalise(text))
            queries.append(Query(combos[index], text=text))
    by_picture: list[Query] = []
    for index in rng.permutation(len(combos)):
        donors = [s.id for s in groups[combos[index]] if s.id in hashes and occurrences[hashes[s.id]] == 1]
        if donors and len(by_picture) < IMAGE_QUERIES:
            by_picture.append(Query(combos[index], donor=str(rng.choice(donors))))
    return queries + by_picture


def word(combo: Combo, group: Sequence[Style], rng: np.random.Generator) -> str:
    """A shopper's words for a combination; usage and season only where they hold for all of its products."""
    words = {
        "gender": combo.gender.lower(),
        "colour": combo.colour.lower(),
        "article": combo.article.lower(),
        "one": SINGULAR.get(combo.article, ""),
    }
    for name in ("usage", "season"):
        values = {getattr(style, name).lower() for style in group}
        words[name] = values.pop() if len(values) == 1 else ""
    possible = [p for p in PHRASES if all(words[name] for name in words if f"{{{name}}}" in p)]
    return str(rng.choice(possible)).format(**words)


def assign(
    asked: Sequence[Combo], styles: Sequence[Style], hashes: Mapping[str, str], rng: np.random.Generator
) -> dict[Combo, str]:
    """Assign combinations to splits: those whose products share a title or pixels together, the largest lot to train.

    Args:
        asked: The combination of each query, so that the shares are of queries.
    """
    queries = Counter(asked)
    links = (
        (style.combo, key)
        for style in styles
        if style.combo in queries
        for key in (("title", normalise(style.title)), ("pixels", hashes.get(style.id, style.id)))
    )
    lots: dict[Hashable, list[Combo]] = defaultdict(list)
    roots = connect(links)
    for combo in queries:
        lots[roots[combo]].append(combo)
    weighed = [(sum(queries[combo] for combo in lot), lot) for lot in lots.values()]
    shuffled = [weighed[index] for index in rng.permutation(len(weighed))]
    missing = {split: share * len(asked) for split, share in SHARES.items()}
    splits = {}
    for size, lot in sorted(shuffled, key=lambda pair: -pair[0]):
        split = max(missing, key=lambda name: missing[name] / SHARES[name])
        missing[split] -= size
        splits.update(dict.fromkeys(lot, split))
    return splits


def connect(links: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, Hashable]:
    """Union-find: each node → one and the same node for all that are linked, directly or not."""
    parents: dict[Hashable, Hashable] = {}

    def find(node: Hashable) -> Hashable:
        while parents.setdefault(node, node) != node:
            parents[node] = node = parents[parents[node]]
        return node

    for one, other in links:
        parents[find(one)] = find(other)
    return {node: find(node) for node in list(parents)}


class Grader:
    """Judges products for a combination: all that are exact, samples of the others."""

    def __init__(self, styles: Sequence[Style], rng: np.random.Generator) -> None:
        self._styles, self._rng = styles, rng
        self._like: dict[Hashable, list[Style]] = defaultdict(list)
        for style in styles:
            self._like[style.article].append(style)
            self._like[style.sub, style.gender, style.colour].append(style)

    def judge(self, combo: Combo) -> Iterator[tuple[str, int]]:
        """Pairs of product id and grade, no product twice."""
        same = self._like[combo.article]
        subs = sorted({style.sub for style in same if style.combo == combo})
        near = [style for sub in subs for style in self._like[sub, combo.gender, combo.colour]]
        drawn = self._rng.choice(
            len(self._styles), min(2 * JUDGED[IRRELEVANT], len(self._styles)), replace=False
        )
        pools = {
            SUBSTITUTE: [s for s in same if (s.gender == combo.gender) != (s.colour == combo.colour)],
            COMPLEMENT: [s for s in near if s.article != combo.article],
        }
        related = {s.id for pool in pools.values() for s in pool} | {s.id for s in same if s.combo == combo}
        pools[IRRELEVANT] = [self._styles[i] for i in drawn if self._styles[i].id not in related]
        yield from ((style.id, EXACT) for style in same if style.combo == combo)
        for grade, pool in pools.items():
            for index in self._rng.permutation(len(pool))[: JUDGED[grade]]:
                yield pool[index].id, grade
