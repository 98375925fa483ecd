"""The sections of params.yaml, by stage. An unknown key is an error.

Sections that a lower package reads are defined there: `validate` in validation/params.py, `evaluate` in
scoring/params.py, `register` in registry/params.py.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from catalog.config import Params, Share, read_yaml, validate_sections
from catalog.schema import DataError
from registry.params import RegisterParams
from scoring.params import EvaluateParams
from validation.params import ValidateParams


def _name_of(module: str, registry: str) -> AfterValidator:
    """Check that a name is registered; the module imports torch, so it is imported only for the check."""

    def check(name: str) -> str:
        getattr(import_module(module), registry)[name]
        return name

    return AfterValidator(check)


def _check_extent(extent: str) -> str:
    import_module("fusion.encoders.tuning").Extent.parse(extent)  # it imports torch, as above
    return extent


FusionName = Annotated[str, _name_of("fusion.fusions", "FUSIONS")]
LossName = Annotated[str, _name_of("fusion.training.losses", "LOSSES")]
VideoEncoderName = Annotated[str, _name_of("fusion.encoders.video", "ENCODERS")]
ExtentName = Annotated[str, AfterValidator(_check_extent)]


class FeaturizeParams(Params):
    """Encoders and sizes for texts, pictures and clips."""

    text_encoder: str = Field("bilstm", description="bilstm, or a published encoder: docs/encoders.md")
    image_encoder: str = Field("efficientnet_lite0", description="a published encoder: docs/encoders.md")
    image_weights: str | None = Field(
        None, description="path, for encoders whose weights no package contains"
    )
    image_size: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="pixels; side of the white square that a picture is fitted into; null for the encoder's own "
        "preparation (efficientnet_lite0 and torchvision: 96)",
    )
    image_grid: int = Field(3, ge=1, le=16, description="a picture is divided into grid × grid regions")
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="what runs the frozen image encoder: torch, openvino (CPUs only), or auto: OpenVINO on a CPU "
        "where it is installed, else PyTorch",
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="what PyTorch computes image features in; bf16 is for large encoders on GPUs, and changes features",
    )
    joint_encoder: str | None = Field(
        None,
        description="st:PATH, a multimodal embedder of text and pictures together: docs/encoders.md; null for none",
    )
    joint_instruction: str | None = Field(
        None, description="prompt before each query for the joint encoder; null for the model's own"
    )
    joint_dim: int | None = Field(
        None, ge=1, description="leading components of joint vectors to keep (Matryoshka); null for all"
    )
    max_pictures: int = Field(4, ge=1, le=32, description="pictures per product, the main one first")
    ocr: Annotated[str, _name_of("fusion.encoders.ocr", "READERS")] | None = Field(
        None,
        description="what reads the text on products' pictures, for BM25 and the text encoder: rapidocr; null to read "
        "none",
    )
    keep_pictures: bool = Field(
        False, description="whether to keep pictures with their features, for train.tune.image"
    )
    video_encoder: VideoEncoderName = Field(
        "conv3d", description="conv3d or r3d_18; for the products that have clips"
    )
    video_weights: str | None = Field(None, description="path, as image_weights")
    clip_frames: int = Field(8, ge=1, le=64, description="frames per clip, evenly spaced")
    vocabulary: int = Field(
        20_000,
        ge=1,
        description="most sub-word pieces learned from the texts; not for published text encoders",
    )
    min_count: int = Field(
        2, ge=1, description="least occurrences of a word that is one piece, as vocabulary"
    )
    max_tokens: int = Field(64, ge=1, description="pieces per text; the rest is cut off")
    max_broken_images: Share = Field(
        0.01, description="share of pictures that may be broken; they count as missing"
    )
    max_unreadable: Share = Field(
        0.1, description="share of tokens, and of queries, that the text encoder may fail to read"
    )


class Tune(Params):
    """Layers of published encoders that training changes."""

    text: ExtentName = Field(
        "none",
        description="none, all, last_N such as last_2: the last layers, or lora_R such as lora_16: adapters of rank R",
    )
    image: ExtentName = Field("none", description="likewise; anything but none needs featurize.keep_pictures")


class TrainParams(Params):
    """The model and its training."""

    fusion: FusionName = Field(
        "concat", description="concat, gated, attention, coattention, or one of a plugin"
    )
    dim: int = Field(256, ge=8, multiple_of=8, description="width of the shared space")
    hidden: int = Field(512, ge=8)
    dropout: Share = 0.2
    tune: Tune = Tune()
    loss: LossName = Field(
        "graded", description="graded: substitutes have a gain; binary: only exact matches count"
    )
    alpha: float = Field(0.0, ge=0, description="weight of L_text")
    beta: float = Field(
        0.0, ge=0, description="weight of L_vision, and of the same for clips and joint vectors"
    )
    gamma: float = Field(0.2, ge=0, description="weight of L_tags")
    delta: float = Field(0.1, ge=0, description="weight of L_pairs")
    teacher: str | None = Field(
        None, description="folder of `python -m fusion teach`: vectors of a larger model to imitate"
    )
    distillation: float = Field(1.0, ge=0, description="weight of L_distillation, with a teacher")
    tags: list[str] = Field(
        ["category", "color", "material", "attributes.pattern"],
        description="columns whose values are tags of products; unknown columns are ignored",
    )
    modality_dropout: Share = Field(
        0.2, description="probability that a product loses one of its modalities in a step"
    )
    picture_swap: Share = Field(
        0.0,
        description="probability that a product's text is combined with the picture of another product of its category",
    )
    epochs: int = Field(8, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better validation NDCG@10 before stopping")
    batch_size: int = Field(160, ge=2)
    chunk: int | None = Field(
        None, ge=1, description="items encoded at a time, for batches larger than memory; null for all"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="whether published encoders that are tuned compute activations again for the gradients, in place "
        "of keeping them: less memory, a third more time",
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="what encoders and fusions compute in during training; bf16 is for GPUs; validation and search "
        "compute in float32",
    )
    learning_rate: float = Field(4e-3, gt=0)
    published_rate: float = Field(
        0.01,
        gt=0,
        description="learning rate of published layers that are tuned, as a share of learning_rate; "
        "adapters have ten times as much",
    )
    weight_decay: float = Field(5e-2, ge=0)
    temperature: float = Field(0.07, gt=0, description="initial value; it is learned")
    hard_negatives: bool = Field(
        True, description="whether to use hard negative mining: products that the model wrongly ranks high"
    )
    late_fusion: bool = Field(
        True,
        description="whether to add scores of single modalities, with weights tuned on validation queries",
    )
    seed: int = 0


class IndexParams(Params):
    """How the catalogue is indexed."""

    language: str = Field(
        "auto",
        pattern="^(auto|[a-z]{2})$",
        description="of products, for BM25: an ISO 639-1 code for all, or auto for the column language and, where that "
        "is empty, detection",
    )


SECTIONS: dict[str, type[Params]] = {
    "validate": ValidateParams,
    "featurize": FeaturizeParams,
    "train": TrainParams,
    "index": IndexParams,
    "evaluate": EvaluateParams,
    "register": RegisterParams,
}


def load_section(path: Path, section: str) -> Params:
    """Load one section of params.yaml. All sections are checked, so that every stage reports every error.

    Raises:
        DataError: where the file cannot be read, a section or a key is unknown, or a value is out of range.
    """
    return load_sections(path)[section]


def load_sections(path: Path) -> dict[str, Params]:
    """Load all sections of params.yaml, by stage.

    Raises:
        DataError: where the file cannot be read, a section or a key is unknown, or a value is out of range.
    """
    content = read_yaml(path)
    if not content:
        raise DataError(f"{path}: empty; expected the sections {', '.join(SECTIONS)}")
    return validate_sections(SECTIONS, content, path)


def load_pipeline_params(path: Path) -> dict[str, Any]:
    """Load all sections of params.yaml as plain values, for the pipeline's parameters.

    KFP has no null, so null values are left out; null is the default of every parameter that may be null.
    """
    sections = load_sections(path)
    return {name: section.model_dump(mode="json", exclude_none=True) for name, section in sections.items()}
