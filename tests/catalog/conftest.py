"""Fixtures of the catalogue's tests."""

from pathlib import Path

import pytest

from catalog.sample import sample


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample catalogue: 300 products, 60 queries, seed 3."""
    out = tmp_path_factory.mktemp("sample") / "data"
    sample(out, products=300, seed=3, queries=60, workers=1)
    return out
