"""Amounts and currencies as shops write them."""

from decimal import Decimal
from typing import Any

import pytest
from babel.numbers import format_currency
from hypothesis import given
from hypothesis import strategies as st

from catalog.prices import (
    CODES,
    SHARED_SIGNS,
    SIGNS,
    Price,
    read_amount,
    read_currency,
    read_currency_column,
    read_price,
)


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [
        ("12.5", 12.5, None),
        ("12,50", 12.5, None),
        ("1,299", 1299.0, None),
        ("1.299.000", 1299000.0, None),
        ("1 299,00", 1299.0, None),
        ("1\u202f299,00\u00a0€", 1299.0, "EUR"),
        ("1.299,-", 1299.0, None),
        ("45.0000", 45.0, None),
        ("0.999", 0.999, None),
        ("€ 12", 12.0, "EUR"),
        ("12,50 €", 12.5, "EUR"),
        ("1.299,00 €", 1299.0, "EUR"),
        ("Euro 12", 12.0, "EUR"),
        ("12 eur", 12.0, "EUR"),
        ("12 EUR/piece", 12.0, "EUR"),
        ("12,50 € incl. VAT", 12.5, "EUR"),
        ("€12 EUR", 12.0, "EUR"),
        ("USD 1,299.00", 1299.0, "USD"),
        ("US $12.99", 12.99, "USD"),
        ("CAD $12", 12.0, "CAD"),
        ("A$5", 5.0, "AUD"),
        ("R$ 1.299,90", 1299.9, "BRL"),
        ("£5", 5.0, "GBP"),
        ("￡5", 5.0, "GBP"),
        ("1'299.00 CHF", 1299.0, "CHF"),
        ("CHF 12.-", 12.0, "CHF"),
        ("12 Fr.", 12.0, "CHF"),
        ("SEK 12", 12.0, "SEK"),
        ("1 299 руб.", 1299.0, "RUB"),
        ("₹ 1,00,000", 100000.0, "INR"),
        ("199 Kč", 199.0, "CZK"),
        ("10 zł", 10.0, "PLN"),
        ("1.299 €", 1299.0, "EUR"),
        ("ab 19,99 €", 19.99, "EUR"),
        ("Rp 150.000", 150000.0, "IDR"),
        ("Rp. 150.000,-", 150000.0, "IDR"),
        ("12.990 ₫", 12990.0, "VND"),
        ("12.990đ", 12990.0, "VND"),
        ("CHF 1’299.90", 1299.9, "CHF"),
        ("1\u00a0299,00 zł", 1299.0, "PLN"),
        ("₹1,29,999", 129999.0, "INR"),
        ("1,980円", 1980.0, "JPY"),
        ("1.299 KWD", 1.299, "KWD"),
        ("1,299 KWD", 1299.0, "KWD"),
        ("1,299 TND", 1.299, "TND"),
        ("1.299 TL", 1299.0, "TRY"),
        ("S/. 12.50", 12.5, "PEN"),
        ("١٬٢٩٩٫٩٠ ر.س", 1299.9, "SAR"),
        ("₹१,२९९", 1299.0, "INR"),
        ("１，９８０円", 1980.0, "JPY"),
        ("from 12", 12.0, None),
        ("12 pcs", 12.0, None),
    ],
)
def test_amount_and_currency(text: str, amount: float, currency: str | None) -> None:
    assert (read_amount(text), read_currency(text)) == (amount, currency)


@pytest.mark.parametrize(("value", "amount"), [(" ", None), (7, 7.0), (float("nan"), None)])
def test_what_is_no_text(value: Any, amount: float | None) -> None:
    assert read_amount(value) == amount


@pytest.mark.parametrize(
    "text",
    [
        *(
            "free",
            "3 for 2",
            "from",
            True,
            "€",
            "$.75",
            "12 € / 13 $",
            "Infinity",
            "NaN",
            "1e5",
            "10 %",
            "12.3.4",
        ),
        *(
            "12k",
            "150 ribu",
            "1.2万円",
            "19⁹⁹",
            "12½",
            "12,34,56",
            "1.29,999",
            "15 – 12",
            "1 – 2 – 3",
            "2026-01-15",
        ),
    ],
)
def test_what_is_no_price(text: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="is not a price"):
        read_amount(text)


@pytest.mark.parametrize("value", ["-3", "€ -3", "-€3", "−3", "12.00-", "(12.00)", -3, float("inf")])
def test_negative_and_infinite_prices_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        read_price(value)


@pytest.mark.parametrize("text", ["1.299", "$1.299", "1.299 USD", "¥ 1.980", "Rs. 1.299", "ab 12.990"])
def test_what_cannot_be_told_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"can be 1299 or|can be 1980 or|can be 12990 or"):
        read_price(text)


@pytest.mark.parametrize(
    ("text", "currency", "amount"),
    [
        ("1.299", "EUR", 1299.0),
        ("12.990", "VND", 12990.0),
        ("1.299", "KWD", 1.299),
        ("$1.299", "CLP", 1299.0),
        ("1.299 kr", "SEK", 1299.0),
        ("1.299 €", "KWD", 1299.0),  # the price's own sign counts
        ("1,299", "USD", 1299.0),
    ],
)
def test_the_currency_of_a_column_decides(text: str, currency: str, amount: float) -> None:
    assert read_price(text, currency) == Price(amount)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("$12 – $15", Price(12, 15)),
        ("12,90-15,90 €", Price(12.9, 15.9)),
        ("from 1.299 € to 1.499 €", Price(1299, 1499)),
        ("CHF 12.- – 15.-", Price(12, 15)),
        ("Rp 150.000 ~ Rp 200.000", Price(150000, 200000)),
        ("12 € bis 12 €", Price(12)),
        ("1-2", Price(1, 2)),
    ],
)
def test_a_range_has_a_lowest_and_a_highest_amount(text: str, price: Price) -> None:
    assert read_price(text) == price


@given(st.integers(0, 10**9), st.sampled_from([",", "."]), st.sampled_from(["", "€ ", "USD ", "Rs."]))
def test_two_decimals_in_either_style(cents: int, mark: str, sign: str) -> None:
    whole, rest = divmod(cents, 100)
    other = "." if mark == "," else ","
    assert read_amount(sign + f"{whole:,}".replace(",", other) + f"{mark}{rest:02}") == cents / 100


@given(st.sampled_from(sorted(CODES | SIGNS.keys())), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_every_code_and_sign_on_either_side(sign: str, amount: int, before: bool, blank: bool) -> None:
    between = " " * blank
    text = f"{sign}{between}{amount}" if before else f"{amount}{between}{sign}"
    assert read_amount(text) == amount
    assert read_currency(text) == SIGNS.get(sign, sign)


@given(st.text(max_size=200) | st.text("0123456789.,-' €$", max_size=20))
def test_any_text_has_an_amount_none_or_a_reason(text: str) -> None:
    try:
        price = read_price(text)
    except ValueError as error:
        assert str(error)
    else:
        assert price is None or 0 <= price.lowest < float("inf")


@given(
    st.decimals(0, 10**7, places=2),
    st.sampled_from(["de_DE", "fr_FR", "en_US", "de_CH", "hi_IN", "pt_BR", "id_ID"]),
)
def test_what_a_locale_writes_is_read_back(amount: Decimal, locale: str) -> None:
    assert read_amount(format_currency(amount, "EUR", locale=locale)) == float(amount)


@given(
    st.integers(0, 10**9),
    st.sampled_from(["id_ID-IDR", "vi_VN-VND", "ja_JP-JPY", "ko_KR-KRW", "es_CL-CLP", "is_IS-ISK"]),
)
def test_what_a_locale_without_decimals_writes_is_read_back(amount: int, names: str) -> None:
    locale, currency = names.split("-")
    assert read_amount(format_currency(amount, currency, locale=locale), currency) == amount


@given(st.text(max_size=200))
def test_any_text_has_a_code_none_or_a_reason(text: str) -> None:
    try:
        code = read_currency(text)
    except ValueError as error:
        assert str(error)
    else:
        assert code is None or code in CODES


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$12", r"'\$' can be several currencies; give USD or another code"),
        ("12 kr.", "'kr' can be several currencies; give SEK or another code"),
        ("￥500", "'¥' can be several currencies"),
        ("Rs. 500", "'rs' can be several currencies"),
        ("₿ 1", "'₿' is not a known currency"),
        ("E£ 12", "'E£' is not a known currency"),
        ("€ 12 (USD)", r"several currencies \(EUR, USD\)"),
    ],
)
def test_a_currency_that_is_not_certain(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_currency(text)


def test_signs_lead_to_codes() -> None:
    assert {*SIGNS.values(), *SHARED_SIGNS.values()} <= CODES
    assert all(sign == sign.casefold() for sign in (*SIGNS, *SHARED_SIGNS))


@pytest.mark.parametrize(
    ("value", "code"), [("EUR", "EUR"), ("eur", "EUR"), (" € ", "EUR"), ("", None), (float("nan"), None)]
)
def test_a_column_of_currencies(value: Any, code: str | None) -> None:
    assert read_currency_column(value) == code


@pytest.mark.parametrize("value", ["$", "points", "kroner", 978])
def test_what_is_no_currency(value: Any) -> None:
    with pytest.raises(ValueError, match="give"):
        read_currency_column(value)
