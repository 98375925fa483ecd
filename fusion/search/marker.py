"""What an index was made from; a query that another model embedded is refused.

Vectors of two models live in different spaces: searching among the one with a query of the other gives results without
meaning, and no error.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from catalog import store
from catalog.schema import DataError
from fusion.featurizer import FILES, JOINT

if TYPE_CHECKING:
    from fusion.features import Items
    from fusion.model import ProductSearchModel

MARKER_FILE = "marker.json"
CONFIG_FILE = "config.json"  # of the network, beside its weights


class MarkerError(DataError):
    """An index and a query, or an index and a model, do not belong together."""


class ModelMarker(NamedTuple):
    """Identifies a model by hashes of its files.

    Attributes:
        weights: Of the network: its settings and its weights, those of published text encoders and adapters included.
        encoders: Of the featurizer: vocabulary, frozen encoders and their settings.
    """

    weights: str
    encoders: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Hash the files of a model.

        Args:
            folder: What `train` wrote.
        """
        encoder_files = [folder / name for name in (*FILES, JOINT) if (folder / name).exists()]
        network_files = {folder / CONFIG_FILE, *folder.glob("*.safetensors")} - set(encoder_files)
        return cls(store.fingerprint(*sorted(network_files)), store.fingerprint(*sorted(encoder_files)))


class QueryEmbeddings(NamedTuple):
    """Encoded queries; what a search takes.

    Attributes:
        vectors: float32 (Q, dim).
        model: The model that encoded them.
    """

    vectors: np.ndarray
    model: ModelMarker


class IndexMarker(NamedTuple):
    """What an index was made from.

    Attributes:
        model: The model that encoded the products.
        data: The fingerprint of the data set, see `catalog.store.fingerprint`.
        dim: Width of the vectors.
    """

    model: ModelMarker
    data: str
    dim: int

    def require(self, queries: QueryEmbeddings) -> None:
        """Refuse queries of another model.

        Raises:
            MarkerError: the model or the width differs; the message says what.
        """
        self.require_model(queries.model)
        if (width := queries.vectors.shape[-1]) != self.dim:
            raise MarkerError(
                f"the queries have {width} dimensions, the index has {self.dim}; encode them with its model"
            )

    def require_model(self, model: ModelMarker) -> None:
        """Refuse another model.

        Raises:
            MarkerError: weights or encoders differ; the message says which.
        """
        differences = [
            f"{part} {theirs[:8]} in place of {ours[:8]}"
            for part, theirs, ours in zip(ModelMarker._fields, model, self.model, strict=True)
            if theirs != ours
        ]
        if differences:
            raise MarkerError(
                f"another model made this index: the queries are of {', '.join(differences)}; "
                "search the index of this model, or build one: python -m serving refresh"
            )

    def describe(self) -> dict[str, str | int]:
        """Its values by name, as in marker.json."""
        return {**self.model._asdict(), "data": self.data, "dim": self.dim}

    def save(self, folder: Path) -> None:
        """Write marker.json into the folder of an index."""
        (folder / MARKER_FILE).write_text(json.dumps(self.describe(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: the folder has no marker.
        """
        path = folder / MARKER_FILE
        if not path.exists():
            raise DataError(
                f"{folder}: no {MARKER_FILE}, so it is not an index of this version; build it again"
            )
        return cls.parse(path.read_text())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `describe`, as JSON."""
        content = json.loads(text)
        return cls(ModelMarker(content["weights"], content["encoders"]), content["data"], content["dim"])


def embed_queries(model: "ProductSearchModel", queries: "Items") -> QueryEmbeddings:
    """Encode queries.

    Args:
        model: Of `ProductSearchModel.load`, which knows its marker.
        queries: Q of them.

    Raises:
        MarkerError: the model was not loaded from a folder.
    """
    from fusion.model import embed

    marker = require_marker(model)
    return QueryEmbeddings(embed(model, queries, "query"), marker)


def require_marker(model: "ProductSearchModel") -> ModelMarker:
    """The marker of a model.

    Raises:
        MarkerError: the model was not loaded from a folder.
    """
    if model.marker is None:
        raise MarkerError("this model was not loaded from a folder of `train`, so its vectors have no marker")
    return model.marker
