"""Champion and challenger on live traffic: which session takes part, and what it sees.

Assignments are hashes, so nothing is stored: the same session gets the same arm from every process of the service, as
long as champion and challenger are the same. A new pair of versions draws anew.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
from vitrine_judge.interleaving import team_draft

from serving.params import ExperimentParams

Arm = Literal["champion", "challenger", "interleaved", "shadow"]
Product = Mapping[str, Any]

INTERLEAVING, AB, SHADOW = KINDS = ("interleaving", "ab", "shadow")
CHAMPION_ARM: Arm = "champion"
CHALLENGER_ARM: Arm = "challenger"
INTERLEAVED_ARM: Arm = "interleaved"
SHADOW_ARM: Arm = "shadow"


class Shown(NamedTuple):
    """The results that a customer sees.

    Attributes:
        products: Best first, as the model gave them that placed them.
        placed_by: The version that placed each.
        arm: Whose list it is.
    """

    products: list[Product]
    placed_by: list[str]
    arm: Arm


class Experiment:
    """A pair of versions that customers compare, without knowing it.

    Args:
        params: Section `experiment`; its kind is not "none".
        champion, challenger: Their versions.
    """

    def __init__(self, params: ExperimentParams, champion: str, challenger: str) -> None:
        self.params, self.champion, self.challenger = params, champion, challenger

    @property
    def kind(self) -> str:
        """Of the section `experiment`."""
        return self.params.kind

    def arm(self, session: str | None) -> Arm | None:
        """What a session takes part in; None for no experiment.

        The two draws are independent: a larger share adds sessions and moves none to the other arm.

        Args:
            session: Its id; None for a request that names none.
        """
        if session is None or self._draw("share", session) >= self.params.share:
            return None
        if self.kind == AB:
            return CHALLENGER_ARM if self._draw("arm", session) < 0.5 else CHAMPION_ARM
        return INTERLEAVED_ARM if self.kind == INTERLEAVING else SHADOW_ARM

    def merge(
        self,
        champion: Sequence[Product],
        challenger: Sequence[Product],
        k: int,
        session: str,
        query: str,
        collapse: bool = False,
    ) -> Shown:
        """Interleave the results of both versions; equal rankings are the champion's list.

        Args:
            champion, challenger: Their results, best first; each has product_id, and group_id where `collapse` is on.
            k: The length of the list.
            session, query: Seed of the coins: who searches again sees the same list. `query` identifies the search,
                with its picture and filters.
            collapse: Whether the list has only one product of a group.
        """
        rankings = (challenger[:k], champion[:k])
        first, second = ([product["product_id"] for product in results] for results in rankings)
        if first == second:
            return Shown(list(rankings[1]), [self.champion] * len(second), CHAMPION_ARM)
        rng = np.random.default_rng(int.from_bytes(self._hash("coins", session, query)))
        # keys of one product in both rankings are equal; of two products in one ranking they differ
        products = [{_identify(product, collapse): product for product in results} for results in rankings]
        items, teams = team_draft(list(products[0]), list(products[1]), k, rng)
        versions = (self.challenger, self.champion)
        return Shown(
            [products[team][item] for item, team in zip(items, teams, strict=True)],
            [versions[team] for team in teams],
            INTERLEAVED_ARM,
        )

    def _draw(self, *parts: str) -> float:
        """A number in [0, 1), the same for the same parts."""
        return int.from_bytes(self._hash(*parts)[:6]) / 2**48

    def _hash(self, *parts: str) -> bytes:
        # a list in JSON, so that no two lists of parts are the same text
        text = json.dumps([self.params.seed, self.kind, self.champion, self.challenger, *parts])
        return blake2b(text.encode(), digest_size=16).digest()


def _identify(product: Product, collapse: bool) -> Hashable:
    group = product.get("group_id") if collapse else None
    return ("group", group) if group is not None else ("product", product["product_id"])
