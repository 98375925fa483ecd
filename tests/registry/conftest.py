"""Fixtures for tests of the registry."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from chain_fixtures import SavedStore

from registry import mlflow_store
from registry.model_registry import ModelRegistry
from registry.params import RegisterParams


@pytest.fixture
def registry(
    saved_store: SavedStore, local_store: Callable[[Path], AbstractContextManager[None]]
) -> Iterator[ModelRegistry]:
    """The registry of the module's `saved_store`, without what earlier tests changed."""
    saved_store.restore()
    with local_store(saved_store.root):
        yield ModelRegistry(mlflow_store.connect(), RegisterParams().model_name)
