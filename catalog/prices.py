"""Parses prices as shops write them: amounts, ranges, and the currency as an ISO 4217 code.

How many decimals a currency has, and how its country separates them, is from CLDR (https://cldr.unicode.org).
"""

import math
import re
import unicodedata
from datetime import date
from functools import cache
from typing import Any, NamedTuple

from babel import Locale, UnknownLocaleError
from babel.core import get_global
from babel.languages import get_official_languages
from babel.numbers import get_currency_precision, get_territory_currencies

TENDER_DATE = date(2026, 1, 1)  # fixed, so that an import of today and of next year give the same

# ISO 4217 codes of all currencies that are legal tender → territories.
TERRITORIES: dict[str, list[str]] = {}
for _territory in sorted(get_global("territory_currencies")):
    for _code in get_territory_currencies(_territory, TENDER_DATE):
        TERRITORIES.setdefault(_code, []).append(_territory)
CODES = frozenset(TERRITORIES)

# Signs of one currency, case-folded.
SIGNS = {
    "€": "EUR",
    "euro": "EUR",
    "£": "GBP",
    "us$": "USD",
    "a$": "AUD",
    "au$": "AUD",
    "c$": "CAD",
    "ca$": "CAD",
    "hk$": "HKD",
    "mx$": "MXN",
    "nt$": "TWD",
    "nz$": "NZD",
    "r$": "BRL",
    "s$": "SGD",
    "cn¥": "CNY",
    "jp¥": "JPY",
    "rmb": "CNY",
    "元": "CNY",
    "円": "JPY",
    "fr": "CHF",
    "sfr": "CHF",
    "ft": "HUF",
    "kč": "CZK",
    "zł": "PLN",
    "r": "ZAR",
    "rm": "MYR",
    "rp": "IDR",
    "tl": "TRY",
    "руб": "RUB",
    "грн": "UAH",
    "₡": "CRC",
    "₦": "NGN",
    "₩": "KRW",
    "원": "KRW",
    "₪": "ILS",
    "₫": "VND",
    "₭": "LAK",
    "₮": "MNT",
    "₱": "PHP",
    "₲": "PYG",
    "₴": "UAH",
    "₵": "GHS",
    "₸": "KZT",
    "₹": "INR",
    "₺": "TRY",
    "₼": "AZN",
    "₽": "RUB",
    "₾": "GEL",
    "฿": "THB",
    "৳": "BDT",
    "៛": "KHR",
    "֏": "AMD",
    "؋": "AFN",
    "đ": "VND",
    "vnđ": "VND",
    "s/": "PEN",
    "gh₵": "GHS",
    "ksh": "KES",
    "tsh": "TZS",
    "ush": "UGX",
    "km": "BAM",
    "din": "RSD",
    "дин": "RSD",
    "ден": "MKD",
    "р": "RUB",
    "тг": "KZT",
    "zl": "PLN",
    "บาท": "THB",
    "ر.س": "SAR",
    "د.إ": "AED",
    "د.ك": "KWD",
    "ج.م": "EGP",
}

# Signs that several currencies use, with one of these currencies as an example; case-folded.
SHARED_SIGNS = {"$": "USD", "¥": "JPY", "kr": "SEK", "rs": "INR", "lei": "RON", "dh": "AED", "bs": "VES"}

# Words that multiply the number before them, as in "12k" and "150 ribu": nobody can tell how far it is rounded.
MULTIPLIERS = {
    "cr", "crore", "jt", "juta", "k", "lac", "lakh", "m", "mil", "million", "millionen", "mio", "mln", "rb", "ribu",
    "thousand", "tsd", "млн", "тыс",
}  # fmt: skip
NO_PRICE = set("%‰千万萬億亿")  # a share, or a multiplied number, as in "1.2万円"
# Between the two amounts of a range.
RANGE_WORDS = {
    "-", "–", "—", "~", "〜", "…", "a", "al", "até", "bis", "do", "til", "till", "to", "tot", "à", "до",
    "から", "到", "至",
}  # fmt: skip

PLAIN = re.compile(r"[0-9]{1,12}(\.[0-9]{1,2})?")  # means the same in any currency; most prices of exports
BARE = re.compile(r"[0-9.,' +-]*")  # no currency
LETTER = r"[^\W\d_]"
DIGIT_SIGNS = str.maketrans({"’": "'", "‘": "'", "′": "'", "ʼ": "'", "`": "'", "−": "-", "‐": "-", "‑": "-"})
# Digits with separators; a blank separates only groups of three. "12.-" and "12,–" mean no decimals.
AMOUNT = re.compile(r"\d+(?:(?:[.,'٫٬]| (?=\d{3}(?!\d)))\d+)*(?:[.,][-–—]+(?!\d))?")
GROUPS = re.compile(r"\d{1,3}(?:(?P<mark>[.,' ٬])\d{3})(?:(?P=mark)\d{3})*|\d{1,3}(?:,\d{2})+,\d{3}|\d+")
BARE_POINT = re.compile(
    rf"(?<!{LETTER})(?<!/)[.,]\s*$"
)  # before an amount, and not of an abbreviation: "Rs."
SIGN = re.compile(
    "|".join(  # longest first; no match inside a word: "E£" is not "£", "kroner" is not "kr"
        rf"(?<!{LETTER})" + re.escape(sign) + (rf"(?!{LETTER})" if sign[-1].isalpha() else "")
        for sign in sorted([*SIGNS, *SHARED_SIGNS], key=len, reverse=True)
    )
)
CODE = re.compile(rf"(?<!{LETTER})[A-Z]{{3}}(?!{LETTER})")


class Price(NamedTuple):
    """An amount, or a range of amounts.

    Attributes:
        lowest: The amount, 0 or more.
        highest: The highest amount of a range; None if there is no range.
    """

    lowest: float
    highest: float | None = None


def read_price(value: Any, currency: str | None = None) -> Price | None:
    """Parse a price or a range of prices: 12.5, "12,50", "1.299,00 €", "Rs. 500", "$12 – $15"; None if blank.

    A single separator before exactly three digits is ambiguous. A comma separates thousands, unless the currency has
    three decimals and its country writes a decimal comma. A point separates thousands if the country of the currency
    writes a decimal comma, and decimals if the currency has three of them: "1.299 €" is 1299, "1.299 KWD" is 1.299.
    Otherwise, as in "1.299" without a currency, it cannot be told. Other prices of the column are not considered.

    Args:
        value: A number or a text.
        currency: ISO 4217 code, used if the text has no sign or code of a single currency.

    Raises:
        ValueError: if it has no number, several that are no range, one that is negative or not finite, or one that
            cannot be told.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None if math.isnan(value) else Price(_check_number(float(value)))
    text = str(value).strip()[:100]
    if not text:
        return None
    if PLAIN.fullmatch(text):
        return Price(float(text))
    if any(unicodedata.category(character) == "No" for character in text):
        raise ValueError(f"'{text[:40]}' is not a price: raised digits or fractions")
    matches, texts = _split_amounts(text)
    convention = _find_convention(text, currency)
    amounts = [_read_number(match, convention) for match in matches]
    if len(amounts) == 1:
        return Price(amounts[0])
    if len(amounts) == 2 and _is_range(texts[1]) and amounts[0] <= amounts[1]:
        return Price(amounts[0], amounts[1] if amounts[1] > amounts[0] else None)
    raise ValueError(f"'{text[:40]}' is not a price")


def read_amount(value: Any, currency: str | None = None) -> float | None:
    """Parse the amount of a price, or the lowest of a range; see `read_price`."""
    price = read_price(value, currency)
    return price and price.lowest


def _check_number(number: float) -> float:
    if not 0 <= number < math.inf:
        raise ValueError(f"{number} is not a price; it must be 0 or more, and finite")
    return number


def _split_amounts(text: str) -> tuple[list[str], list[str]]:
    """Split a text into amounts, and the texts before, between and after them.

    Raises:
        ValueError: if the texts change the meaning of an amount: a sign, a percentage, a multiplier.
    """
    plain = unicodedata.normalize("NFKC", text).translate(DIGIT_SIGNS)
    plain = "".join(str(unicodedata.decimal(character, character)) for character in plain)
    amounts, texts = AMOUNT.findall(plain), AMOUNT.split(plain)
    words = {word.casefold() for part in texts[1:] for word in re.findall(rf"^\s*({LETTER}+)", part)}
    bare = [BARE_POINT.search(part) for part in texts[:-1]]
    if not amounts or any(bare) or NO_PRICE & set(plain) or words & MULTIPLIERS:
        raise ValueError(f"'{text[:40]}' is not a price")
    enclosed = plain.startswith("(") and plain.endswith(")")
    if _ends_with_minus(texts[0]) or texts[-1].rstrip() in {"-", "–"} or enclosed:
        raise ValueError(f"'{text[:40]}' is negative; a price must be 0 or more")
    return amounts, texts


def _ends_with_minus(before: str) -> bool:
    """Whether the text before an amount ends with a minus, perhaps with a currency after it."""
    if "-" not in before and "–" not in before:
        return False
    return SIGN.sub("", CODE.sub("", before).casefold()).rstrip().endswith(("-", "–"))


def _is_range(between: str) -> bool:
    """Whether the text between two amounts is a word for a range, perhaps with currencies around it."""
    text = SIGN.sub(" ", CODE.sub(" ", between).casefold())
    return text.replace(".", " ").strip() in RANGE_WORDS


def _find_convention(text: str, currency: str | None) -> str | None:
    """The currency whose separators a price has: its own one, that of its column, or an example for a shared sign."""
    codes, signs = _find_currencies(text)
    if len(codes) == 1:
        return min(codes)
    return currency or next((SHARED_SIGNS[sign] for sign in sorted(signs)), None)


def _read_number(text: str, currency: str | None) -> float:
    """Parse digits with separators; see `read_price` for the rule and the errors."""
    digits = text.rstrip("-–—")
    decimal = _find_decimal_mark(digits, currency)
    whole, _, fraction = digits.rpartition(decimal) if decimal else (digits, "", "")
    if not GROUPS.fullmatch(whole) or (fraction and not fraction.isdecimal()):
        raise ValueError(f"'{text[:40]}' is not a price: its separators contradict each other")
    return _check_number(float(f"{re.sub(r'[^0-9]', '', whole)}.{fraction or 0}"))


def _find_decimal_mark(digits: str, currency: str | None) -> str | None:
    """The decimal mark of a number; None if it has only groups."""
    marks = re.findall(r"[.,٫]", digits)
    if "٫" in marks or len(set(marks)) > 1 or (marks and digits[-1] == marks[-1]):
        return marks[-1]
    if len(marks) != 1:
        return None
    mark = marks[0]
    whole, _, fraction = digits.partition(mark)
    if len(fraction) != 3 or len(whole) > 3 or whole.startswith("0"):
        return mark
    decimals, comma = _get_convention(currency) if currency else (2, False)
    if mark == ",":
        return mark if decimals == 3 and comma else None
    if comma:
        return None
    if decimals == 3:
        return mark
    raise ValueError(
        f"'{digits}' can be {whole}{fraction} or {float(digits)}; write it with two decimals"
        + ("" if currency else ", or add a currency")
    )


@cache
def _get_convention(currency: str) -> tuple[int, bool]:
    """Number of decimals of a currency, and whether its country writes a decimal comma.

    The country is the one of the code: the first two letters. A currency of several countries has a decimal comma if
    one of them writes it. Of several languages, the one of most people counts.
    """
    territories = TERRITORIES.get(currency, [])
    home = [territory for territory in territories if territory == currency[:2] and _get_marks(territory)]
    return get_currency_precision(currency), any("," in _get_marks(name) for name in home or territories)


def _get_marks(territory: str) -> set[str]:
    """The decimal mark of a territory, as a set; empty if CLDR does not know it."""
    for language in get_official_languages(territory, de_facto=True)[:1]:
        try:
            symbols = Locale.parse(f"{language}_{territory}").number_symbols
        except UnknownLocaleError:
            continue
        return {symbols.get("latn", {}).get("decimal", ".")}
    return set()


def _find_currencies(text: str) -> tuple[set[str], set[str]]:
    """Find the codes of certain currencies in a price, and the signs that several currencies share."""
    text = unicodedata.normalize("NFKC", text[:100])
    word = re.sub(r"[\d.,'’ +-]", "", text)
    code = SIGNS.get(word.casefold(), word.upper())
    if code in CODES:  # the usual case, for speed
        return {code}, set()
    signs = set(SIGN.findall(re.sub(r"\s+(?=[$¥])", "", text).casefold()))  # "US $" is "US$"
    codes = {word.upper(), *CODE.findall(text)} & CODES | {SIGNS[sign] for sign in signs & SIGNS.keys()}
    return codes, signs & SHARED_SIGNS.keys()


def read_currency(text: str) -> str | None:
    """Parse the currency of a price from its code or sign: "€ 12", "USD 1,299.00"; None for a bare number.

    A code takes precedence over an ambiguous sign: "CAD $12" is CAD.

    Returns:
        An ISO 4217 code.

    Raises:
        ValueError: if the sign is unknown or ambiguous, such as "$", or there are several currencies.
    """
    if BARE.fullmatch(text):
        return None
    codes, signs = _find_currencies(text)
    if len(codes) > 1:
        raise ValueError(f"several currencies ({', '.join(sorted(codes))})")
    if codes:
        return min(codes)
    if signs:
        sign = min(signs)
        raise ValueError(f"'{sign}' can be several currencies; give {SHARED_SIGNS[sign]} or another code")
    word = re.sub(r"[\d.,'’ +-]", "", unicodedata.normalize("NFKC", text[:100]))
    if any(unicodedata.category(character) == "Sc" for character in word):
        raise ValueError(f"'{word[:20]}' is not a known currency; give the ISO 4217 code")
    return None


def read_currency_column(value: Any) -> str | None:
    """Parse a currency column: "EUR", "eur", "€"; None if blank.

    Raises:
        ValueError: if it is not a currency, or ambiguous; see `read_currency`.
    """
    text = "" if isinstance(value, float) and math.isnan(value) else str(value).strip()
    code = read_currency(text)
    if text and code is None:
        raise ValueError(f"'{text[:20]}' is not a currency; give its ISO 4217 code")
    return code
