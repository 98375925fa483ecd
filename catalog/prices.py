"""Prices as shops write them: the amount, and the currency as a code of ISO 4217."""

import math
import re
import unicodedata
from typing import Any

# ISO 4217: every code that is legal tender somewhere, as of CLDR 48.
LEGAL_TENDER = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD
HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL
LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP
PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND
TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CODES = frozenset(LEGAL_TENDER.split())

# Signs of one currency, casefolded.
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

# Signs of several currencies, and one of them as an example; casefolded.
SHARED_SIGNS = {"$": "USD", "¥": "JPY", "kr": "SEK", "rs": "INR", "lei": "RON"}

LETTER = r"[^\W\d_]"
POINT = rf"(?<={LETTER})\."  # of an abbreviation: "Rs.", "kr."
PRICE = re.compile(rf"(?:[^\d.,+-]|{POINT})*([+-]?\d[\d.,' ]*)(?:[^\d.,]|{POINT})*")
SIGN = re.compile(
    "|".join(  # "E£" is another currency than "£", "kroner" is no "kr"; longest first
        rf"(?<!{LETTER})" + re.escape(sign) + (rf"(?!{LETTER})" if sign[-1].isalpha() else "")
        for sign in sorted([*SIGNS, *SHARED_SIGNS], key=len, reverse=True)
    )
)
CODE = re.compile(rf"(?<!{LETTER})[A-Z]{{3}}(?!{LETTER})")


def read_amount(value: Any) -> float | None:
    """The amount of a price: 12.5, "12,50", "1.299,00 €", "USD 1,299.00", "Rs. 500"; None for a blank one.

    Raises:
        ValueError: where there is no number in it, or several.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None if math.isnan(value) else float(value)
    text = unicodedata.normalize("NFKC", str(value)).strip()
    if not text:
        return None
    match = PRICE.fullmatch(text[:100])
    if not match:
        raise ValueError(f"'{text[:40]}' is no price")
    digits = re.sub("[' ]", "", match[1])
    comma, point = digits.rfind(","), digits.rfind(".")
    decimal = "," if comma > point else "."
    if min(comma, point) < 0 <= max(comma, point):  # 1,299 and 1.299.000 are thousands, 12,5 is not
        mark = digits[max(comma, point)]
        if digits.count(mark) > 1 or (mark == "," and re.search(r",\d{3}$", digits)):
            decimal = "." if mark == "," else ","
    return float(digits.replace("," if decimal == "." else ".", "").replace(decimal, "."))


def read_currency(text: str) -> str | None:
    """The currency that a price names by a code or a sign: "€ 12", "USD 1,299.00", "12 kr."; None for a bare number.

    A sign of several currencies counts for nothing beside a code: "CAD $12" is CAD.

    Returns:
        A code of ISO 4217.

    Raises:
        ValueError: for a sign of several currencies, such as "$", for an unknown sign, and for several currencies.
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
        raise ValueError(f"'{word[:20]}' is no known currency; give the ISO 4217 code")
    return None


def read_currency_column(value: Any) -> str | None:
    """The code of a currency that stands alone: "EUR", "eur", "€"; None for a blank one.

    Raises:
        ValueError: as `read_currency`, and where it is no currency.
    """
    text = "" if isinstance(value, float) and math.isnan(value) else str(value).strip()
    code = read_currency(text)
    if text and code is None:
        raise ValueError(f"'{text[:20]}' is no currency; give its ISO 4217 code")
    return code
