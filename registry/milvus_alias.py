"""The alias in Milvus that follows the champion, for clients that search there.

Nothing here imports pymilvus unless the index of a version is in Milvus.
"""

import sys
from typing import TYPE_CHECKING

from catalog.schema import DataError
from registry.live_index import COLLECTION

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def require_collection(champion: "ModelVersion", previous: "ModelVersion | None" = None) -> None:
    """Refuse a move that Milvus could not follow, before anything is moved.

    Args:
        champion: The version to become champion.
        previous: The champion before. Its collection shows that this is the right Milvus, where `champion` has none.

    Raises:
        DataError: Milvus cannot be reached, or does not have the collection.
    """
    tagged = [version for version in (champion, previous) if version and version.tags.get(COLLECTION)]
    if not tagged:
        return
    from fusion.search.milvus_client import connect, describe_uri, read_uri, translate_errors

    version, client = tagged[0], connect()
    collection = version.tags[COLLECTION]
    with translate_errors():
        exists = client.has_collection(collection)
    if not exists:
        raise DataError(
            f"{version.name} version {version.version} is searched in the collection {collection}, which Milvus at "
            f"{describe_uri(read_uri())} does not have; set MILVUS_URI, or write it: python -m serving publish "
            f"--version {version.version}; or delete the version's tag {COLLECTION} in MLflow"
        )


def follow_champion(
    model: str, champion: "ModelVersion | None", previous: "ModelVersion | None" = None
) -> None:
    """Let the alias in Milvus point to the champion's collection. A repeated call changes nothing.

    If the champion is not in Milvus, but the version before it is, the alias is removed: a client of the alias embeds
    queries with the champion, and would search another model's vectors.

    Args:
        model: Name of the registered model.
        champion: None for no champion.
        previous: The champion before; None for none.

    Raises:
        DataError: Milvus cannot be reached, or does not have the collection.
    """
    collection = champion.tags.get(COLLECTION) if champion else None
    if not collection and not (previous and previous.tags.get(COLLECTION)):
        return
    from fusion.search.milvus_client import connect, find_alias, move_alias, name_alias, translate_errors

    if version := champion if collection else previous:
        require_collection(version)
    client, alias = connect(), name_alias(model)
    with translate_errors():
        removed = not collection and find_alias(client, alias)
        move_alias(client, alias, collection)
    if removed:
        reason = f"version {champion.version} is not there" if champion else "there is no champion"
        print(
            f"{model}: warning: the alias {alias} of Milvus is removed: {reason}; python -m serving publish",
            file=sys.stderr,
        )
