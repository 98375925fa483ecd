"""Models of Sentence Transformers: a transformer, then poolings, projections and norms. Texts, or also pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor, nn

from fusion.encoders import hub
from fusion.encoders.families.base import Family, ImageTower, Processor, Settings, TextTower, fingerprint
from fusion.encoders.families.dual_encoders import DualEncoders, ImageNetwork, TextNetwork, read_dual_layout
from fusion.encoders.vocabulary import Vocabulary

LIBRARY = "sentence_transformers"
SUFFIXES = (
    ".json",
    ".safetensors",
    ".jinja",
    ".txt",
    ".model",
)  # of a model's files; not of pickles and code
DOCUMENT = ("document", "passage", "corpus")  # names of the prompt before a product, in order of preference


class _Pooled(nn.Module):
    """A text encoder or a tower, followed by the modules that turn its states into a vector.

    Args:
        model: Of transformers; `TextNetwork` or `ImageNetwork`, if it is a dual encoder.
        modules: Of Sentence Transformers.
        dim: Leading components of the vector to keep (Matryoshka); None for all.
    """

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module], dim: int | None) -> None:
        super().__init__()
        self.model, self.dim = model, dim
        # letters: numbers would count as layers in `fusion.encoders.tuning.numbered_layers`
        self.stages = nn.ModuleDict(dict(zip(ascii_lowercase, modules, strict=False)))

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features: dict[str, Tensor] = {}
        if isinstance(self.model, ImageNetwork):
            features["sentence_embedding"], states = self.model(inputs)
        elif isinstance(self.model, TextNetwork):
            features["sentence_embedding"], states = self.model(inputs, mask)
        else:
            states = self.model(input_ids=inputs, attention_mask=mask).last_hidden_state
            features |= {"token_embeddings": states}
        if mask is not None:
            features["attention_mask"] = mask
        for stage in self.stages.values():
            features = stage(features)
        return features["sentence_embedding"][:, : self.dim], states


class SentenceTransformers(Family):
    """Models that Sentence Transformers loads, whose first module is a transformer."""

    text_files = image_files = joint_files = ("modules.json",)
    packages = ("sentence-transformers", "transformers")

    def load_text(self, path: str) -> TextTower:
        sentence_model = _load_model(path)
        first = sentence_model[0]
        key = fingerprint(sentence_model.state_dict()) if _is_dual(first) else ""
        config = _describe(sentence_model)
        if _is_dual(first):
            layout, longest = read_dual_layout(first.tokenizer, first.model)
            network: nn.Module = TextNetwork(first.model)
        else:
            if first.modality_config["text"]["method"] != "forward":
                raise ValueError("its first module reads texts in a way that is not known")
            layout, longest = hub.read_layout(first.tokenizer, first.tokenizer.model_max_length)
            layout, network = replace(layout, masked=True), first.model
        tokenizer = first.tokenizer.backend_tokenizer.to_str()
        prompts, vocabulary = read_prompts(sentence_model.prompts), Vocabulary(tokenizer)
        pieces = {role: vocabulary.prompt_pieces(prompt) for role, prompt in prompts.items()}
        tower = _Pooled(network, list(sentence_model)[1:], config["dim"])
        return TextTower(tower, config, tokenizer, replace(layout, prompts=pieces), longest, key, prompts)

    def build_text(self, config: Settings) -> nn.Module:
        model = hub.build_model(config["architecture"], config["model"])
        network = TextNetwork(model) if hasattr(model, "get_text_features") else model
        return _Pooled(network, _build_stages(config["stages"]), config["dim"]).eval()

    def load_image(self, path: str) -> ImageTower:
        sentence_model = _load_model(path)
        first = sentence_model[0]
        if not _is_dual(first):
            raise ValueError("it has no image tower beside a text tower")
        key = fingerprint(sentence_model.state_dict())
        config = _describe(sentence_model)
        config["processor"] = hub.extract_settings(first.processor.image_processor)
        network = ImageNetwork(first.model)
        tower = _Pooled(network, list(sentence_model)[1:], config["dim"])
        return ImageTower(tower, config, network.any_size, key)

    def build_image(self, config: Settings) -> nn.Module:
        network = ImageNetwork(hub.build_model(config["architecture"], config["model"]))
        return _Pooled(network, _build_stages(config["stages"]), config["dim"]).eval()

    def build_processor(self, config: Settings) -> Processor:
        return DualEncoders().build_processor(config)

    def load_joint(self, path: str) -> Any:
        if list(Path(path).rglob("adapter_config.json")):
            raise ValueError("it is an adapter of another model; merge it into that and save the whole")
        sentence_model = _load_model(path, *choose_device())
        if not {"message", "image"} <= set(sentence_model[0].modality_config):
            raise ValueError("it does not read text and pictures together, as messages of a chat")
        return sentence_model


def choose_device() -> tuple[str, torch.dtype]:
    """The device of a large model, and what it computes in there."""
    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)


def list_files(folder: Path) -> list[Path]:
    """The files of a model, as paths in its folder: those of `SUFFIXES` in the folder and in those of its modules."""
    modules = json.loads((folder / "modules.json").read_text())
    places = {folder, *(folder / module["path"] for module in modules)}
    files = (path for place in places for path in place.iterdir())
    return sorted(path.relative_to(folder) for path in files if path.suffix in SUFFIXES)


def _load_model(path: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    _check_modules(Path(path))
    pickles = [file.parent for file in Path(path).rglob("pytorch_model.bin")]
    if missing := [folder for folder in pickles if not list(folder.glob("*.safetensors"))]:
        raise FileNotFoundError(
            f"it lacks {', '.join(str(folder / 'model.safetensors') for folder in missing)}"
        )
    with hub.quiet_transformers():
        model = SentenceTransformer(
            path,
            device=device,
            trust_remote_code=False,
            local_files_only=Path(path).is_dir(),
            model_kwargs={"use_safetensors": True, "dtype": dtype},
        )
    if not isinstance(model[0], Transformer):
        raise ValueError(f"its first module is a {type(model[0]).__name__}, not a Transformer")
    return model.eval()


def _check_modules(folder: Path) -> None:
    """Check that the modules of a folder are those of the library, before one of them is imported, and lie in it.

    Raises:
        ValueError: names the module that is not, or does not.
    """
    modules = json.loads((folder / "modules.json").read_text()) if folder.is_dir() else []
    for module in modules:
        if not module["type"].startswith(f"{LIBRARY}."):
            raise ValueError(f"its module {module['type']} is not part of Sentence Transformers")
        if not (folder / module["path"]).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"its module {module['path']} is outside of the folder")


def _is_dual(first: Any) -> bool:
    """Whether the first module is a dual encoder, whose towers give vectors of their own."""
    methods = [modality["method"] for modality in first.modality_config.values()]
    return {"get_text_features", "get_image_features"} <= set(methods)


def read_prompts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts by role, as its `encode_query` and `encode_document` choose them."""
    document = next((name for name in DOCUMENT if name in prompts), "")
    chosen = {"query": prompts.get("query"), "product": prompts.get(document)}
    return {role: prompt for role, prompt in chosen.items() if prompt}


def _describe(sentence_model: Any) -> dict[str, Any]:
    """JSON from which `SentenceTransformers` builds the model again.

    Raises:
        ValueError: for modules that are not part of the library, or leave prompts out of the pooling.
    """
    model = sentence_model[0].model
    stages = []
    for module in list(sentence_model)[1:]:
        place, name = type(module).__module__, type(module).__name__
        if not place.startswith(f"{LIBRARY}."):
            raise ValueError(f"its module {place}.{name} is not part of Sentence Transformers")
        stages.append([place, name, module.get_config_dict()])
        if stages[-1][2].get("include_prompt") is False:
            raise ValueError("its pooling leaves prompts out (include_prompt)")
    return {
        "architecture": type(model).__name__,
        "model": hub.extract_config(model),
        "stages": stages,
        "dim": sentence_model.truncate_dim,
    }


def _build_stages(stages: Sequence[tuple[str, str, dict[str, Any]]]) -> list[nn.Module]:
    """Build the modules after the first; weights are random."""
    modules = []
    for place, name, config in stages:
        activation = config.get("activation_function")
        options = {"activation_function": getattr(nn, activation.rpartition(".")[2])()} if activation else {}
        modules.append(getattr(import_module(place), name)(**config | options))
    return modules
