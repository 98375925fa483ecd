import pytest

from catalog.command import run_command
from catalog.schema import DataError


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("data: no such folder"), 1, "data: no such folder"),
        (LookupError("named by the caller"), 1, "named by the caller"),
        (OSError(28, "No space left on device", "m/x"), 1, "m/x: No space left on device"),
        (OSError("a library's own words"), 1, "a library's own words"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
    ],
)
def test_what_the_user_can_fix_is_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert run_command(fail, LookupError) == code
    assert capsys.readouterr().err == f"vitrine: {message}\n"


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


def test_success_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 7) == 0
    assert capsys.readouterr().err == ""
