"""Downloads pictures: within limits, only once each, and from private networks only with --private."""

import sqlite3
import threading
import time
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from catalog.images import Limits

TIMEOUT = 60  # seconds per picture
BACKOFF = 0.5  # seconds before the second retry; doubles with each further one
PERMANENT_STATUSES = (400, 401, 403, 404, 410, 451)  # a retry would not help
USER_AGENT = "vitrine (product search; pictures for a catalogue)"


class PrivateAddressError(ValueError):
    """A server with an address of a private network."""


class Downloader:
    """Downloads files; stores contents and permanent failures in a database file until `clear`.

    Proxies of the environment are ignored, because behind a proxy the server's address cannot be checked.
    """

    def __init__(self, database: Path, private: bool = False) -> None:
        """
        Args:
            database: The file; created when first needed.
            private: Whether servers with private addresses are allowed.
        """
        self.database = database
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        retries = Retry(4, redirect=3, backoff_factor=BACKOFF, status_forcelist=(429, 500, 502, 503, 504))
        self._pool = PoolManager(
            maxsize=16,
            headers={"User-Agent": USER_AGENT},
            retries=retries,
            timeout=Timeout(connect=10, read=30),
        )
        if not private:
            self._pool.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicSecurePool}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection:
            self._connection.close()
        self._pool.clear()

    def clear(self) -> None:
        """Delete the database file; call it when the data set is complete."""
        with self._lock:
            if self._connection:
                self._connection.close()
                self._connection = None
        self.database.unlink(missing_ok=True)

    def get(self, address: str) -> bytes:
        """Download the bytes at an address, or take them from the database; thread-safe.

        Raises:
            ValueError: if they cannot be downloaded; the message says why.
        """
        stored = self._execute("SELECT content, reason FROM fetched WHERE address = ?", address)
        if stored is None:
            content, reason, permanent = self._fetch(address)
            if content is not None or permanent:
                self._execute("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?)", address, content, reason)
            stored = content, reason
        content, reason = stored
        if content is None:
            raise ValueError(reason)
        return content

    def _fetch(self, address: str) -> tuple[bytes | None, str | None, bool]:
        """Download once. Returns the content, or None and the reason, and whether a failure is permanent."""
        deadline = time.monotonic() + TIMEOUT
        try:
            response = self._pool.request("GET", address, preload_content=False)
            try:
                if response.status != 200:
                    reason = f"{address}: the server answered {response.status}"
                    return None, reason, response.status in PERMANENT_STATUSES
                return _read_body(response, address, deadline)
            finally:
                response.release_conn() if response.length_remaining == 0 else response.close()
        except PrivateAddressError as error:
            return None, f"{address}: {error}", True
        except (HTTPError, OSError, ValueError) as error:
            return None, f"{address}: cannot be downloaded ({type(error).__name__})", False

    def _execute(self, statement: str, *values: Any) -> Any:
        with self._lock:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self.database, check_same_thread=False, isolation_level=None
                )
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS fetched (address TEXT PRIMARY KEY, content BLOB, reason TEXT)"
                )
            return self._connection.execute(statement, values).fetchone()


def _read_body(
    response: BaseHTTPResponse, address: str, deadline: float
) -> tuple[bytes | None, str | None, bool]:
    """Read a response within the limits of size and time; the result is that of `Downloader._fetch`."""
    limit = Limits().max_bytes
    content = bytearray()
    for block in response.stream(1 << 16, decode_content=True):
        content += block
        if len(content) > limit:
            return None, f"{address}: more than {limit:,} bytes", True
        if time.monotonic() > deadline:
            return None, f"{address}: not downloaded within {TIMEOUT} seconds", False
    return bytes(content), None, True


class _PublicOnly:
    """Rejects private addresses after connecting, so that a changed DNS entry cannot bypass the check."""

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        address = ip_address(connection.getpeername()[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if not address.is_global:
            connection.close()
            raise PrivateAddressError("the server has a private address; --private allows it")
        return connection


class _PublicConnection(_PublicOnly, HTTPConnection):
    pass


class _PublicSecureConnection(_PublicOnly, HTTPSConnection):
    pass


class _PublicPool(HTTPConnectionPool):
    ConnectionCls = _PublicConnection


class _PublicSecurePool(HTTPSConnectionPool):
    ConnectionCls = _PublicSecureConnection
