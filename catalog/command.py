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
    reported: tuple[type[Exception], ...] = (DataError, *user_errors)
    try:
        command()
    except reported as error:
        return _print_error(str(error), 1)
    except OSError as error:
        return _print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        return _print_error("interrupted; run the same command again to continue", 130)
    return 0


def _print_error(message: str, code: int) -> int:
    print(f"vitrine: {message}", file=sys.stderr)
    return code
