"""The registered model: text, picture or both in, ranked products out. MLflow loads this file as its code."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from catalog.images import Limits
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search import SearchIndex


class ProductSearch(PythonModel):
    """Searches the catalogue that the model was evaluated on."""

    def load_context(self, context: Any) -> None:
        """Read the model and its index.

        Args:
            context: Has the artifacts `model` (a folder of the train stage) and `index` (one of `SearchIndex`).
        """
        folder = Path(context.artifacts["model"])
        self.model, self.featurizer = ProductSearchModel.load(folder), Featurizer.load(folder)
        self.index = SearchIndex.load(Path(context.artifacts["index"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Search.

        Args:
            context: Unused; `load_context` has read it.
            model_input: A row a query: `text`, and `image` as base64; either may be missing, not both.
            params: `k`, products per query; `filters`, field → values, and `min_price` and `max_price`: see
                `SearchIndex.allowed`.

        Returns:
            Columns query (row of the input), rank (from 1), score, product_id, title, the other fields of the index,
            and share_text, share_image and so on: what the score owes to each modality, see `SearchIndex.shares`.

        Raises:
            MlflowException: where `k` is not positive, a filter means nothing, or a query has neither text nor picture,
                or a picture that cannot be read; its server answers 400 with the reason.
        """
        try:
            return self._search(model_input, params or {})
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _search(self, asked: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        k = int(params.get("k", 10))
        if k < 1:
            raise ValueError(f"`k`, products per query, must be at least 1, got {k}")
        prices = (params.get(name) for name in ("min_price", "max_price"))
        allowed = self.index.allowed(params.get("filters") or {}, *prices)
        rows = [self._query(number, row) for number, row in enumerate(asked.to_dict("records"))]
        queries, broken = self.featurizer.rows("queries", rows)
        if broken:
            raise ValueError("; ".join(f"query {i}: picture {reason}" for i, reason in broken.items()))
        wanted = embed(self.model, queries, "query")
        found, scores = self.index.search(wanted, k, allowed)
        count, kept = found.shape
        shares = [self.index.shares(query, *hits) for query, *hits in zip(wanted, found, scores, strict=True)]
        return pd.DataFrame(
            {
                "query": np.repeat(np.arange(count), kept),
                "rank": np.tile(np.arange(1, kept + 1), count),
                "score": scores.ravel().astype(float),
                **self.index.fields.take(found.ravel()).to_pydict(),
                **{
                    f"share_{name}": np.concatenate([np.empty(0), *(share[name] for share in shares)])
                    for name in self.index.without
                },
            }
        )

    def _query(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        text, encoded = (
            row.get(name) if isinstance(row.get(name), str) else None for name in ("text", "image")
        )
        if not text and not encoded:
            raise ValueError(f"query {number}: give `text`, `image` (base64) or both")
        if encoded and len(encoded) > 2 * Limits().max_bytes:
            raise ValueError(f"query {number}: picture of {len(encoded):,} characters is too large")
        try:
            picture = base64.b64decode(encoded, validate=True) if encoded else None
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII raise it plainly
            raise ValueError(f"query {number}: `image` is not base64 ({error})") from error
        image = {"bytes": picture, "path": None} if picture else None
        return {"query_id": str(number), "text": text, "split": "", "segment": "", "image": image}


set_model(ProductSearch())
