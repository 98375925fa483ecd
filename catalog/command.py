"""Exit codes and error messages of the project's commands."""

import sys
from collections.abc import Callable

from catalog.schema import DataError


def run_command(command: Callable[[], object], *user_errors: type[Exception]) -> int:
    """Run a command. An error that the user can fix becomes one line on stderr, without a traceback.

    Args:
        command: What to run.
        user_errors: Errors that the user can fix, in addition to `DataError` and `OSError`.

    Returns:
        Exit code: 0 for success, 1 after such an error, 130 after an interrupt.
    """
    try:
        command()
    except KeyboardInterrupt:
        return _print_error("interrupted; run the same command again to continue", 130)
    except Exception as error:
        message = describe_user_error(error, *user_errors)
        if message is None:
            raise
        return _print_error(message, 1)
    return 0


def describe_user_error(error: Exception, *user_errors: type[Exception]) -> str | None:
    """The message of an error that the user can fix; None for any other error.

    Args:
        error: The error.
        user_errors: Errors that the user can fix, in addition to `DataError` and `OSError`.
    """
    if isinstance(error, (DataError, *user_errors)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return None


def _print_error(message: str, code: int) -> int:
    print(f"vitrine: {message}", file=sys.stderr)
    return code
