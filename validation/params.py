"""The section `validate` of params.yaml."""

from typing import Literal

from pydantic import Field

from catalog.config import Params, Share

Severity = Literal["error", "warning"]


class ValidateParams(Params):
    """What is checked, and whether a breach stops the chain."""

    min_image_side: int = Field(32, ge=1, description="pixels; the shorter side of a picture")
    max_broken_images: Share = Field(0.01, description="share of pictures that may fail to decode")
    max_duplicate_images: Share = Field(
        0.05, description="share of pictures whose pixels occur on another product"
    )
    max_image_bytes: int = Field(20_000_000, ge=1)
    max_image_pixels: int = Field(50_000_000, ge=1)
    max_without_picture: Share = Field(0.5, description="share of products that may have none")
    max_sharing: int = Field(20, ge=1, description="products that may show the same picture, or say the same")
    personal: list[str] = Field(
        default_factory=list, description="columns of files that may look like personal data"
    )
    languages: list[str] = Field(
        default_factory=list, description="ISO 639-1, of products' texts; none for the one that most are in"
    )
    min_letters: int = Field(4, ge=0, description="and digits, of a product's title and description")
    max_poor_texts: Share = Field(
        0.01, description="share of products whose texts may be in another language; or have fewer letters"
    )
    model_name: str | None = Field(
        None, description="whose champion looks at the data, as in register; null for nobody's"
    )
    compared: int = Field(5_000, ge=100, description="products drawn for it to look at")
    max_drift: float = Field(
        0.25, gt=0, description="population stability index, from the champion's data to these"
    )
    min_match: Share = Field(
        0.9, description="share of other products whose picture or text fits worse, to the champion"
    )
    max_mismatched: Share = Field(0.01, description="share of products that may be below min_match")
    severity: dict[str, Severity] = Field(default_factory=dict, description="rule → error or warning")
    data_docs: bool = Field(
        False,
        description="whether to build Great Expectations' Data Docs, whose bytes differ from run to run",
    )
