"""Requests and answers of the service: their fields, types and limits."""

import base64
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

DEFAULT_K = 10
LONGEST_TEXT = 2000  # letters of a query; encoders read less
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
Name = Annotated[str, StringConstraints(max_length=200)]
Names = Annotated[list[Name], Field(max_length=100)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
RequestId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


def decode_picture(value: Any) -> Any:
    """Decode base64.

    Raises:
        ValueError: where it is another text.
    """
    if not isinstance(value, str):
        raise ValueError("give a picture as a text in base64")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:  # of non-ASCII text, too
        raise ValueError(f"not base64 ({error})") from error


Picture = Annotated[
    bytes,
    BeforeValidator(decode_picture),
    WithJsonSchema({"type": "string", "format": "byte", "description": "a picture file in base64"}),
]


class Message(BaseModel):
    """A request: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Filters(Message):
    """Which values pass, without case; a category also accepts those below it."""

    category: Names | None = None
    brand: Names | None = None
    color: Names | None = None
    material: Names | None = None


class Conditions(Message):
    """Which products may be results.

    Attributes:
        min_price, max_price: Products without a price do not pass.
        available: Only products in stock; those of unknown stock do not pass.
        collapse: Only the best variant of each group of products.
        session: Of the user, for experiments and the log.
    """

    min_price: Price | None = None
    max_price: Price | None = None
    available: bool = False
    collapse: bool = False
    session: Name | None = None

    @model_validator(mode="after")
    def check_prices(self) -> "Conditions":
        """The lower price is first."""
        if self.min_price is not None and self.max_price is not None and self.min_price > self.max_price:
            raise ValueError("give min_price ≤ max_price")
        return self


class Search(Conditions):
    """A query by text, picture or both."""

    text: Text | None = None
    image: Picture | None = None
    filters: Filters = Field(default_factory=Filters)

    @model_validator(mode="after")
    def check_query(self) -> "Search":
        """There is something to search with."""
        if not (self.text and self.text.strip()) and not self.image:
            raise ValueError("give `text`, `image` (base64) or both")
        return self

    def params(self, k: int) -> dict[str, Any]:
        """The parameters of the model's search."""
        return _model_params(self, k, self.filters)


class Similar(Conditions):
    """Which products may be similar: as `Search`, with the filters as parameters of the address."""

    category: Names | None = None
    brand: Names | None = None
    color: Names | None = None
    material: Names | None = None

    def params(self, k: int) -> dict[str, Any]:
        """The parameters of the model's search."""
        return _model_params(self, k, self)


class Event(Message):
    """What a user did with a result.

    Attributes:
        request_id: Of the answer that had the product.
    """

    request_id: RequestId
    product_id: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT)]
    kind: Literal["click", "cart"]
    session: Name | None = None


class Result(BaseModel):
    """A product, with the fields that the catalogue has, and `share_text` and so on: contributions to its score."""

    model_config = ConfigDict(extra="allow")

    product_id: str
    title: str | None
    score: float


class Results(BaseModel):
    """The answer to a search, best first."""

    request_id: RequestId
    version: str = Field(description="of the model")
    index: str = Field(description="fingerprint of the catalogue's data")
    results: list[Result]


class Receipt(BaseModel):
    """The answer to an event."""

    request_id: RequestId = Field(description="of this answer")
    kept: bool = Field(description="whether the service has a log")


class ProblemMessage(BaseModel):
    """Why a request is not answered."""

    request_id: RequestId
    error: str


class State(BaseModel):
    """Whether the service can answer."""

    request_id: RequestId
    state: str


def _model_params(conditions: Conditions, k: int, filters: BaseModel) -> dict[str, Any]:
    names = Filters.model_fields
    values = {name: value for name in names if (value := getattr(filters, name)) is not None}
    chosen = conditions.model_dump(include={"min_price", "max_price", "available", "collapse"})
    return {"k": k, "filters": values, **chosen}
