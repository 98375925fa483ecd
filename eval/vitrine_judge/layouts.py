"""The columns of files of judgements and of runs, by the names that several programs give them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from vitrine_judge.errors import JudgeError


class PairColumns(NamedTuple):
    """N pairs of a query and a product, each with a number: three columns of length N."""

    query_ids: Any
    product_ids: Any
    values: Any


class FileLayout(NamedTuple):
    """The columns of a file of judgements or of a run.

    Attributes:
        content: What the file holds, for messages.
        value: The name of the column of numbers: "grade" or "score".
        trec: The columns of a TREC file, in order.
        short_trec: The same, without the columns that may be missing.
        headers: The names that the columns of query, product and number have in tables: those of this package, BEIR,
            ir_measures and ranx.
    """

    content: str
    value: str
    trec: tuple[str, ...]
    short_trec: tuple[str, ...]
    headers: tuple[tuple[str, str, str], ...]

    def trec_columns(self, count: int) -> tuple[str, ...] | None:
        """The columns of a TREC file with so many; None for an unknown number. A tag can have several words."""
        if count == len(self.trec) or (count > len(self.trec) and self.trec[-1] == "tag"):
            return self.trec
        return self.short_trec if count == len(self.short_trec) else None

    def choose_columns(self, names: Iterable[str], where: str) -> tuple[str, str, str]:
        """The names of the columns of query, product and number among others; `where` names the table in errors.

        Raises:
            JudgeError: a missing column, or two of the same name.
        """
        present = list(names)
        for header in self.headers:
            if set(header) <= set(present):
                if twice := [name for name in header if present.count(name) > 1]:
                    raise JudgeError(f"{where}: two columns have the name '{twice[0]}'; rename one of them")
                return header
        other = RUN if self == JUDGEMENTS else JUDGEMENTS
        if any(set(header) <= set(present) for header in other.headers):
            raise JudgeError(f"{where}: holds {other.content}; give {self.content} here")
        closest = max(self.headers, key=lambda header: len(set(header) & set(present)))
        missing = next(name for name in closest if name not in present)
        raise JudgeError(f"{where}: column '{missing}' is missing; needed are {', '.join(closest)}")


JUDGEMENTS = FileLayout(
    "judgements",
    "grade",
    ("query_id", "iteration", "product_id", "grade"),
    ("query_id", "product_id", "grade"),
    (
        ("query_id", "product_id", "grade"),
        ("query-id", "corpus-id", "score"),
        ("query_id", "doc_id", "relevance"),
        ("q_id", "doc_id", "rel"),
    ),
)
RUN = FileLayout(
    "a run",
    "score",
    ("query_id", "iteration", "product_id", "rank", "score", "tag"),
    ("query_id", "iteration", "product_id", "rank", "score"),
    (("query_id", "product_id", "score"), ("query_id", "doc_id", "score"), ("q_id", "doc_id", "score")),
)
HEADER_NAMES = {name for layout in (JUDGEMENTS, RUN) for header in layout.headers for name in header}
