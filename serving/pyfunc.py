"""The registered model for MLflow: takes text, picture or both, returns ranked products.

MLflow loads this file as the model's code.
"""

import ast
import base64
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from fusion.encoders.vocabulary import PAD
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel
from fusion.search.filters import FILTERS, Filters
from fusion.search.marker import QueryEmbeddings, embed_queries, require_marker
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
                `hybrid` (from `Hybrid.save`). The service also gives `collection`, of Milvus, to search in place of the
                index.

        Raises:
            DataError: there is no index, or it is of another model.
        """
        limit_threads()  # MLflow's server, which calls this, sets none
        folder = Path(context.artifacts["model"])
        self.model, self.featurizer = ProductSearchModel.load(folder), Featurizer.load(folder)
        if "index" not in context.artifacts:
            raise DataError("this version holds no index; build one: python -m serving refresh")
        index, hybrid = (Path(context.artifacts[name]) for name in ("index", "hybrid"))
        self.index = _open_index(index, hybrid, getattr(context, "collection", None))
        self.index.marker.require_model(require_marker(self.model))
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
            results = self.search(_read_queries(model_input), params or {})
        except ValueError as error:
            _raise_bad_request(str(error))
        return self._build_table(results)

    def search(self, rows: Sequence[dict[str, Any]], params: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
        """Search as `predict`, without pandas.

        Args:
            rows: One query each: `text`, `image` (base64) or both.
            params: As for `predict`.

        Returns:
            For each query its results, as of `SearchIndex.find`.

        Raises:
            ValueError: as `predict`; the message names all rows.
        """
        _read_conditions(params)  # an error here is of no row
        answers = self._answer(
            [_query_row(number, row) for number, row in enumerate(rows)], [params] * len(rows)
        )
        problems = [
            f"query {number}: {answer}"
            for number, answer in enumerate(answers)
            if isinstance(answer, ValueError)
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return [answer["results"] for answer in answers if not isinstance(answer, ValueError)]

    def answer(
        self, requests: Sequence[tuple[str | None, bytes | None, Mapping[str, Any]]]
    ) -> list[dict[str, Any] | ValueError]:
        """Answer searches of several users: their queries are encoded together.

        Args:
            requests: Text, picture (the content of its file) and parameters, as for `predict`.

        Returns:
            For each request, `results` as of `SearchIndex.find`, and `unknown_tokens`, the share of the text's tokens
            that the vocabulary cannot read (None without text); or what is wrong with it.
        """
        rows = [_make_row("", text, picture) for text, picture, _ in requests]
        return self._answer(rows, [params for _, _, params in requests])

    def similar(self, product_id: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Products similar to one of the catalogue, see `SearchIndex.find_similar`.

        Raises:
            ValueError: a parameter is wrong.
            LookupError: the index does not have the product.
        """
        k, filters, collapse = _read_conditions(params)
        try:
            return self.index.find_similar(product_id, k, filters, collapse)
        except ValueError as error:
            raise LookupError(str(error)) from error

    def describe(self) -> dict[str, Any]:
        """The marker of the index, as in marker.json."""
        return self.index.marker.describe()

    def _answer(
        self, rows: Sequence[Mapping[str, Any]], params: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any] | ValueError]:
        """Encode rows of the queries table together; search together where the parameters are equal."""
        queries, errors = self.featurizer.featurize_rows("queries", rows)
        vectors, model = embed_queries(self.model, queries)
        shares = self._unknown_shares(queries.tokens)
        answers: list[dict[str, Any] | ValueError] = [
            ValueError(f"picture {errors[number]}") if number in errors else {} for number in range(len(rows))
        ]
        groups: dict[str, list[int]] = defaultdict(list)
        for number, conditions in enumerate(params):
            if number not in errors:
                groups[json.dumps(conditions, sort_keys=True)].append(number)
        for numbers in groups.values():
            try:
                k, filters, collapse = _read_conditions(params[numbers[0]])
            except ValueError as error:
                for number in numbers:
                    answers[number] = error
                continue
            embeddings = QueryEmbeddings(vectors[numbers], model)
            texts = [rows[number]["text"] for number in numbers]
            rankings = self.index.find(embeddings, k, filters, texts, collapse)
            for number, results in zip(numbers, rankings, strict=True):
                answers[number] = {"results": results, "unknown_tokens": shares[number]}
        return answers

    def _unknown_shares(self, tokens: np.ndarray) -> list[float | None]:
        """The share of each query's tokens, int32 (Q, T), that the vocabulary cannot read; None without tokens."""
        unknown = np.isin(tokens, self.featurizer.vocabulary.unreadable).sum(1)
        counts = (tokens != PAD).sum(1)
        return [
            float(number / count) if count else None for number, count in zip(unknown, counts, strict=True)
        ]

    def _build_table(self, rankings: Sequence[Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
        """The result of `predict`."""
        rows = [
            (query, rank, result)
            for query, results in enumerate(rankings)
            for rank, result in enumerate(results, start=1)
        ]
        shares = [f"share_{name}" for name in self.index.vectors_without]
        numbers = {"score", *shares}
        names = ["score", *self.index.fields.column_names, *shares]
        return pd.DataFrame(
            {
                "query": np.array([query for query, _, _ in rows], np.int64),
                "rank": np.array([rank for _, rank, _ in rows], np.int64),
                **{
                    name: pd.Series(
                        [result[name] for _, _, result in rows], dtype=float if name in numbers else object
                    )
                    for name in names
                },
            }
        )


def _open_index(folder: Path, hybrid: Path, collection: str | None) -> Any:
    """The index, or what was written of it to Milvus: both have `marker`, `find` and `find_similar`."""
    if not collection:
        return SearchIndex.load(folder, hybrid=hybrid)
    from fusion.search.milvus_client import connect
    from fusion.search.milvus_index import MilvusIndex

    return MilvusIndex.open(connect(), collection, folder, hybrid)


def _read_conditions(params: Mapping[str, Any]) -> tuple[int, Filters, bool]:
    """The parameters `k`, those of filters, and `collapse`.

    Raises:
        ValueError: a type or value is wrong.
    """
    return _read_k(params), _read_filters(params), _read_flag(params, "collapse")


def _read_k(params: Mapping[str, Any]) -> int:
    k = DEFAULT_K if params.get("k") is None else params["k"]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"`k`, products per query, must be a whole number from 1 to {MAX_K:,}, got {k!r}")
    return k


def _read_filters(params: Mapping[str, Any]) -> Filters:
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


def _read_flag(params: Mapping[str, Any], name: str) -> bool:
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
    return _make_row(str(number), text, picture)


def _make_row(query_id: str, text: str | None, picture: bytes | None) -> dict[str, Any]:
    """A row of the queries table; a blank text is none."""
    image = {"bytes": picture, "path": None} if picture else None
    shown = text if text and text.strip() else None
    return {"query_id": query_id, "text": shown, "split": "", "segment": "", "image": image}


def _read_text(number: int, name: str, value: Any) -> str | None:
    """Check that a value is a text; None if it is null, NaN or blank."""
    if isinstance(value, str):
        return value if value.strip() else None
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    raise ValueError(f"query {number}: `{name}` must be a text, got {repr(value)[:100]}")


def _parse_names(text: str) -> set[str]:
    """Parse a Python literal of names; empty if it is not one."""
    try:
        return set(map(str, ast.literal_eval(text)))
    except (SyntaxError, ValueError):
        return set()


def _raise_bad_request(reason: str) -> NoReturn:
    raise MlflowException.invalid_parameter_value(reason)


set_model(ProductSearch())
