"""Which index a worker searches."""

import pytest

from serving.packages import has_milvus


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("http://milvus:19530", True), ("https://cloud:443", True), ("milvus/search.db", False), (None, False)],
)
def test_only_a_server_of_milvus_is_searched(
    uri: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of Milvus Lite belongs to one process; a change of models needs two."""
    monkeypatch.delenv("MILVUS_URI", raising=False)
    if uri:
        monkeypatch.setenv("MILVUS_URI", uri)
    assert has_milvus() == expected
