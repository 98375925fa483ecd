"""Clips: how `featurize` reads them, and the encoders that training uses, registered with a decorator."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catalog.images import PictureError, decode, fit
from fusion.encoders.weights import build_pretrained
from fusion.plugin_registry import PluginRegistry

KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


class Trunk(NamedTuple):
    """A published network that stays frozen.

    Attributes:
        network: Maps normalised clips (V, 3, F, H, W) to features (V, D).
        mean: Per channel, of pixels scaled to 0–1, as the weights were trained with.
        std: Per channel, likewise.
        fetch_published: Returns the published weights, as a state dict.
    """

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fetch_published: Callable[[], dict[str, Tensor]]


class VideoEncoder(nn.Module):
    """Base class of all video encoders: the part that is trained.

    Args:
        dim: Width of the output.
        dropout: Share dropped in training.

    Attributes:
        size: Pixels; the square that frames are fitted into.
        width: Width of the states of moments, W.
    """

    size: int
    width: int

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()

    @staticmethod
    def trunk() -> Trunk | None:
        """The network that `featurize` runs once on every clip; None keeps the pixels."""
        return None

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Encode V clips.

        Args:
            clips: uint8 pixels (V, F, H, W, 3), or the trunk's features, float16 (V, D).

        Returns:
            float (V, dim), and the states of S moments in order, float (V, S, W).
        """
        raise NotImplementedError


ENCODERS: PluginRegistry[type[VideoEncoder]] = PluginRegistry("video encoder")


@ENCODERS("conv3d")
class Conv3d(VideoEncoder):
    """Three 3-D convolutions over the pixels, then the mean and the maximum over space and time."""

    size, width = 32, 64

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.layers = nn.Sequential(_convolve(3, 16, 1), _convolve(16, 32, 1), _convolve(32, self.width, 2))
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * self.width, dim))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layers(clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
        pooled = torch.cat([maps.mean((2, 3, 4)), maps.amax((2, 3, 4))], 1)
        return self.project(pooled), maps.mean((3, 4)).transpose(1, 2)


def _convolve(channels: int, out_channels: int, time_stride: int) -> nn.Sequential:
    """A convolution that halves height and width and divides the number of frames by `time_stride`."""
    layer = nn.Conv3d(channels, out_channels, 3, stride=(time_stride, 2, 2), padding=1)
    return nn.Sequential(layer, nn.GroupNorm(8, out_channels), nn.GELU())


@ENCODERS("r3d_18")
class R3D18(VideoEncoder):
    """torchvision's 3-D ResNet-18, frozen, and a linear layer on its 512 features."""

    size, width = 112, 512

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(dim, dropout)
        self.normalise = nn.LayerNorm(self.width)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.width, dim))

    @staticmethod
    def trunk() -> Trunk:
        from torchvision.models import video

        network = video.r3d_18(weights=None)
        network.fc = nn.Identity()

        def fetch_published() -> dict[str, Tensor]:
            return video.R3D_18_Weights.DEFAULT.get_state_dict(weights_only=True, check_hash=True)

        return Trunk(network, *KINETICS, fetch_published)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        features = self.normalise(clips.float())
        return self.project(features), features[:, None]


class ClipReader(nn.Module):
    """Turns the frames of a clip into the input of a video encoder.

    Args:
        name: A name of `ENCODERS`.
        frames: Number of evenly spaced frames; a shorter clip repeats some.
        state: Weights of the encoder's trunk; empty without a trunk.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, frames: int, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.name, self.frames, self.size = name, frames, ENCODERS[name].size
        trunk = ENCODERS[name].trunk()
        self.network = trunk and trunk.network
        if trunk and self.network:
            keys = self.network.state_dict().keys()
            self.network.load_state_dict({key: value for key, value in state.items() if key in keys})
            self.register_buffer("mean", 255 * torch.tensor(trunk.mean).view(1, 3, 1, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(trunk.std).view(1, 3, 1, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def pretrained(cls, name: str, frames: int, weights: str | None = None) -> "ClipReader":
        """With the weights of a file or, without a file, the published weights of the encoder's trunk.

        Raises:
            DataError: as `fusion.encoders.weights.build_pretrained`.
        """

        def build(state: dict[str, Tensor]) -> ClipReader:
            return cls(name, frames, state)

        trunk = ENCODERS[name].trunk()
        return (
            build_pretrained("featurize.video", name, weights, trunk.fetch_published, build)
            if trunk
            else build({})
        )

    @classmethod
    def load(cls, name: str, frames: int, path: Path) -> "ClipReader":
        """The inverse of `save`."""
        return cls(name, frames, load_file(path))

    def save(self, path: Path) -> None:
        """Write the trunk's weights as safetensors; without a trunk, the file has no tensors."""
        save_file(self.network.state_dict() if self.network else {}, path)

    def read(self, clip: list[bytes]) -> np.ndarray:
        """Decode a clip of at least one frame: uint8 (F, H, W, 3).

        Raises:
            PictureError: names the broken frame and the reason.
        """
        numbers = np.linspace(0, len(clip) - 1, self.frames).round().astype(int).tolist()
        frames = {}
        for number in set(numbers):
            try:
                frames[number] = fit(decode(clip[number]), self.size)
            except PictureError as error:
                raise PictureError(f"frame {number} of its clip: {error}") from error
        return np.stack([frames[number] for number in numbers])

    @torch.inference_mode()
    def forward(self, clips: np.ndarray) -> np.ndarray:
        """From uint8 (V, F, H, W, 3) to the encoder's input: the same, or the trunk's features, float16 (V, D)."""
        if not self.network:
            return clips
        planes = torch.from_numpy(clips).to(self.mean.device).permute(0, 4, 1, 2, 3).float()
        return self.network((planes - self.mean) / self.std).half().cpu().numpy()
