"""How every command of the project ends."""

import sys
from collections.abc import Callable

from catalog.schema import DataError


def run(verb: Callable[[], object], *blamed: type[Exception]) -> int:
    """Run a command's verb.

    Args:
        verb: What to do.
        blamed: Errors that the user can mend, whose message is enough; `DataError` is one already.

    Returns:
        The exit code: 0; 1 after one line on stderr where the input or the file system is at fault; 130 when
        interrupted.
    """
    mendable: tuple[type[Exception], ...] = (DataError, *blamed)
    try:
        verb()
    except mendable as error:
        return _end(str(error), 1)
    except OSError as error:
        return _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        return _end("interrupted; the same command goes on or starts again", 130)
    return 0


def _end(told: str, code: int) -> int:
    print(f"vitrine: {told}", file=sys.stderr)
    return code
