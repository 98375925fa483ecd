"""What is live: the version that has an alias, and its index."""

from typing import TYPE_CHECKING, NamedTuple

from registry import mlflow_store
from registry.champion_process import CHAMPION

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

INDEX, COLLECTION = "vitrine.index", "vitrine.collection"  # tags of a version


class LiveIndex(NamedTuple):
    """A version and its index; no reader combines a model with the index of another version.

    Attributes:
        version: Its number.
        model_uri: Address of its package.
        index_uri: Address of its index; None for the one in its package.
        collection: Its collection in Milvus, if there is one.
    """

    version: str
    model_uri: str
    index_uri: str | None
    collection: str | None


def find_live_index(name: str, alias: str = CHAMPION) -> LiveIndex | None:
    """The version that has an alias, and its index; reads only.

    Args:
        name: Of the registered model.
        alias: Such as "champion".

    Raises:
        DataError: where MLflow cannot be reached.
    """
    if not mlflow_store.store_exists():
        return None
    client = mlflow_store.connect()
    with mlflow_store.translate_errors():
        models = client.search_registered_models(f"name = '{name}'")
        number = models[0].aliases.get(alias) if models else None
        return read_live_index(client.get_model_version(name, str(number))) if number else None


def read_live_index(version: "ModelVersion") -> LiveIndex:
    """A version and its index, from one read of its tags."""
    uri = f"models:/{version.name}/{version.version}"
    return LiveIndex(str(version.version), uri, version.tags.get(INDEX), version.tags.get(COLLECTION))
