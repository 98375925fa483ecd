"""Columns that look as if they told of people: refused, unless somebody names them on purpose."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

LOOKED_AT = 1000  # rows
SHARE = 0.05  # of a column's values that look personal

# whole words of a column's name: "user_id", "customerEmail" and "IP address", but not "shipping" or "username_hint"
NAMES = {
    "address", "birth", "birthday", "birthdate", "buyer", "client", "cookie", "customer", "device", "dob", "email",
    "iban", "ip", "latitude", "longitude", "mail", "mobile", "passport", "person", "phone", "postcode", "respondent",
    "reviewer", "session", "shopper", "ssn", "street", "surname", "telephone", "uid", "user", "username", "visitor",
    "zipcode",
}  # fmt: skip
PAIRS = {
    ("first", "name"),
    ("last", "name"),
    ("full", "name"),
    ("family", "name"),
    ("post", "code"),
    ("zip", "code"),
}
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]{2,}", re.IGNORECASE)
PHONE = re.compile(r"\+\d[\d ()/-]{7,18}\d")
IBAN = re.compile(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,4})?")


def looks_personal(name: str, values: Iterable[Any] = ()) -> str | None:
    """Why a column looks personal, by its name or by what it holds; None where it does not.

    Args:
        name: Of the column.
        values: Some of it.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    if found := next((word for word in words if word in NAMES), None):
        return f"is named '{name}', for a {found}"
    if pair := next((pair for pair in itertools.pairwise(words) if pair in PAIRS), None):
        return f"is named '{name}', for a {' '.join(pair)}"
    texts = [text for value in values if isinstance(value, str) and (text := value.strip())]
    for kind, fits in KINDS.items():
        if texts and sum(bool(fits(text)) for text in texts) >= max(1, SHARE * len(texts)):
            return f"holds {kind}"
    return None


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text)) and ("." in text or ":" in text)
    except ValueError:
        return False


def _is_card(text: str) -> bool:
    """Whether a number is one of payment cards: 13 to 19 digits that pass Luhn's check."""
    digits = re.sub(r"[ -]", "", text)
    if not re.fullmatch(r"\d{13,19}", digits) or (text == digits and len(digits) == 13):  # a GTIN
        return False
    doubled = [int(one) * (1 + place % 2) for place, one in enumerate(reversed(digits))]
    return sum(one - 9 * (one > 9) for one in doubled) % 10 == 0


KINDS: Mapping[str, Callable[[str], object]] = {
    "e-mail addresses": EMAIL.fullmatch,
    "telephone numbers": PHONE.fullmatch,
    "bank accounts": IBAN.fullmatch,
    "IP addresses": _is_address,
    "payment cards": _is_card,
}
