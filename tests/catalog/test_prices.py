"""Amounts and currencies as shops write them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.prices import CODES, SHARED_SIGNS, SIGNS, read_amount, read_currency, read_currency_column


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [
        ("12.5", 12.5, None),
        ("12,50", 12.5, None),
        ("1,299", 1299.0, None),
        ("1.299.000", 1299000.0, None),
        ("1 299,00", 1299.0, None),
        ("1\u202f299,00\u00a0€", 1299.0, "EUR"),
        ("-3", -3.0, None),
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
        ("from 12", 12.0, None),
        ("12 pcs", 12.0, None),
    ],
)
def test_amount_and_currency(text: str, amount: float, currency: str | None) -> None:
    assert (read_amount(text), read_currency(text)) == (amount, currency)


@pytest.mark.parametrize(("value", "amount"), [(" ", None), (7, 7.0), (float("nan"), None)])
def test_what_is_no_text(value: Any, amount: float | None) -> None:
    assert read_amount(value) == amount


@pytest.mark.parametrize("text", ["free", "3 for 2", "1-2", "from", True, "€", "$.75", "12 € / 13 $"])
def test_what_is_no_price(text: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="is not a price"):
        read_amount(text)


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
