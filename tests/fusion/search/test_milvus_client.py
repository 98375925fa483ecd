"""The connection to Milvus: names, moves of the alias, and messages."""

import builtins
import fcntl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catalog.schema import DataError
from fusion.search import milvus_client
from fusion.search.milvus_client import connect, find_alias, move_alias, name_alias

if TYPE_CHECKING:
    from pymilvus import MilvusClient


@pytest.mark.parametrize(
    ("model", "alias"), [("product-search", "product_search"), ("Läden 2", "L_den_2"), ("2nd", "m_2nd")]
)
def test_an_alias_has_the_characters_that_milvus_allows(model: str, alias: str) -> None:
    assert name_alias(model) == alias


def test_an_alias_is_made_moved_and_removed(open_lite: Callable[[], "MilvusClient"]) -> None:
    """And a repeated call changes nothing."""
    client = open_lite()
    from pymilvus import DataType

    schema = client.create_schema()
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    for name in ("first", "second"):
        client.create_collection(name, schema=schema)
    for target in ("first", "first", "second", "first", None, None):
        move_alias(client, "live", target)
        assert find_alias(client, "live") == target


def test_a_file_that_another_process_has_open_is_named(tmp_path: Path) -> None:
    """Milvus Lite allows one process at a time."""
    uri = tmp_path / "search.db"
    uri.mkdir()
    with (uri / milvus_client.LITE_LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=f"{uri}: another process has this file of Milvus Lite open"):
            connect(str(uri))
    assert connect(str(uri)).list_collections() == []
    milvus_client.close(str(uri))


@pytest.mark.parametrize("uri", ["http://ada:sekret@127.0.0.1:1", "ftp://ada:sekret@127.0.0.1:1"])
def test_no_message_has_a_secret(
    uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(milvus_client.URI, uri)
    monkeypatch.setenv(milvus_client.TOKEN, "root:hidden")
    with pytest.raises(
        DataError, match=r"Milvus at \w+://127.0.0.1:1 cannot be reached, or refuses:"
    ) as caught:
        connect()
    messages = "".join([*traceback.format_exception(caught.value), *capfd.readouterr()])
    assert "sekret" not in messages and "hidden" not in messages


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name == "pymilvus":
            raise ImportError(name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"pip install 'vitrine\[milvus\]'"):
        connect("http://127.0.0.1:2")
