"""What is live: the version that has an alias, and its index."""

from typing import TYPE_CHECKING, NamedTuple

from registry.champion_process import CHAMPION, find_version

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


def find_live_index(name: str, role: str = CHAMPION) -> LiveIndex | None:
    """A version and its index; reads only.

    Args:
        name: Of the registered model.
        role: An alias, such as "champion", or the number of a version.

    Returns:
        None if no version has the alias or the number.

    Raises:
        DataError: where MLflow cannot be reached.
    """
    version = find_version(name, role)
    return read_live_index(version) if version else None


def read_live_index(version: "ModelVersion") -> LiveIndex:
    """A version and its index, from one read of its tags."""
    uri = f"models:/{version.name}/{version.version}"
    return LiveIndex(str(version.version), uri, version.tags.get(INDEX), version.tags.get(COLLECTION))
