"""Detection of columns with personal data; imports refuse them unless the user allows them by name."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

SAMPLE_ROWS = 1000  # number of rows that callers pass as values
MIN_SHARE = 0.05  # share of a column's values that must look personal

# Matched with whole words of a column's name: "user_id" and "customerEmail" match, "shipping" does not.
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
    """Explain why a column looks personal, by its name or its values; None if it does not.

    Args:
        name: The column's name.
        values: A sample of its values.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    if match := next((word for word in words if word in NAMES), None):
        return f"is named '{name}', for a {match}"
    if pair := next((pair for pair in itertools.pairwise(words) if pair in PAIRS), None):
        return f"is named '{name}', for a {' '.join(pair)}"
    texts = [text for value in values if isinstance(value, str) and (text := value.strip())]
    for kind, matches in DETECTORS.items():
        if texts and sum(bool(matches(text)) for text in texts) >= max(1, MIN_SHARE * len(texts)):
            return f"holds {kind}"
    return None


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text)) and ("." in text or ":" in text)
    except ValueError:
        return False


def _is_card(text: str) -> bool:
    """Whether a text is a payment card number: 13 to 19 digits that pass the Luhn check."""
    digits = re.sub(r"[ -]", "", text)
    if not re.fullmatch(r"\d{13,19}", digits) or (text == digits and len(digits) == 13):  # a GTIN
        return False
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


DETECTORS: Mapping[str, Callable[[str], object]] = {
    "e-mail addresses": EMAIL.fullmatch,
    "telephone numbers": PHONE.fullmatch,
    "bank accounts": IBAN.fullmatch,
    "IP addresses": _is_address,
    "payment cards": _is_card,
}
