"""What the demo page searches for, as its address says it, and what a served model answers."""

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

K = 8
MAX_K = 100
MAX_TEXT = 500  # characters
TIMEOUT = 120  # seconds
MODALITIES = {"share_text": "words", "share_image": "picture", "share_video": "clip"}
LABELS = {"text": "Words", "min_price": "Price from", "max_price": "Price to", "k": "Results"}


class Search(BaseModel):
    """A search; its fields are the parameters of the page's address.

    Attributes:
        text: Words.
        picture: A key of `QueryPictures`.
        similar: A product's id: its picture is searched with, and without words its title, too.
        category, brand, color, material: Filters; "" for none.
        min_price, max_price: As in the catalogue.
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
    k: int = Field(K, ge=1, le=MAX_K)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to search with."""
        return not (self.text or self.picture or self.similar)

    @property
    def filters(self) -> dict[str, str]:
        """Field → value, of the filters that are set."""
        return {field: value for field in FILTERS if (value := getattr(self, field))}

    @property
    def narrowed(self) -> bool:
        """Whether a filter or a price leaves products out."""
        return bool(self.filters) or self.min_price is not None or self.max_price is not None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that differ from an empty search."""
        return self.model_dump(exclude_defaults=True)

    def url(self, **changes: Any) -> str:
        """The page's address of this search with other values; None removes a field."""
        fields = {name: value for name, value in (self.fields | changes).items() if value is not None}
        return "/?" + urlencode(fields)

    def params(self) -> dict[str, Any]:
        """The parameters of the served model."""
        k = self.k + 1 if self.similar else self.k  # the product itself is left out
        params: dict[str, Any] = {"k": k}
        if self.filters:
            params["filters"] = {field: [value] for field, value in self.filters.items()}
        if self.min_price is not None:
            params["min_price"] = self.min_price
        if self.max_price is not None:
            params["max_price"] = self.max_price
        return params


def parse(fields: Mapping[str, Any]) -> tuple[Search, list[str]]:
    """A search from the fields of an address or a form, and what is wrong with those that are left out."""
    given = {
        name: value.strip()
        for name in Search.model_fields
        if isinstance(value := fields.get(name), str) and value.strip()
    }
    try:
        search, problems = Search.model_validate(given), []
    except ValidationError as error:
        wrong = {str(detail["loc"][0]): detail["msg"] for detail in error.errors()}
        search = Search.model_validate({name: given[name] for name in given.keys() - wrong.keys()})
        problems = [f"{LABELS.get(name, name.title())}: {message}" for name, message in wrong.items()]
    low, high = search.min_price, search.max_price
    if low is not None and high is not None and low > high:
        problems.append(f"Price: from {low:g} to {high:g} leaves nothing; give the lower one first")
    return search, problems


@dataclass(frozen=True)
class Model:
    """A served model.

    Attributes:
        alias: Such as "challenger".
        version: Its number.
        address: Where it answers.
    """

    alias: str
    version: str
    address: str

    @property
    def label(self) -> str:
        """What it is called on the page."""
        return f"{self.alias} · version {self.version}"


@dataclass(frozen=True)
class Product:
    """A result.

    Attributes:
        product_id, title: From the model's index.
        facts: What else is known, such as the brand.
        price: With its currency, or "".
        score: Or None.
        shares: In per cent, what of the score is owed to words, picture and clip; those that are owed nothing are
            left out, the largest comes first.
    """

    product_id: str
    title: str
    facts: Sequence[str]
    price: str
    score: float | None
    shares: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """What a model answers.

    Attributes:
        products: Best first.
        problem: Why there are none; "" where the model answered.
        milliseconds: How long it took.
    """

    products: Sequence[Product]
    problem: str
    milliseconds: float


def ask(model: Model, text: str, image: bytes | None, search: Search) -> Answer:
    """Search with a served model.

    Args:
        model: Which one.
        text: Words, or "".
        image: A picture file's content.
        search: Says how many products, of which some may not be shown.
    """
    query = {"text": text} if text else {}
    if image:
        query["image"] = base64.b64encode(image).decode()
    start = time.perf_counter()
    try:
        with requests.Session() as session:
            session.trust_env = False  # the model is on this machine: no proxy
            body = {"dataframe_records": [query], "params": search.params()}
            response = session.post(model.address, json=body, timeout=TIMEOUT)
        content = response.json()
    except (requests.RequestException, ValueError) as error:
        return Answer([], f"The model does not answer: {error}", _since(start))
    milliseconds = _since(start)
    if not response.ok:
        return Answer([], _reason(content), milliseconds)
    try:
        products = [_product(row) for row in content["predictions"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Answer([], f"The model's answer has another form: {error!r}", milliseconds)
    shown = [product for product in products if product.product_id != search.similar]
    return Answer(shown[: search.k], "", milliseconds)


def rank_changes(before: Answer, after: Answer) -> dict[str, int | None]:
    """Product of the second answer → by how many places it rose from the first; None where it was not shown."""
    ranks = {product.product_id: rank for rank, product in enumerate(before.products)}
    return {
        product.product_id: ranks[product.product_id] - rank if product.product_id in ranks else None
        for rank, product in enumerate(after.products)
    }


def _since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def _reason(content: Any) -> str:
    """The last line of what MLflow's server says of a bad request; before it stands the request."""
    message = content.get("message") if isinstance(content, dict) else None
    return str(message or content).rpartition("Error: ")[2]


def _product(row: Mapping[str, Any]) -> Product:
    """A row of the answer. Any value but the id may be null or absent."""
    shares = {
        name: round(100 * share)
        for column, name in MODALITIES.items()
        if (share := _float(row.get(column))) is not None
    }
    price = _float(row.get("price"))
    return Product(
        product_id=str(row["product_id"]),
        title=_text(row.get("title")) or str(row["product_id"]),
        facts=[value for name in ("brand", "color", "material") if (value := _text(row.get(name)))],
        price="" if price is None else f"{price:,.2f} {_text(row.get('currency'))}".strip(),
        score=_float(row.get("score")),
        shares={
            name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0
        },
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None
