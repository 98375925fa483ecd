"""Pictures by their addresses: within limits, never from a private network unasked, and each only once."""

import sqlite3
import threading
import time
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from catalog.images import Limits

PATIENCE = 60  # seconds, for one picture
LASTING = (400, 401, 403, 404, 410, 451)  # answers that asking again does not change
AGENT = "vitrine (product search; pictures for a catalogue)"


class PrivateAddressError(ValueError):
    """A server that only this network knows."""


class Web:
    """Downloads, remembered in a file until `forget`: what was fetched, and what could not be had for good.

    A proxy of the environment is not used: behind one, nobody could say whose address is asked.
    """

    def __init__(self, manifest: Path, private: bool = False) -> None:
        """
        Args:
            manifest: The file; made when first needed.
            private: Whether addresses that only this network knows may be asked.
        """
        self.manifest = manifest
        self._lock = threading.Lock()
        self._kept: sqlite3.Connection | None = None
        retries = Retry(4, redirect=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        self._pool = PoolManager(
            maxsize=16, headers={"User-Agent": AGENT}, retries=retries, timeout=Timeout(connect=10, read=30)
        )
        if not private:
            self._pool.pool_classes_by_scheme = {"http": _PublicPool, "https": _PublicSecurePool}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept:
            self._kept.close()
        self._pool.clear()

    def forget(self) -> None:
        """Remove what is remembered: it is in the data set by now."""
        with self._lock:
            if self._kept:
                self._kept.close()
                self._kept = None
        self.manifest.unlink(missing_ok=True)

    def get(self, address: str) -> bytes:
        """The bytes at an address, by any number of threads at a time.

        Raises:
            ValueError: where they cannot be had; the message says why.
        """
        if (known := self._ask("SELECT content, reason FROM fetched WHERE address = ?", address)) is None:
            content, reason, lasting = self._fetch(address)
            if content is not None or lasting:
                self._ask("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?)", address, content, reason)
            known = content, reason
        content, reason = known
        if content is None:
            raise ValueError(reason)
        return content

    def _fetch(self, address: str) -> tuple[bytes | None, str | None, bool]:
        """Content, or why there is none, and whether that lasts."""
        most, end = Limits().max_bytes, time.monotonic() + PATIENCE
        try:
            answer = self._pool.request("GET", address, preload_content=False)
            try:
                if answer.status != 200:
                    return None, f"{address}: the server answers {answer.status}", answer.status in LASTING
                content = bytearray()
                for piece in answer.stream(1 << 16, decode_content=True):
                    content += piece
                    if len(content) > most:
                        return None, f"{address}: more than {most:,} bytes", True
                    if time.monotonic() > end:
                        return None, f"{address}: not there after {PATIENCE} seconds", False
                return bytes(content), None, True
            finally:
                answer.release_conn() if answer.length_remaining == 0 else answer.close()
        except PrivateAddressError as error:
            return None, f"{address}: {error}", True
        except (HTTPError, OSError, ValueError) as error:
            return None, f"{address}: cannot be had ({type(error).__name__})", False

    def _ask(self, statement: str, *values: Any) -> Any:
        with self._lock:
            if self._kept is None:
                self._kept = sqlite3.connect(self.manifest, check_same_thread=False, isolation_level=None)
                self._kept.execute("PRAGMA journal_mode = WAL")
                self._kept.execute(
                    "CREATE TABLE IF NOT EXISTS fetched (address TEXT PRIMARY KEY, content BLOB, reason TEXT)"
                )
            return self._kept.execute(statement, values).fetchone()


class _Public:
    """A connection to a public address; checked when it stands, so that no name can lead elsewhere between."""

    def _new_conn(self) -> Any:
        made = super()._new_conn()  # type: ignore[misc]
        address = ip_address(made.getpeername()[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if not address.is_global:
            made.close()
            raise PrivateAddressError("the server has a private address; --private allows it")
        return made


class _PublicConnection(_Public, HTTPConnection):
    pass


class _PublicSecureConnection(_Public, HTTPSConnection):
    pass


class _PublicPool(HTTPConnectionPool):
    ConnectionCls = _PublicConnection


class _PublicSecurePool(HTTPSConnectionPool):
    ConnectionCls = _PublicSecureConnection
