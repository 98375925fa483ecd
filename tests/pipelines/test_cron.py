import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import DataError
from pipelines.cron import FIELDS, normalize_cron


@pytest.mark.parametrize(
    ("cron", "sent"),
    [
        ("0 2 * * *", "0 0 2 * * *"),
        ("30 0 2 * * *", "30 0 2 * * *"),
        ("*/15 8-18 * * MON-FRI", "0 */15 8-18 * * MON-FRI"),
        ("0 3 1,15 JAN ?", "0 0 3 1,15 JAN ?"),
    ],
)
def test_five_fields_begin_at_second_0(cron: str, sent: str) -> None:
    assert normalize_cron(cron) == sent


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("", "has 0 fields; give 5 or 6"),
        ("@daily", "has 1 fields"),
        ("0 2 * *", "has 4 fields"),
        ("0 24 * * *", "hour: 24 is not within 0-23"),
        ("60 2 * * *", "minute: 60 is not within 0-59"),
        ("0 2 0 * *", "day of month: 0 is not within 1-31"),
        ("0 2 * 13 *", "month: 13 is not within 1-12"),
        ("0 2 * * 7", "day of week: 7 is not within 0-6"),
        ("0 2 * * FUN", "day of week: 'FUN' is not a number or a name"),
        ("0 18-8 * * *", "hour: the range '18-8' runs backwards"),
        ("*/0 2 * * *", "minute: the step '0' is not a positive number"),
        ("0 2,,3 * * *", "hour: '' must be *"),
        ("TZ=Europe/Paris 0 2 * * *", "second: 'TZ=Europe/Paris' must be *"),
    ],
)
def test_an_invalid_cron(cron: str, message: str) -> None:
    with pytest.raises(DataError, match="--cron") as caught:
        normalize_cron(cron)
    assert message in str(caught.value)


@given(st.tuples(*(st.integers(low, high) for _, low, high in FIELDS)))
def test_values_within_their_limits_are_taken(values: tuple[int, ...]) -> None:
    cron = " ".join(map(str, values))
    assert normalize_cron(cron) == cron
    assert normalize_cron(" ".join(map(str, values[1:]))) == f"0 {' '.join(map(str, values[1:]))}"
