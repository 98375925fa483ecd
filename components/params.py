"""The sections of params.yaml, one model each. A key that is not listed here is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.schema import EXACT, GAINS, DataError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(gt=0)]
Extent = Annotated[str, Field(pattern=r"^(all|none|last_[1-9]\d*)$")]  # see fusion.weights.freeze
Severity = Literal["error", "warning"]


P = TypeVar("P", bound="Params")


class Params(BaseModel):
    """A section: frozen, and strict about unknown keys and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class FeaturizeParams(Params):
    """How text and pictures become arrays."""

    text_encoder: str = Field("bilstm", description="see fusion.text.Start.find")
    image_encoder: str = Field("efficientnet_lite0", description="see fusion.image.architecture")
    image_weights: str | None = Field(None, description="path, for encoders whose weights no package ships")
    image_size: int = Field(96, ge=32, le=1024, description="pixels; the square a picture is fitted into")
    image_grid: int = Field(3, ge=1, le=16, description="a picture is divided into grid × grid regions")
    keep_pictures: bool = Field(
        False, description="whether pictures stay beside their features, for train.freeze.image"
    )
    video_encoder: Literal["conv3d", "r3d_18"] = Field(
        "conv3d", description="for the products that have clips"
    )
    video_weights: str | None = Field(None, description="path, as image_weights")
    clip_frames: int = Field(8, ge=1, le=64, description="taken from a clip, evenly spaced")
    vocabulary: int = Field(20_000, ge=1, description="most frequent words kept")
    min_count: int = Field(2, ge=1, description="occurrences below which a word is unknown")
    max_tokens: int = Field(64, ge=1, description="words kept of a text")
    max_broken_images: Share = Field(0.01, description="share of pictures that may be skipped as missing")


class Freeze(Params):
    """Layers of published encoders that training leaves as they are."""

    text: Extent = "all"
    image: Extent = Field(default="all", description="anything else needs featurize.keep_pictures")


class TrainParams(Params):
    """The model and its training."""

    fusion: Literal["concat", "gated", "attention", "coattention"] = "concat"
    dim: int = Field(256, ge=8, multiple_of=8, description="width of the shared space")
    hidden: int = Field(512, ge=8)
    dropout: Share = 0.2
    freeze: Freeze = Freeze()
    loss: Literal["graded", "binary"] = Field("graded", description="whether substitutes count for something")
    alpha: float = Field(0.0, ge=0, description="weight of L_text")
    beta: float = Field(0.0, ge=0, description="weight of L_vision, and of the same for clips")
    gamma: float = Field(0.2, ge=0, description="weight of L_tags")
    delta: float = Field(0.1, ge=0, description="weight of L_pairs")
    tags: list[str] = Field(
        ["category", "color", "material", "attributes.pattern"],
        description="columns whose values products are tagged with; those that a catalogue lacks are left out",
    )
    modality_dropout: Share = Field(
        0.2, description="chance that a product loses one of its modalities in a step"
    )
    picture_swap: Share = Field(
        0.0,
        description="chance that a product's words stand beside the picture of another one of its category",
    )
    epochs: int = Field(8, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better validation NDCG@10 before stopping")
    batch_size: int = Field(160, ge=2)
    chunk: int | None = Field(
        None, ge=1, description="items encoded at a time, for batches larger than memory; null for all"
    )
    learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(5e-2, ge=0)
    temperature: float = Field(0.07, gt=0, description="initial; it is learned")
    hard_negatives: bool = Field(
        True, description="whether judged queries meet products that the model wrongly ranks high"
    )
    late_fusion: bool = Field(
        True, description="whether single modalities count beside the fused vector, as validation queries say"
    )
    seed: int = 0


class EvaluateParams(Params):
    """How rankings are judged."""

    metrics: list[str] = [
        "ndcg@10",
        "recall@10",
        "recall@100",
        "mrr@10",
        "hit@10",
        "precision@10",
        "judged@10",
    ]
    gains: dict[int, float] = Field(GAINS, description="NDCG gain of each grade; the default is ESCI's")
    relevant: int = Field(
        EXACT, ge=1, description="grade from which recall, MRR, hit and precision count a product"
    )
    depth: int = Field(100, ge=1, description="products kept per query and system")
    resamples: int = Field(10_000, ge=100, description="for paired tests and intervals")
    seed: int = 0


class RegisterParams(Params):
    """Who may be promoted."""

    model_name: str = "product-search"
    primary: str = Field("ndcg@10", description="the metric on which a challenger must win")
    min_gain: float = Field(
        0.0, description="required gain over the champion, absolute; its interval must lie above"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    margins: dict[str, Loss] = Field(
        {"recall@100": 0.02, "mrr@10": 0.02},
        description="metric → loss against the champion that is too much",
    )
    floors: dict[str, float] = Field({"ndcg@10": 0.3}, description="metric or fact → lowest value allowed")
    budgets: dict[str, float] = Field(
        {"latency_ms_p95": 200.0, "index_mb": 1000.0, "model_mb": 500.0, "validation_warnings": 5},
        description="fact → highest value allowed",
    )
    min_rating: float | None = Field(
        None, ge=1, le=5, description="lowest mean rating of a candidate that a survey has rated"
    )
    min_segment: int = Field(20, ge=2, description="queries a segment needs before it is tested")
    promote: Literal["manual", "auto"] = "manual"


SECTIONS: dict[str, type[Params]] = {
    "validate": ValidateParams,
    "featurize": FeaturizeParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "register": RegisterParams,
}


def load(path: Path, section: str) -> Params:
    """One section of params.yaml, checked.

    Raises:
        DataError: where the file or the section cannot be read, a key is unknown or a value out of range.
    """
    content = document(path)
    unknown = set(content) - set(SECTIONS)
    if unknown or not content:
        what = (
            f"unknown section {', '.join(sorted(unknown))}; known are" if unknown else "expected the sections"
        )
        raise DataError(f"{path}: {what} {', '.join(SECTIONS)}")
    return checked(SECTIONS[section], content.get(section) or {}, path, section)


def sections(file: Path) -> dict[str, Any]:
    """All of params.yaml, checked, as plain values: what the pipeline takes as its parameters.

    KFP has no null, so what is null is left out; null is the default of every parameter that may be.
    """
    return {name: load(file, name).model_dump(mode="json", exclude_none=True) for name in SECTIONS}


def document(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values; nothing in it is nothing.

    Raises:
        DataError: where it cannot be read, or is something else.
    """
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys and values, found a {type(content).__name__}")
    return content


def checked(model: type[P], content: Mapping[str, Any], path: Path, *at: str) -> P:
    """Values of a file as its model, with every fault told at once.

    Args:
        model: What is expected.
        content: What was found.
        path: The file.
        at: Keys under which it was found there.

    Raises:
        DataError: where a key is unknown or a value out of range.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, (*at, *e['loc'])))}: {_reason(model, e)}" for e in error.errors()]
        raise DataError(f"{path}: {'; '.join(faults)}") from error


def _within(annotation: Any) -> type[Params] | None:
    """The model that an annotation names, such as that of `dict[str, Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        return annotation
    return next((found for part in get_args(annotation) if (found := _within(part))), None)


def _reason(model: type[Params], error: "ErrorDetails") -> str:
    if error["type"] == "extra_forbidden":
        for key in error["loc"][:-1]:
            if key in model.model_fields:
                model = _within(model.model_fields[str(key)].annotation) or model
        return f"unknown key; known are {', '.join(model.model_fields)}"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    return f"{error['msg']}, got {error['input']!r}"
