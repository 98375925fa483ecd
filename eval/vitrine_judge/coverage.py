"""How the ids of a run and of judgements meet: the first thing to look at where scores are 0."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vitrine_judge.arrays import locate
from vitrine_judge.rankings import Qrels, Run


@dataclass
class Coverage:
    """Counts of queries, and whether any id is in both files.

    Attributes:
        judged: The number of queries with judgements.
        unanswered: How many of them are not in the run.
        unjudged: The number of queries in the run without judgements.
        shares_queries: Whether any query is in both.
        shares_products: Whether any product is in both, for any query.
    """

    judged: int = 0
    unanswered: int = 0
    unjudged: int = 0
    shares_queries: bool = False
    shares_products: bool = False

    def count(self, parts: Iterable[Run], qrels: Qrels) -> Iterator[Run]:
        """Pass on the parts of a run, and count their queries; the counts are complete after the last part."""
        self.judged = self.unanswered = len(qrels.queries)
        for part in parts:
            answered = int(np.count_nonzero(locate(part.queries, qrels.queries) >= 0))
            self.unanswered -= answered
            self.unjudged += len(part.queries) - answered
            self.shares_queries |= answered > 0
            if not self.shares_products:
                self.shares_products = bool((locate(qrels.products, part.products) >= 0).any())
            yield part

    def warning(self) -> str:
        """One sentence if every score is 0 because the ids do not meet; else empty."""
        kind = "query" if not self.shares_queries else "product" if not self.shares_products else ""
        return (
            f"no {kind} id of the judgements is in the run, so every score is 0; use the same ids in both"
            if kind
            else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
