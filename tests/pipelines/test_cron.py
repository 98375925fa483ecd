import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import DataError
from pipelines.cron import FIELDS, six_fields


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ("0 2 * * *", "0 0 2 * * *"),
        ("30 0 2 * * *", "30 0 2 * * *"),
        ("*/15 8-18 * * MON-FRI", "0 */15 8-18 * * MON-FRI"),
        ("0 3 1,15 JAN ?", "0 0 3 1,15 JAN ?"),
    ],
)
def test_five_fields_begin_at_second_0(given_: str, sent: str) -> None:
    assert six_fields(given_) == sent


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("", "0 fields; 5 or 6 are wanted"),
        ("@daily", "1 fields"),
        ("0 2 * *", "4 fields"),
        ("0 24 * * *", "hour: 24 is not within 0-23"),
        ("60 2 * * *", "minute: 60 is not within 0-59"),
        ("0 2 0 * *", "day of month: 0 is not within 1-31"),
        ("0 2 * 13 *", "month: 13 is not within 1-12"),
        ("0 2 * * 7", "day of week: 7 is not within 0-6"),
        ("0 2 * * FUN", "day of week: 'FUN' is no number and no name"),
        ("0 18-8 * * *", "hour: the range '18-8' runs backwards"),
        ("*/0 2 * * *", "minute: the step '0' is no positive number"),
        ("0 2,,3 * * *", "hour: '' is none of"),
        ("TZ=Europe/Paris 0 2 * * *", "second: 'TZ=Europe/Paris' is none of"),
    ],
)
def test_what_is_no_cron(cron: str, told: str) -> None:
    with pytest.raises(DataError, match="--cron") as caught:
        six_fields(cron)
    assert told in str(caught.value)


@given(st.tuples(*(st.integers(low, high) for _, low, high in FIELDS)))
def test_values_within_their_limits_are_taken(values: tuple[int, ...]) -> None:
    cron = " ".join(map(str, values))
    assert six_fields(cron) == cron
    assert six_fields(" ".join(map(str, values[1:]))) == f"0 {' '.join(map(str, values[1:]))}"
