"""Progress of long work: a bar on a terminal, lines in the log of a pod or a CI job.

A bar overwrites its line with carriage returns. In a log it would be one endless line, or invisible.
"""

import sys
from collections.abc import Iterable
from threading import Event, Thread
from typing import Any, TypeAlias, TypeVar, overload
from weakref import ref

from tqdm import tqdm

T = TypeVar("T")
Progress: TypeAlias = "tqdm[Any]"

SHARE = 0.1  # of the total: a line is due
INTERVAL = 30  # seconds after a line: the next is due
PAUSE = 10  # seconds after a line in which none is due; work that takes less time prints nothing
THREAD = "progress"
LINE = "{desc}: {n:,} of {total:,} ({percentage:.0f} %) in {elapsed}, {rate_noinv:,.1f} {unit}/s{postfix}"
LINE_WITHOUT_TOTAL = "{desc}: {n:,} in {elapsed}, {rate_noinv:,.1f} {unit}/s{postfix}"


@overload
def show_progress(
    iterable: Iterable[T], desc: str = ..., total: int | None = ..., **options: Any
) -> "tqdm[T]": ...
@overload
def show_progress(
    iterable: None = ..., desc: str = ..., total: int | None = ..., **options: Any
) -> Progress: ...
def show_progress(
    iterable: Iterable[Any] | None = None, desc: str = "", total: int | None = None, **options: Any
) -> Progress:
    """Show on stderr how far work has come: with a bar on a terminal, else with `ProgressLines`.

    Args:
        iterable: What to iterate over; without it, call `update` of the result.
        desc: What is done, such as "featurize products".
        total: How many items there are; without it, the length of `iterable` if that has one.
        options: tqdm's, such as `unit` (a noun in the singular).

    Returns:
        An iterator over `iterable`, and a context manager.
    """
    kind = tqdm if sys.stderr.isatty() else ProgressLines
    return kind(iterable, desc, total, **options)


class ProgressLines(tqdm):
    """Prints a line when 10 % more is done or 30 s have passed since the last, but none within 10 s of another.

    Work that waits prints its line every 30 s, too. Work of 10 s or more ends with a line. `bar_format` replaces the
    line's content.
    """

    def __init__(self, iterable: Any, desc: str, total: int | None, **options: Any) -> None:
        # `gui`: tqdm prints nothing itself, and calls `display`
        super().__init__(iterable, desc, total, gui=True, miniters=1, smoothing=0, **options)
        if not self.disable:
            self._line_time, self._line_n = 0.0, self.n
            self._closed = Event()
            arguments = ref(self), self._closed
            Thread(target=_refresh_regularly, name=THREAD, args=arguments, daemon=True).start()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line if one is due; tqdm calls this at most every 0.1 s."""
        passed = self.format_dict["elapsed"] - self._line_time
        share_done = self.total and self.n - self._line_n >= SHARE * self.total
        if passed >= INTERVAL or (share_done and passed >= PAUSE):
            self._print_line()

    def clear(self, *args: Any, **options: Any) -> None:
        """Do nothing: printed lines stay."""

    def close(self) -> None:
        """Print the last line, with the total time."""
        if not getattr(self, "disable", True):  # no attribute: the arguments were wrong
            self._closed.set()
            with self.get_lock():
                outdated = self._line_time and self._line_n != self.n
                if outdated or self.format_dict["elapsed"] - self._line_time >= PAUSE:
                    self._print_line()
        super().close()

    def _print_line(self) -> None:
        fields = dict(self.format_dict)
        self._line_time, self._line_n = fields["elapsed"], self.n
        has_total = self.total is not None and self.n <= self.total
        line = self.bar_format or (LINE if has_total else LINE_WITHOUT_TOTAL)
        print(self.format_meter(**fields | {"bar_format": line, "ncols": None}), file=self.fp, flush=True)


def _refresh_regularly(lines: "ref[ProgressLines]", closed: Event) -> None:
    """Call `refresh` until the work ends; a weak reference, so that abandoned work ends, too."""
    while not closed.wait(PAUSE):
        if (progress := lines()) is None:
            return
        progress.refresh()
        del progress
