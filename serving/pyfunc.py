"""The registered model for MLflow: takes text, picture or both, returns ranked products.

MLflow loads this file as the model's code.
"""

import ast
import base64
import logging
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from catalog.images import Limits
from catalog.schema import DataError
from catalog.threads import limit_threads
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel
from fusion.search.filters import FILTERS, Filters
from fusion.search.marker import ModelMarker, embed_queries
from fusion.search.search_index import SearchIndex

COLUMNS = ("text", "image")
PARAMETERS = ("k", "filters", "min_price", "max_price", "available", "collapse")
DEFAULT_K, MAX_K = 10, 1000


class UnknownParameterFilter(logging.Filter):
    """Rejects a request with an unknown parameter.

    MLflow only logs a warning about an unknown parameter and drops it before it calls `predict`: a misspelled filter
    would be ignored, with status 200. MLflow has no hook at this point, but a filter on its logger can raise. Warnings
    about other models in this process list other parameters and pass. The test of the served model fails if MLflow
    changes the text of its warning.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Raise for a warning about this model; otherwise apply the parent logger's level."""
        start, _, known = str(record.msg).rpartition(" Supported params are: ")
        known_names = _parse_names(known.partition(".")[0])
        if start.startswith("Unrecognized params ") and known_names == set(PARAMETERS):
            unknown_names = _parse_names(
                start.removeprefix("Unrecognized params ").removesuffix(" are ignored for inference.")
            )
            listed = ", ".join(f"`{name}`" for name in sorted(unknown_names))
            _raise_bad_request(f"unknown parameter {listed}; the parameters are {', '.join(PARAMETERS)}")
        parent = logging.getLogger(record.name).parent
        return parent is None or record.levelno >= parent.getEffectiveLevel()

    @classmethod
    def install(cls) -> None:
        """Add the filter to MLflow's logger, once per process."""
        logger = logging.getLogger("mlflow.models.utils")
        logger.setLevel(logging.WARNING)  # a higher level of the parent would hide records from the filter
        if not any(type(item).__name__ == cls.__name__ for item in logger.filters):
            logger.addFilter(cls())


class ProductSearch(PythonModel):
    """Searches the catalogue that the model was evaluated on."""

    def load_context(self, context: Any) -> None:
        """Load the model and its index.

        Args:
            context: Has the artifacts `model` (output folder of the train stage), `index` (from `SearchIndex.save`) and
                `hybrid` (from `Hybrid.save`).

        Raises:
            DataError: there is no index, or it is of another model.
        """
        limit_threads()  # MLflow's server, which calls this, sets none
        folder = Path(context.artifacts["model"])
        self.model, self.featurizer = ProductSearchModel.load(folder), Featurizer.load(folder)
        if "index" not in context.artifacts:
            raise DataError("this version holds no index; build one: python -m serving refresh")
        self.index = SearchIndex.load(
            Path(context.artifacts["index"]), hybrid=Path(context.artifacts["hybrid"])
        )
        self.index.marker.require_model(ModelMarker.read(folder))
        UnknownParameterFilter.install()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Search.

        Args:
            context: Unused; see `load_context`.
            model_input: One query per row: `text`, `image` (base64) or both.
            params: `k`, products per query, 1 to `MAX_K`; `filters`, field → values; `min_price` and `max_price`;
                `available`, only products in stock; see `Filters`. `collapse`, only the best variant of
                each group of products.

        Returns:
            Columns query (row of the input), rank (from 1), score, product_id, title, the other fields of the index
            (None for a missing value), and share_text, share_image and so on: each modality's contribution to the
            model's score, see `SearchIndex.modality_shares`. `k` rows per query, or fewer if fewer products pass the
            filters. Where the hybrid with BM25 is served, the score of a query with text is in [0, 1] and relative to
            this query's results.

        Raises:
            MlflowException: a column or parameter is unknown, has a wrong type or an invalid value, a query has neither
                text nor picture, or a picture cannot be decoded; the message names the row. MLflow's server answers
                with status 400.
        """
        try:
            return self._search(_read_queries(model_input), params or {})
        except ValueError as error:
            _raise_bad_request(str(error))

    def _search(self, rows: list[dict[str, Any]], params: dict[str, Any]) -> pd.DataFrame:
        k, filters = _read_k(params), _read_filters(params)
        query_rows = [_query_row(number, row) for number, row in enumerate(rows)]
        queries, errors = self.featurizer.featurize_rows("queries", query_rows)
        if errors:
            raise ValueError(
                "; ".join(f"query {number}: picture {error}" for number, error in errors.items())
            )
        query_embeddings = embed_queries(self.model, queries)
        texts = [row["text"] for row in query_rows]
        mask = self.index.filter_mask(filters)
        products, scores = self.index.search(query_embeddings, k, mask, texts, _read_flag(params, "collapse"))
        query_count, result_count = products.shape
        shares = [
            self.index.modality_shares(query, results)
            for query, results in zip(query_embeddings.vectors, products, strict=True)
        ]
        fields = self.index.fields.take(products.ravel()).to_pydict()
        return pd.DataFrame(
            {
                "query": np.repeat(np.arange(query_count), result_count),
                "rank": np.tile(np.arange(1, result_count + 1), query_count),
                "score": scores.ravel().astype(float),
                **{name: _nullable_column(values) for name, values in fields.items()},
                **{
                    f"share_{name}": np.concatenate([np.empty(0), *(share[name] for share in shares)])
                    for name in self.index.vectors_without
                },
            }
        )


def _read_k(params: dict[str, Any]) -> int:
    k = DEFAULT_K if params.get("k") is None else params["k"]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"`k`, products per query, must be a whole number from 1 to {MAX_K:,}, got {k!r}")
    return k


def _read_filters(params: dict[str, Any]) -> Filters:
    """Check the filter parameters."""
    filters = {} if params.get("filters") is None else params["filters"]
    if not isinstance(filters, dict):
        raise ValueError(
            f"`filters` must map fields ({', '.join(FILTERS)}) to lists of texts, got {filters!r}"
        )
    for field, values in filters.items():
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"`filters`: {field} must be a list of texts, got {values!r}")
    low, high = (params.get(name) for name in ("min_price", "max_price"))
    for price in (low, high):
        if price is not None and (isinstance(price, bool) or not isinstance(price, int | float)):
            raise ValueError(f"`min_price` and `max_price` must be numbers, got {price!r}")
    return Filters(filters, low, high, _read_flag(params, "available"))


def _read_flag(params: dict[str, Any], name: str) -> bool:
    flag = params.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise ValueError(f"`{name}` must be true or false, got {flag!r}")
    return bool(flag)


def _read_queries(queries: Any) -> list[dict[str, Any]]:
    """Check the columns of the request; one dict per query.

    The model is logged without a column schema: with one, MLflow would silently drop unknown columns.
    """
    if not isinstance(queries, pd.DataFrame):
        raise ValueError("send the queries as `dataframe_records` or `dataframe_split`")
    if not queries.columns.is_unique:
        raise ValueError("a column appears twice; give each column once")
    for name in queries.columns:
        if name not in COLUMNS:
            rows = np.flatnonzero(queries[name].notna())
            place = f"query {rows[0]}: " if len(rows) else ""
            raise ValueError(f"{place}unknown column `{name}`; the columns are {', '.join(COLUMNS)}")
    return queries.to_dict("records")


def _query_row(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of the request into a row of the queries table."""
    text, encoded = (_read_text(number, name, row.get(name)) for name in COLUMNS)
    if not text and not encoded:
        raise ValueError(f"query {number}: give `text`, `image` (base64) or both")
    if encoded and len(encoded) > 2 * Limits().max_bytes:
        raise ValueError(f"query {number}: picture of {len(encoded):,} characters is too large")
    try:
        picture = base64.b64decode(encoded, validate=True) if encoded else None
    except ValueError as error:  # binascii.Error is a ValueError; non-ASCII text raises a plain one
        raise ValueError(f"query {number}: `image` is not base64 ({error})") from error
    image = {"bytes": picture, "path": None} if picture else None
    return {"query_id": str(number), "text": text, "split": "", "segment": "", "image": image}


def _read_text(number: int, name: str, value: Any) -> str | None:
    """Check that a value is a text; None if it is null, NaN or blank."""
    if isinstance(value, str):
        return value if value.strip() else None
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    raise ValueError(f"query {number}: `{name}` must be a text, got {repr(value)[:100]}")


def _nullable_column(values: list[Any]) -> pd.Series:
    """Build a column of objects, with None for nulls: other dtypes hold NaN, which JSON does not have."""
    finite = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    return pd.Series(finite, dtype=object)


def _parse_names(text: str) -> set[str]:
    """Parse a Python literal of names; empty if it is not one."""
    try:
        return set(map(str, ast.literal_eval(text)))
    except (SyntaxError, ValueError):
        return set()


def _raise_bad_request(reason: str) -> NoReturn:
    raise MlflowException.invalid_parameter_value(reason)


set_model(ProductSearch())
