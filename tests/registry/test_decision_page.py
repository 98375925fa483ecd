from typing import Any

import pytest

from registry.decision_page import describe_data, format_moment

NOW = {"tables": {"products": 120, "queries": 60}, "splits": {"test": 12}}


def validation(**champion: Any) -> dict[str, Any]:
    return {"counts": NOW, "champion": champion or None, "warnings": 1}


def test_data_are_compared_with_the_champions() -> None:
    before = {"tables": {"products": 100, "queries": 60}}
    lines = list(describe_data(validation(version="3", drift=0.31), before))
    assert lines[0] == "+20 products"
    assert "Now: 120 products, 60 queries." in lines
    assert any("Drift from the data of version 3" in line and "0.310" in line for line in lines)
    assert lines[-1] == "Validation: 1 warning."


@pytest.mark.parametrize(
    ("before", "first"),
    [
        ({}, "nothing to compare with"),
        ({"tables": NOW["tables"]}, "the same numbers of rows"),
        ({"tables": {"products": 1_120, "queries": 60}}, "−1,000 products"),
    ],
)
def test_the_first_line_is_the_change(before: dict[str, dict[str, int]], first: str) -> None:
    assert next(describe_data(validation(), before)) == first


def test_moments_are_in_utc() -> None:
    assert format_moment(1_795_000_000_000) == "2026-11-18 11:06 UTC"
    assert format_moment("2026-11-28T20:01:59.123456+00:00") == "2026-11-28 20:01 UTC"
