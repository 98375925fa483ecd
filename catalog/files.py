"""Access to the files of a source: a folder, a zip or a single file. Unpacks nothing, follows no link out of it."""

import gzip
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from catalog.download import Downloader
from catalog.images import Limits
from catalog.schema import DataError

MAX_FAULTS = 100_000  # unreadable rows without a readable chunk in between
READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    gzip.BadGzipFile,
    OSError,
    NotImplementedError,
    RuntimeError,
)


class Media(NamedTuple):
    """A picture or clip that is read only when its row is written.

    Attributes:
        name: File name that is stored in the data set.
        read: Returns its bytes; raises ValueError if they are not available.
    """

    name: str
    read: Callable[[], bytes]


class Fault(NamedTuple):
    """A row that cannot be read: its place and the reason."""

    where: str
    reason: str


class Files:
    """A folder, a zip, or a single file with its folder; names are POSIX paths relative to it.

    Symbolic links out of the folder and links within a zip are treated as missing.
    """

    def __init__(self, source: Path, downloader: Downloader | None = None) -> None:
        """
        Args:
            source: The folder, zip or file.
            downloader: Downloads pictures and clips that are given by address.

        Raises:
            DataError: if the source does not exist, or a zip cannot be read.
        """
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        self.source, self.downloader = source, downloader
        self.zip: zipfile.ZipFile | None = None
        self.faults: list[Fault] = []
        self.headers: dict[str, Sequence[str]] = {}  # table → its columns, once it is read
        self._others: list[Files] = []
        self.root = (source if source.is_dir() else source.parent).resolve()
        if source.suffix.lower() == ".zip":
            try:
                self.zip = zipfile.ZipFile(source)
            except READ_ERRORS as error:
                raise DataError(f"{source}: not a readable zip ({error}); download it again") from error

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        for files in (self, *self._others):
            if files.zip:
                files.zip.close()

    def open_other(self, source: Path) -> "Files":
        """Open another source with the same list of faults; it is closed together with this one."""
        other = Files(source, self.downloader)
        other.faults = self.faults
        self._others.append(other)
        return other

    def add_fault(self, where: str, reason: str) -> None:
        """Record a row that cannot be read; `catalog.conversion.convert` empties the list after each chunk.

        Raises:
            DataError: if there are too many.
        """
        self.faults.append(Fault(where, reason))
        if len(self.faults) > MAX_FAULTS:
            raise DataError(
                f"{self.source}: more than {MAX_FAULTS:,} consecutive rows cannot be read; {where}: {reason}"
            )

    def find(self, *patterns: str) -> str | None:
        """Find the first file that matches one of the patterns, in their order; see `find_all`."""
        return next((name for pattern in patterns for name in self.find_all(pattern)), None)

    def require(self, *patterns: str) -> str:
        """Like `find`.

        Raises:
            DataError: if no file matches.
        """
        if name := self.find(*patterns):
            return name
        raise DataError(f"{self.source}: no {' or '.join(patterns)}, at the top or one folder down")

    def find_all(self, pattern: str) -> list[str]:
        """List the files that match a pattern at the top, or else one folder down; sorted."""
        if self.zip:
            return self._find_in_zip(self.zip, pattern)
        for prefix in ("", "*/"):
            paths = (path for path in self.root.glob(prefix + pattern) if path.is_file())
            names = sorted(path.relative_to(self.root).as_posix() for path in paths)
            if names := [name for name in names if self._resolve(name)]:
                return names
        return []

    @staticmethod
    def _find_in_zip(archive: zipfile.ZipFile, pattern: str) -> list[str]:
        paths = (PurePosixPath(name) for name in archive.namelist() if not name.endswith("/"))
        matches = [path for path in paths if path.match(pattern)]
        pattern_depth = len(PurePosixPath(pattern).parts)
        for depth in (pattern_depth, pattern_depth + 1):
            if names := sorted(str(path) for path in matches if len(path.parts) == depth):
                return names
        return []

    def has(self, name: str) -> bool:
        """Whether a file of this name exists."""
        if self.zip:
            return name in self.zip.NameToInfo
        path = self._resolve(name)
        try:
            return path is not None and path.is_file()
        except OSError:  # the name is too long
            return False

    def get_date(self, name: str) -> date:
        """The day on which a file that exists was last changed."""
        if self.zip:
            return date(*self.zip.NameToInfo[name].date_time[:3])
        return datetime.fromtimestamp((self.root / name).stat().st_mtime, UTC).date()

    def find_with_suffix(self, stem: str, suffix: str) -> str | None:
        """Find the file at the top that is named STEM.SUFFIX, with the suffix in any case."""
        name = stem + suffix
        return name if self.has(name) else self._upper_endings.get(name)

    @cached_property
    def _upper_endings(self) -> dict[str, str]:
        """Name with a lower-case suffix → name, of the files at the top whose suffix is in another case."""
        names = self.zip.NameToInfo if self.zip else (path.name for path in self.root.iterdir())
        parts = ((name, *name.rpartition(".")) for name in sorted(names) if "/" not in name)
        return {
            f"{stem}.{suffix.lower()}": name
            for name, stem, _, suffix in parts
            if suffix != suffix.lower() and self.has(name)
        }

    def read(self, name: str, max_bytes: int = Limits().max_bytes) -> bytes:
        """Read a file into memory.

        Raises:
            ValueError: if it does not exist, is larger than `max_bytes`, or cannot be read.
        """
        try:
            with self.open(name) as stream:
                content = stream.read(max_bytes + 1)
        except FileNotFoundError as error:
            raise ValueError(f"{name}: no such file") from error
        except READ_ERRORS as error:
            raise ValueError(f"{name}: cannot be read ({error})") from error
        if len(content) > max_bytes:
            raise ValueError(f"{name}: more than {max_bytes:,} bytes")
        return content

    def get_media(self, name: str) -> Media:
        """A picture or clip, by its name in these files or its http(s) address; it is read later.

        Raises:
            DataError: if it has an address, and these files have no downloader.
        """
        if name.startswith(("http://", "https://")):
            if self.downloader is None:
                raise DataError(f"{self.source}: {name} is an address, but downloads are not possible here")
            return Media(urlsplit(name).path.rpartition("/")[2], partial(self.downloader.get, name))
        return Media(name.rpartition("/")[2], partial(self.read, name))

    def open(self, name: str) -> IO[bytes]:
        """Open a file as a stream of bytes; decompresses `.gz`.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        if self.zip:
            info = self.zip.NameToInfo.get(name)
            if info is None or stat.S_ISLNK(info.external_attr >> 16):
                raise FileNotFoundError(2, "no such file in the zip", name)
            stream: IO[bytes] = self.zip.open(info)
        else:
            path = self._resolve(name)
            if path is None or not path.is_file():
                raise FileNotFoundError(2, "no such file", name)
            stream = path.open("rb")
        return gzip.open(stream) if name.endswith(".gz") else stream  # type: ignore[return-value]

    def _resolve(self, name: str) -> Path | None:
        """The path of a name; None if it is outside of the folder."""
        try:
            path = (self.root / name).resolve()
        except (OSError, ValueError, RuntimeError):
            return None
        return path if path.is_relative_to(self.root) else None
