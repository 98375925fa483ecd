"""The section `validate` of params.yaml."""

from typing import Literal

from pydantic import Field

from catalog.config import Params, Share

Severity = Literal["error", "warning"]


class ValidateParams(Params):
    """Limits for data, and the severity of each rule."""

    min_image_side: int = Field(32, ge=1, description="pixels; the shorter side of a picture")
    max_broken_images: Share = Field(0.01, description="share of pictures that may fail to decode")
    max_duplicate_images: Share = Field(
        0.05, description="share of pictures that are identical to one of another product"
    )
    max_image_bytes: int = Field(20_000_000, ge=1)
    max_image_pixels: int = Field(50_000_000, ge=1)
    max_without_picture: Share = Field(0.5, description="share of products that may have no picture")
    max_sharing: int = Field(20, ge=1, description="products that may share a picture or a description")
    personal: list[str] = Field(default_factory=list, description="columns that may look like personal data")
    languages: list[str] = Field(
        default_factory=list, description="ISO 639-1, of products' texts; none for the most frequent one"
    )
    min_letters: int = Field(
        4, ge=0, description="least letters and digits in a product's title and description"
    )
    max_poor_texts: Share = Field(
        0.01, description="share of products whose texts may be in another language, or too short"
    )
    model_name: str | None = Field(
        None, description="model whose champion the data are compared with, as in register; null for none"
    )
    compared: int = Field(5_000, ge=100, description="products in the sample for the comparison")
    max_drift: float = Field(
        0.25, gt=0, description="largest population stability index from the champion's data"
    )
    min_match: Share = Field(
        0.9, description="least share of other products whose picture or text matches worse, by the champion"
    )
    max_mismatched: Share = Field(0.01, description="share of products that may be below min_match")
    severity: dict[str, Severity] = Field(default_factory=dict, description="rule → error or warning")
    data_docs: bool = Field(
        False,
        description="whether to build Great Expectations' Data Docs; their bytes differ from run to run",
    )
