"""What a step does around its stage."""

from pathlib import Path

import pytest
from vitrine_judge.errors import JudgeError

from catalog.schema import DataError
from pipelines import failures
from pipelines.step_runner import run_step


@pytest.fixture
def termination_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that Kubernetes mounts into a container."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr(failures, "TERMINATION_FILE", path)
    return path


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("train: no judged query"), "train: no judged query"),
        (JudgeError("no query"), "train: no query"),
        (OSError(28, "No space left on device", "m/x"), "train: m/x: No space left on device"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_stays_in_the_pod(
    error: Exception, reason: str, termination_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_step("train", fail)
    assert ended.value.code == 1
    assert termination_file.read_text() == reason
    assert (
        capsys.readouterr().err
        == f"vitrine: {reason if 'judged' in reason else reason.removeprefix('train: ')}\n"
    )


def test_any_other_error_keeps_its_traceback_and_stays_in_the_pod(termination_file: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_step("train", lambda: 1 / 0)
    assert termination_file.read_text() == "train: ZeroDivisionError: division by zero"


def test_a_result_is_passed_on(termination_file: Path) -> None:
    assert run_step("train", lambda: 7) == 7
    assert termination_file.read_text() == ""
