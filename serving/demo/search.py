"""Searches of the demo page, as parameters of its URL, and the answers of the served models."""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import urlencode

import requests
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.demo.catalogue import FILTERS

DEFAULT_K = 8
MAX_K = 100
MAX_TEXT = 500  # characters
TIMEOUT = 120  # seconds
SHARE_LABELS = {
    "share_text": "words",
    "share_image": "picture",
    "share_video": "clip",
    "share_joint": "words with pictures",
}
FIELD_LABELS = {"text": "Words", "min_price": "Price from", "max_price": "Price to", "k": "Results"}


class Search(BaseModel):
    """A search; its fields are the parameters of the page's URL.

    Attributes:
        text: Words.
        picture: A key of `QueryPictures`.
        similar: A product id: search with its picture, and with its title if there is no text.
        category, brand, color, material: Filters; "" for none.
        min_price, max_price: In the catalogue's currency.
        k: Number of results.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    text: str = Field("", max_length=MAX_TEXT)
    picture: str = Field("", pattern="^([0-9a-f]{32})?$")
    similar: str = Field("", max_length=MAX_TEXT)
    category: str = Field("", max_length=MAX_TEXT)
    brand: str = Field("", max_length=MAX_TEXT)
    color: str = Field("", max_length=MAX_TEXT)
    material: str = Field("", max_length=MAX_TEXT)
    min_price: float | None = Field(None, ge=0)
    max_price: float | None = Field(None, ge=0)
    k: int = Field(DEFAULT_K, ge=1, le=MAX_K)

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, picture or product to search with."""
        return not (self.text or self.picture or self.similar)

    @property
    def filters(self) -> dict[str, str]:
        """Field → value, of the filters that are set."""
        return {field: value for field in FILTERS if (value := getattr(self, field))}

    @property
    def has_filters(self) -> bool:
        """Whether a filter or a price limit is set."""
        return bool(self.filters) or self.min_price is not None or self.max_price is not None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are set."""
        return self.model_dump(exclude_defaults=True)

    def url(self, **changes: Any) -> str:
        """Build the URL of this search with some fields changed; None removes a field."""
        fields = {name: value for name, value in (self.fields | changes).items() if value is not None}
        return "/?" + urlencode(fields)

    def model_params(self) -> dict[str, Any]:
        """Build the parameters for the served model."""
        k = self.k + 1 if self.similar else self.k  # the page hides the product itself
        params: dict[str, Any] = {"k": k}
        if self.filters:
            params["filters"] = {field: [value] for field, value in self.filters.items()}
        if self.min_price is not None:
            params["min_price"] = self.min_price
        if self.max_price is not None:
            params["max_price"] = self.max_price
        return params


def parse_search(fields: Mapping[str, Any]) -> tuple[Search, list[str]]:
    """Parse the fields of a URL or a form: the search, without its invalid fields, and a message for each of those."""
    values = {
        name: value.strip()
        for name in Search.model_fields
        if isinstance(value := fields.get(name), str) and value.strip()
    }
    try:
        search, problems = Search.model_validate(values), []
    except ValidationError as error:
        errors = {str(detail["loc"][0]): detail["msg"] for detail in error.errors()}
        search = Search.model_validate({name: values[name] for name in values.keys() - errors.keys()})
        problems = [f"{FIELD_LABELS.get(name, name.title())}: {message}" for name, message in errors.items()]
    low, high = search.min_price, search.max_price
    if low is not None and high is not None and low > high:
        problems.append(f"Price: from {low:g} to {high:g} matches no product; give the lower price first")
    return search, problems


@dataclass(frozen=True)
class Model:
    """A served model.

    Attributes:
        alias: Such as "challenger".
        version: Its number.
        address: URL of its endpoint.
    """

    alias: str
    version: str
    address: str

    @property
    def label(self) -> str:
        """Its name on the page."""
        return f"{self.alias} · version {self.version}"


@dataclass(frozen=True)
class Product:
    """A result.

    Attributes:
        product_id, title: From the model's index.
        facts: Other values, such as the brand.
        price: With its currency, or "".
        score: None if the model gives none.
        shares: Contribution of words, picture and clip to the score, in per cent, largest first, without zeros.
    """

    product_id: str
    title: str
    facts: Sequence[str]
    price: str
    score: float | None
    shares: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """The answer of a model.

    Attributes:
        products: Best first.
        problem: Error message; "" if there was no error.
        milliseconds: Response time.
    """

    products: Sequence[Product]
    problem: str
    milliseconds: float


def search_model(model: Model, text: str, image: bytes | None, search: Search) -> Answer:
    """Search with a served model.

    Args:
        model: The served model.
        text: Words, or "".
        image: Content of a picture file, or None.
        search: Filters and number of products.
    """
    query = {"text": text} if text else {}
    if image:
        query["image"] = base64.b64encode(image).decode()
    start = time.perf_counter()
    try:
        with requests.Session() as session:
            session.trust_env = False  # the model is on this machine; do not use a proxy
            body = {"dataframe_records": [query], "params": search.model_params()}
            response = session.post(model.address, json=body, timeout=TIMEOUT)
        content = response.json()
    except (requests.RequestException, ValueError) as error:
        return Answer([], f"The model does not answer: {error}", _milliseconds_since(start))
    milliseconds = _milliseconds_since(start)
    if not response.ok:
        return Answer([], _error_message(content), milliseconds)
    try:
        products = [_parse_product(row) for row in content["predictions"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Answer([], f"The model's answer has an unexpected format: {error!r}", milliseconds)
    others = [product for product in products if product.product_id != search.similar]
    return Answer(others[: search.k], "", milliseconds)


def compare_ranks(before: Answer, after: Answer) -> dict[str, int | None]:
    """Compare ranks: product of `after` → places gained since `before`; None if it is not in `before`."""
    ranks = {product.product_id: rank for rank, product in enumerate(before.products)}
    return {
        product.product_id: ranks[product.product_id] - rank if product.product_id in ranks else None
        for rank, product in enumerate(after.products)
    }


def _milliseconds_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def _error_message(content: Any) -> str:
    """Extract the error from the message of MLflow's server, which starts with the request."""
    message = content.get("message") if isinstance(content, dict) else None
    return str(message or content).rpartition("Error: ")[2]


def _parse_product(row: Mapping[str, Any]) -> Product:
    """Parse a row of the answer. Every value except the id may be null or missing."""
    shares = {
        name: round(100 * share)
        for column, name in SHARE_LABELS.items()
        if (share := _float_or_none(row.get(column))) is not None
    }
    price = _float_or_none(row.get("price"))
    return Product(
        product_id=str(row["product_id"]),
        title=_text_or_empty(row.get("title")) or str(row["product_id"]),
        facts=[value for name in ("brand", "color", "material") if (value := _text_or_empty(row.get(name)))],
        price="" if price is None else f"{price:,.2f} {_text_or_empty(row.get('currency'))}".strip(),
        score=_float_or_none(row.get("score")),
        shares={
            name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0
        },
    )


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _float_or_none(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None
