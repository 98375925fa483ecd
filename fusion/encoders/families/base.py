"""What every family of published encoders offers; a family is the models that one library reads."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fusion.encoders.token_layout import TokenLayout

Settings = Mapping[str, Any]
WIDE, TALL = (96, 64), (64, 96)  # pixels; shapes of pictures for measurements


class TextTower(NamedTuple):
    """A published text encoder.

    Attributes:
        network: Maps the token ids and the mask of `TokenLayout.arrange` to text vectors (B, P) and states (B, L, H).
        config: JSON from which `Family.build_text` builds the network again, without its weights.
        tokenizer: JSON of the tokenizers library.
        layout: How texts are laid out.
        longest: Most tokens of a text, special tokens included.
        model: `fingerprint` of the model of which it is a tower; empty if its vectors do not compare with pictures.
        prompts: Text before each text of a role, "query" or "product".
    """

    network: nn.Module
    config: Settings
    tokenizer: str
    layout: TokenLayout
    longest: int
    model: str = ""
    prompts: Mapping[str, str] = MappingProxyType({})


class ImageTower(NamedTuple):
    """A published image encoder.

    Attributes:
        network: Maps normalised float pictures (N, 3, H, W) to image vectors (N, P) and a map (N, C, h, w).
        config: JSON from which `Family.build_image` and `Family.build_processor` build it again, without its weights.
        any_size: Whether it reads pictures of other sizes than its own.
        model: As in `TextTower`.
    """

    network: nn.Module
    config: Settings
    any_size: bool
    model: str = ""


class Processor(NamedTuple):
    """A library's own preparation of a picture, in two steps.

    Attributes:
        resize: Maps an RGB picture to the pixels that the encoder reads, uint8 (H, W, 3).
        complete: Maps an RGB picture to normalised pixels, float (3, H, W).
    """

    resize: Callable[[Image.Image], np.ndarray]
    complete: Callable[[Image.Image], Tensor]

    def measure_normalisation(self) -> tuple[list[float], list[float]]:
        """The mean and the standard deviation of each channel that `complete` normalises by, of pixels from 0 to 1."""
        black, white = (
            self.complete(Image.new("RGB", WIDE, colour)).double() for colour in ("black", "white")
        )
        middle = black.shape[1] // 2, black.shape[2] // 2
        low, high = black[:, *middle], white[:, *middle]
        return (-low / (high - low)).tolist(), (1 / (high - low)).tolist()

    def measure_size(self) -> tuple[int, int]:
        """Height and width of what `resize` returns, in pixels.

        Raises:
            ValueError: if they depend on the picture.
        """
        shapes = {self.resize(Image.new("RGB", size)).shape for size in (WIDE, TALL)}
        if len(shapes) > 1 or len(next(iter(shapes))) != 3:
            sizes = " and ".join(" × ".join(map(str, shape)) for shape in sorted(shapes))
            raise ValueError(
                f"its processor turns pictures into arrays of {sizes}, but only encoders of one fixed resolution are "
                "supported (not NaFlex)"
            )
        ((height, width, _),) = shapes
        return height, width


class Family:
    """Published encoders that one library reads. A library is imported where it is needed.

    Attributes:
        text_files: The files that a folder must hold for a text encoder; of "A or B", one.
        image_files: Likewise, for an image encoder.
        joint_files: Likewise, for a joint encoder of text and pictures.
        packages: Distributions that build it.
    """

    text_files: ClassVar[tuple[str, ...]] = ()
    image_files: ClassVar[tuple[str, ...]] = ()
    joint_files: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def load_text(self, path: str) -> TextTower:
        """Read a text encoder. Raises exceptions of many kinds; `hub.explain_load_errors` explains them."""
        raise ValueError("it has no text encoder")

    def build_text(self, config: Settings) -> nn.Module:
        """Build the network of a text encoder; its weights are undefined."""
        raise NotImplementedError

    def load_image(self, path: str) -> ImageTower:
        """As `load_text`, for an image encoder."""
        raise ValueError("it has no image encoder")

    def build_image(self, config: Settings) -> nn.Module:
        """As `build_text`, for an image encoder."""
        raise NotImplementedError

    def build_processor(self, config: Settings) -> Processor:
        """Build the preparation of pictures."""
        raise NotImplementedError

    def load_joint(self, path: str) -> Any:
        """As `load_text`, for a model of Sentence Transformers: see `fusion.encoders.joint.JointEncoder`."""
        raise ValueError("it has no joint encoder")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of all weights of a model: equal for towers of the same model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep_children(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Remove the modules and parameters of a model whose name does not start with one of the prefixes."""
    names = [name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False))]
    for name in names:
        if not name.startswith(prefixes):
            delattr(model, name)


def patch_map(states: Tensor) -> Tensor:
    """Turn the states of a vision transformer (N, … + S × S, C), special tokens first, into a map (N, C, S, S)."""
    side = int(states.shape[1] ** 0.5)
    return states[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def pil_steps(transforms: Iterable[Any]) -> Callable[[Image.Image], np.ndarray]:
    """The steps of a torchvision transform before a picture becomes a tensor."""
    steps = list(transforms)
    steps = steps[: next(number for number, step in enumerate(steps) if "ToTensor" in type(step).__name__)]

    def resize(picture: Image.Image) -> np.ndarray:
        for step in steps:
            picture = step(picture)
        return np.asarray(picture)

    return resize
