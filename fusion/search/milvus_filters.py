"""Filters as expressions of Milvus, which pass the same products as the embedded index."""

import sys
from collections.abc import Iterable, Sequence

from fusion.search.filters import Filters

LOWER = "_lower"  # suffix of a field that has the lower-case copy of a text, "" where it is missing
CATEGORY = "category"
LARGEST = sys.float_info.max
# All other characters stand for themselves between double quotes.
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def build_expression(filters: Filters) -> str:
    """The expression of filters; "" where there is none.

    Args:
        filters: Their values are data, and may contain anything.
    """
    clauses = [_build_field_clause(field, values) for field, values in filters.values.items()]
    if filters.has_price_limit:  # products without a price do not pass
        limits = {">=": float(filters.lowest), "<=": float(filters.highest)}
        # No price is infinite, and Milvus has no literal for it.
        clauses += [f"price {sign} {min(limit, LARGEST)!r}" for sign, limit in limits.items()]
    if filters.available:
        clauses.append("available == true")
    return " and ".join(clauses)


def _build_field_clause(field: str, values: Sequence[str]) -> str:
    values = [value.lower() for value in values]
    name = f"{field}{LOWER}"
    choices = [f"{name} in {quote_list(values)}"]
    if field == CATEGORY:
        # What begins with "shoes/" is what sorts between "shoes/" and "shoes0": 0 follows / in UTF-8. In contrast to
        # LIKE, no character of the value has a special meaning.
        paths = [value.rstrip("/") for value in values]
        choices += [f"({name} >= {quote(f'{path}/')} and {name} < {quote(f'{path}0')})" for path in paths]
    return f"({' or '.join(choices)})"


def quote_list(texts: Iterable[str]) -> str:
    """Texts as a list of literals."""
    return f"[{', '.join(map(quote, texts))}]"


def quote(text: str) -> str:
    """A text as a literal of Milvus' expressions, whatever it contains."""
    return f'"{text.translate(_ESCAPES)}"'
