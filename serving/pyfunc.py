"""The registered model: text, picture or both in, ranked products out. MLflow loads this file as its code."""

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
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import FILTERS, SearchIndex

COLUMNS = ("text", "image")
PARAMETERS = ("k", "filters", "min_price", "max_price")
DEFAULT_K, MAX_K = 10, 1000


class UnknownParameters(logging.Filter):
    """Refuses a request with a parameter that the model does not have.

    MLflow drops such a parameter before `predict` is called, and only logs a warning: a misspelled filter would be
    ignored, and answered with status 200. MLflow has no hook between the two, but a filter of its logger may raise.
    A warning about another model in this process lists other parameters, and passes. The test of the served model
    fails if MLflow changes the words of its warning.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Raise for the warning about this model; drop what the level of MLflow's loggers would drop."""
        words, _, known = str(record.msg).rpartition(" Supported params are: ")
        if words.startswith("Unrecognized params ") and _names(known.partition(".")[0]) == set(PARAMETERS):
            unknown = _names(
                words.removeprefix("Unrecognized params ").removesuffix(" are ignored for inference.")
            )
            listed = ", ".join(f"`{name}`" for name in sorted(unknown))
            _refuse(f"unknown parameter {listed}; the parameters are {', '.join(PARAMETERS)}")
        parent = logging.getLogger(record.name).parent
        return parent is None or record.levelno >= parent.getEffectiveLevel()

    @classmethod
    def install(cls) -> None:
        """Put the filter on MLflow's logger, once in a process."""
        logger = logging.getLogger("mlflow.models.utils")
        logger.setLevel(
            logging.WARNING
        )  # its parent's level may be higher, and would keep records from the filter
        if not any(type(one).__name__ == cls.__name__ for one in logger.filters):
            logger.addFilter(cls())


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
        UnknownParameters.install()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Search.

        Args:
            context: Unused; `load_context` has read it.
            model_input: A row a query: `text`, and `image` as base64; either may be missing, not both.
            params: `k`, products per query, 1 to `MAX_K`; `filters`, field → values, and `min_price` and
                `max_price`: see `SearchIndex.allowed`.

        Returns:
            Columns query (row of the input), rank (from 1), score, product_id, title, the other fields of the index
            (None where a product has no value), and share_text, share_image and so on: what the score owes to each
            modality, see `SearchIndex.shares`. A catalogue of fewer than `k` products gives as many as it has.

        Raises:
            MlflowException: where a column or parameter is unknown or has a wrong type, `k` is out of range, a filter
                means nothing, a query has neither text nor picture, or a picture cannot be read; the message names
                the row. MLflow's server answers 400 with it.
        """
        try:
            return self._search(_rows(model_input), params or {})
        except ValueError as error:
            _refuse(str(error))

    def _search(self, rows: list[dict[str, Any]], params: dict[str, Any]) -> pd.DataFrame:
        k, allowed = _k(params), self._allowed(params)
        queries, broken = self.featurizer.rows("queries", [_query(n, row) for n, row in enumerate(rows)])
        if broken:
            raise ValueError("; ".join(f"query {i}: picture {reason}" for i, reason in broken.items()))
        query_embeddings = embed(self.model, queries, "query")
        products, scores = self.index.search(query_embeddings, k, allowed)
        count, kept = products.shape
        shares = [
            self.index.shares(query, *hits)
            for query, *hits in zip(query_embeddings, products, scores, strict=True)
        ]
        fields = self.index.fields.take(products.ravel()).to_pydict()
        return pd.DataFrame(
            {
                "query": np.repeat(np.arange(count), kept),
                "rank": np.tile(np.arange(1, kept + 1), count),
                "score": scores.ravel().astype(float),
                **{name: _nullable(values) for name, values in fields.items()},
                **{
                    f"share_{name}": np.concatenate([np.empty(0), *(share[name] for share in shares)])
                    for name in self.index.without
                },
            }
        )

    def _allowed(self, params: dict[str, Any]) -> np.ndarray | None:
        filters = {} if params.get("filters") is None else params["filters"]
        if not isinstance(filters, dict):
            raise ValueError(
                f"`filters` must map fields ({', '.join(FILTERS)}) to lists of texts, got {filters!r}"
            )
        for field, values in filters.items():
            if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
                raise ValueError(f"`filters`: {field} must be a list of texts, got {values!r}")
        prices = [params.get(name) for name in ("min_price", "max_price")]
        for price in prices:
            if price is not None and (isinstance(price, bool) or not isinstance(price, int | float)):
                raise ValueError(f"`min_price` and `max_price` must be numbers, got {price!r}")
        return self.index.allowed(filters, *prices)


def _k(params: dict[str, Any]) -> int:
    k = DEFAULT_K if params.get("k") is None else params["k"]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"`k`, products per query, must be a whole number from 1 to {MAX_K:,}, got {k!r}")
    return k


def _rows(queries: Any) -> list[dict[str, Any]]:
    """The queries, one dict each, of known columns alone.

    MLflow's own check of columns drops those that it does not know, so the model is logged without one.
    """
    if not isinstance(queries, pd.DataFrame):
        raise ValueError("send the queries as `dataframe_records` or `dataframe_split`")
    if not queries.columns.is_unique:
        raise ValueError("a column is given twice")
    for name in queries.columns:
        if name not in COLUMNS:
            rows = np.flatnonzero(queries[name].notna())
            place = f"query {rows[0]}: " if len(rows) else ""
            raise ValueError(f"{place}unknown column `{name}`; the columns are {', '.join(COLUMNS)}")
    return queries.to_dict("records")


def _query(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of queries, from a row of the request."""
    text, encoded = (_text(number, name, row.get(name)) for name in COLUMNS)
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


def _text(number: int, name: str, value: Any) -> str | None:
    """A text of a query; None for null, for what a data frame has in its place, and for blanks alone."""
    if isinstance(value, str):
        return value if value.strip() else None
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    raise ValueError(f"query {number}: `{name}` must be a text, got {repr(value)[:100]}")


def _nullable(values: list[Any]) -> pd.Series:
    """A column whose nulls stay None: other columns hold NaN in their place, which is no JSON."""
    finite = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    return pd.Series(finite, dtype=object)


def _names(words: str) -> set[str]:
    try:
        return set(map(str, ast.literal_eval(words)))
    except (SyntaxError, ValueError):
        return set()


def _refuse(reason: str) -> NoReturn:
    raise MlflowException.invalid_parameter_value(reason)


set_model(ProductSearch())
