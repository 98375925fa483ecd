"""Parses prices as shops write them: the amount, and the currency as an ISO 4217 code."""

import math
import re
import unicodedata
from typing import Any

# ISO 4217 codes of all currencies that are legal tender, as of CLDR 48.
LEGAL_TENDER = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD
HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL
LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP
PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND
TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CODES = frozenset(LEGAL_TENDER.split())

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
}

# Signs that several currencies use, with one of these currencies as an example; case-folded.
SHARED_SIGNS = {"$": "USD", "¥": "JPY", "kr": "SEK", "rs": "INR", "lei": "RON"}

LETTER = r"[^\W\d_]"
POINT = rf"(?<={LETTER})\."  # of an abbreviation: "Rs.", "kr."
PRICE = re.compile(rf"(?:[^\d.,+-]|{POINT})*([+-]?\d[\d.,' ]*)(?:[^\d.,]|{POINT})*")
SIGN = re.compile(
    "|".join(  # longest first; no match inside a word: "E£" is not "£", "kroner" is not "kr"
        rf"(?<!{LETTER})" + re.escape(sign) + (rf"(?!{LETTER})" if sign[-1].isalpha() else "")
        for sign in sorted([*SIGNS, *SHARED_SIGNS], key=len, reverse=True)
    )
)
CODE = re.compile(rf"(?<!{LETTER})[A-Z]{{3}}(?!{LETTER})")


def read_amount(value: Any) -> float | None:
    """Parse the amount of a price: 12.5, "12,50", "1.299,00 €", "USD 1,299.00", "Rs. 500"; None if blank.

    Raises:
        ValueError: if it contains no number, or several.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None if math.isnan(value) else float(value)
    text = unicodedata.normalize("NFKC", str(value)).strip()
    if not text:
        return None
    match = PRICE.fullmatch(text[:100])
    if not match:
        raise ValueError(f"'{text[:40]}' is not a price")
    digits = re.sub("[' ]", "", match[1])
    comma, point = digits.rfind(","), digits.rfind(".")
    decimal = "," if comma > point else "."
    if (
        min(comma, point) < 0 <= max(comma, point)
    ):  # "1,299" and "1.299.000" are thousands, "12,5" is a decimal
        separator = digits[max(comma, point)]
        if digits.count(separator) > 1 or (separator == "," and re.search(r",\d{3}$", digits)):
            decimal = "." if separator == "," else ","
    return float(digits.replace("," if decimal == "." else ".", "").replace(decimal, "."))


def read_currency(text: str) -> str | None:
    """Parse the currency of a price from its code or sign: "€ 12", "USD 1,299.00"; None for a bare number.

    A code takes precedence over an ambiguous sign: "CAD $12" is CAD.

    Returns:
        An ISO 4217 code.

    Raises:
        ValueError: if the sign is unknown or ambiguous, such as "$", or there are several currencies.
    """
    text = unicodedata.normalize("NFKC", text[:100])
    word = re.sub(r"[\d.,' +-]", "", text)
    signs = set(SIGN.findall(re.sub(r"\s+(?=[$¥])", "", text).casefold()))  # "US $" is "US$"
    codes = CODES & {word.upper(), *CODE.findall(text)} | {SIGNS[sign] for sign in signs & SIGNS.keys()}
    if len(codes) > 1:
        raise ValueError(f"several currencies ({', '.join(sorted(codes))})")
    if codes:
        return min(codes)
    if signs:
        sign = min(signs)
        raise ValueError(f"'{sign}' can be several currencies; give {SHARED_SIGNS[sign]} or another code")
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
