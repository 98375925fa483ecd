"""What every step does around its stage: limit its threads, and report an error as one message."""

import sys
from collections.abc import Callable
from traceback import format_exception_only
from typing import TypeVar

from vitrine_judge.errors import JudgeError

from catalog.command import describe_user_error, run_command
from catalog.threads import limit_threads
from pipelines.failures import record_reason

T = TypeVar("T")
USER_ERRORS = JudgeError, FloatingPointError  # that the user can fix


def run_step(name: str, stage: Callable[[], T]) -> T:
    """Run a stage and return its result. An error that the user can fix ends the step with one line, not a traceback.

    The message of any error is also left in the pod: see `pipelines.failures`.

    Args:
        name: Of the step, for messages.
        stage: What to run.

    Raises:
        SystemExit: if the stage fails.
    """
    limit_threads()
    results: list[T] = []

    def run_stage() -> None:
        try:
            results.append(stage())
        except Exception as error:
            message = describe_user_error(error, *USER_ERRORS) or format_exception_only(error)[-1].strip()
            record_reason(message if message.startswith(f"{name}: ") else f"{name}: {message}")
            raise

    if code := run_command(run_stage, *USER_ERRORS):
        sys.exit(code)
    return results[0]
