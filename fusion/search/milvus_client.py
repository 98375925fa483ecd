"""The connection to Milvus, its errors, and the names of collections and of the alias.

`MILVUS_URI` and `MILVUS_TOKEN` of the environment name a server; without them, Milvus Lite keeps everything in a file.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from catalog.schema import DataError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

URI, TOKEN = "MILVUS_URI", "MILVUS_TOKEN"  # variables of the environment
DEFAULT_URI = "milvus/product-search.db"  # in the current folder
LITE_SUFFIX, LITE_VERSION = ".db", "milvus_lite"
LITE_LOCK = "LOCK"  # file that Milvus Lite locks in its folder
CONNECT_SECONDS = 10


def read_uri() -> str:
    """The address of Milvus."""
    return os.environ.get(URI) or DEFAULT_URI


def connect(uri: str = "") -> "MilvusClient":
    """A client of Milvus, the same for each call in this process.

    Args:
        uri: Address of a server, or path of a file that ends in .db, for Milvus Lite; "" for `read_uri`.

    Raises:
        DataError: pymilvus is not installed, Milvus cannot be reached, or another process has the file open.
    """
    return _connect(uri or read_uri(), os.environ.get(TOKEN, ""))


@cache
def _connect(uri: str, token: str) -> "MilvusClient":
    _import_pymilvus()
    from pymilvus import MilvusClient

    # They log whole tracebacks of errors that are raised as well.
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.endswith(LITE_SUFFIX):
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    with translate_errors(uri):
        return MilvusClient(uri, token=token, timeout=CONNECT_SECONDS)


def _import_pymilvus() -> None:
    """Import pymilvus, which reads MILVUS_URI at import, and refuses the path of a file there."""
    uri = os.environ.pop(URI, None)
    try:
        import pymilvus  # noqa: F401
    except ImportError as error:
        raise DataError("Milvus needs the package pymilvus: pip install 'vitrine[milvus]'") from error
    finally:
        if uri is not None:
            os.environ[URI] = uri


def close(uri: str) -> None:
    """Close what `connect` opened, so that another process can open a file of Milvus Lite."""
    connect(uri).close()
    _connect.cache_clear()
    if uri.endswith(LITE_SUFFIX):
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(uri)


def is_lite(client: "MilvusClient") -> bool:
    """Whether Milvus is Milvus Lite."""
    return client.get_server_version().startswith(LITE_VERSION)


@contextmanager
def translate_errors(uri: str = "") -> Iterator[None]:
    """Turn errors of Milvus into one message, without secrets.

    Args:
        uri: Of `connect`.

    Raises:
        DataError: Milvus cannot be reached, or refuses a request.
    """
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    uri = uri or read_uri()
    try:
        yield
    except (MilvusException, RpcError) as error:
        if uri.endswith(LITE_SUFFIX) and _is_locked(Path(uri)):
            raise DataError(
                f"{uri}: another process has this file of Milvus Lite open, and it allows one at a time; end that "
                f"process, or let both use a server: milvus-lite server --host 127.0.0.1 --data-dir {uri}, and "
                f"{URI}=http://127.0.0.1:19530"
            ) from None
        reason = str(getattr(error, "message", "") or error).replace(uri, describe_uri(uri))
        raise DataError(
            f"Milvus at {describe_uri(uri)} cannot be reached, or refuses: {reason}\n  check {URI}, {TOKEN} and the "
            "server, then run the same command again"
        ) from None  # the cause may contain the password


def describe_uri(uri: str) -> str:
    """The address without user and password."""
    parts = urlsplit(uri)
    return uri.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else uri


def _is_locked(folder: Path) -> bool:
    """Whether another process has a folder of Milvus Lite open."""
    import fcntl

    if not (folder / LITE_LOCK).exists():
        return False
    with (folder / LITE_LOCK).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def name_alias(model: str) -> str:
    """The alias of a registered model's live collection: Milvus allows letters, digits and `_`.

    Args:
        model: Name of the registered model, such as "product-search".
    """
    name = re.sub(r"[^A-Za-z0-9]", "_", model)
    return name if name[:1].isalpha() else f"m_{name}"


def find_alias(client: "MilvusClient", alias: str) -> str | None:
    """The collection that an alias points to; None where there is no such alias."""
    if alias not in client.list_aliases()["aliases"]:
        return None
    return str(client.describe_alias(alias)["collection_name"])


def move_alias(client: "MilvusClient", alias: str, collection: str | None) -> None:
    """Let an alias point to a collection, at once for all clients; None to remove it. A repeated call changes nothing.

    Args:
        client: Of `connect`.
        alias: Of `name_alias`.
        collection: An existing one.
    """
    current = find_alias(client, alias)
    if current == collection:
        return
    if collection is None:
        client.drop_alias(alias)
    elif current is None:
        client.create_alias(collection, alias)
    else:
        client.alter_alias(collection, alias)
