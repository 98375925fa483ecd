"""Detection of personal data."""

from pathlib import Path

import pytest
from export_headers import read_exports

from catalog.__main__ import main
from catalog.privacy import find_personal, looks_personal
from catalog.schema import TABLES


@pytest.mark.parametrize(
    "name",
    [
        "email",
        "user_id",
        "customerEmail",
        "IP",
        "client ip",
        "SessionID",
        "first_name",
        "Last Name",
        "dob",
        "userName",
    ],
)
def test_by_name(name: str) -> None:
    assert looks_personal(name)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["ada@shop.test", None, "x"], "e-mail addresses"),
        (["+49 30 1234567", "+1 (555) 010-9999"], "telephone numbers"),
        (["192.168.0.7"], "IP addresses"),
        (["2001:db8::1"], "IP addresses"),
        (["4111 1111 1111 1111"], "payment cards"),
        (["DE89 3704 0044 0532 0130 00"], "bank accounts"),
    ],
)
def test_by_value(values: list[str], kind: str) -> None:
    assert looks_personal("note", values) == f"holds {kind}"
    assert looks_personal("note", [*values, *["nothing of the kind"] * 100]) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("shipping", ["2 days"]),
        ("usertype_hint", []),
        ("description", ["write to us@home", "call now"]),
        ("gtin", ["4006381333931", "5901234123457"]),
        ("version", ["1.2.3", "10.0"]),
        ("sku", ["12345678901234", "DE12"]),
        ("mailbox", ["blue"]),
        ("count", [1, 2, 3]),
    ],
)
def test_what_is_none(name: str, values: list[object]) -> None:
    assert looks_personal(name, values) is None


def test_our_own_columns_are_none() -> None:
    assert [name for schema in TABLES.values() for name in schema.names if looks_personal(name)] == []


def test_a_table_with_such_a_column_is_refused_unless_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products.csv").write_text("product_id,title,contact\n1,a,ada@shop.test\n2,b,\n")
    words = ["import", "table", str(tmp_path / "products.csv"), "--out", str(tmp_path / "data")]
    assert main(words) == 1
    assert capsys.readouterr().err == (
        "vitrine: products.csv: a column holds e-mail addresses, which looks like personal data; remove it, "
        "or allow it: --personal contact\n"
    )
    assert not (tmp_path / "data").exists()
    assert main([*words, "--personal", "contact"]) == 0


def test_so_is_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "products.csv").write_text("product_id,title\n" + "".join(f"{n},t{n}\n" for n in range(4)))
    assert main(["import", "table", str(tmp_path / "products.csv"), "--out", str(tmp_path / "data")]) == 0
    rows = "".join(f"red {n},{n},1,1,7\n" for n in range(4))
    (tmp_path / "log.csv").write_text("query,product_id,position,clicked,user_id\n" + rows)
    words = [
        "queries",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--clicks",
        str(tmp_path / "log.csv"),
    ]
    capsys.readouterr()
    assert main(words) == 1
    assert "log.csv: a column is named 'user_id', for a user id, which looks like" in capsys.readouterr().err
    assert main([*words, "--personal", "user_id"]) == 0


def test_headers_of_real_exports() -> None:
    """At least 40 exports; precision and recall over their columns are .95 or more."""
    columns = read_exports()
    assert len({export for export, *_ in columns}) >= 40
    alarms = {(export, name) for export, name, values, _ in columns if looks_personal(name, values)}
    personal = {(export, name) for export, name, _, is_personal in columns if is_personal}
    assert len(alarms & personal) / len(alarms) >= 0.95, sorted(alarms - personal)
    assert len(alarms & personal) / len(personal) >= 0.95, sorted(personal - alarms)


@pytest.mark.parametrize(
    "value",
    [
        "https://cdn.shop.test/mug_400x@2x.jpg",
        "mug@2x.jpg",
        "icons/a@1.5x.webp",
        "//cdn.shop.test/a@b.png",
        "react@18.2.0",
        "us@home",
    ],
)
def test_files_and_addresses_are_no_mail(value: str) -> None:
    assert looks_personal("asset", [value]) is None


@pytest.mark.parametrize(
    "value", ["ada@shop.test", "Ada Example <ada@shop.test>", "mailto:ada+news@mail.shop.test"]
)
def test_mail_in_any_form(value: str) -> None:
    assert looks_personal("asset", [value]) == "holds e-mail addresses"


def test_numbers_that_pass_the_check_of_cards_by_chance_are_none() -> None:
    numbers = [f"4{number:015d}" for number in range(100)]
    assert looks_personal("sku", numbers) is None
    assert looks_personal("note", ["4111 1111 1111 1111", "paid in cash"]) == "holds payment cards"
    assert looks_personal("code", ["DE12AB34CD56EF78GH90"]) is None  # like an IBAN, with wrong check digits


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("order of anna@example.com, please", "e-mail addresses"),
        ("call +49 171 2345678 now", "telephone numbers"),
        ("transfer to DE89370400440532013000", "bank accounts"),
        ("DE89 3704 0044 0532 0130 00", "bank accounts"),
        ("router (192.168.0.7)", "IP addresses"),
        ("card 4111-1111-1111-1111", "payment cards"),
        ("shoe 4006381333931", None),  # a GTIN
        ("usb 3.0 cable +5v 2 m", None),
        ("logo@2x.jpg", None),
        ("red shoe", None),
    ],
)
def test_within_a_query(text: str, kind: str | None) -> None:
    assert find_personal(text) == kind
