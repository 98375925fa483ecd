import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catalog.schema import DataError
from fusion.encoders import runtime
from fusion.encoders.image import ENCODERS, Architecture, ImageEncoder
from fusion.encoders.runtime import OpenVinoSession, Session, TorchSession, open_session

SIDE, GRID, WIDTH = 32, 2, 8
SHAPE = SIDE, SIDE
HALF = {"rtol": 1e-3, "atol": 1e-3}
PICTURES = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)
MakeEncoder = Callable[..., ImageEncoder]


class Tiny(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, WIDTH, 4, stride=4), nn.BatchNorm2d(WIDTH), nn.ReLU())

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layers(pictures)
        return maps.mean((2, 3)), maps


class Counting(Tiny):
    """Its features depend on the size of the batch, which a trace keeps."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        pooled, maps = super().forward(pictures)
        return pooled + float(len(pictures)), maps


class Fixed(Tiny):
    """The size of the batch is part of a shape, which a trace keeps."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        pooled, maps = super().forward(pictures)
        return torch.cat([pooled[:, 1:], torch.zeros(1, 1).expand(len(pooled), -1)], 1), maps


class Complex(Tiny):
    """Has an operation that OpenVINO does not know."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        pooled, maps = super().forward(pictures)
        return torch.linalg.qr(maps.flatten(2)).R.mean(2) + pooled, maps


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of exported encoders in an empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitrine" / "encoders"


@pytest.fixture
def make_encoder(monkeypatch: pytest.MonkeyPatch) -> MakeEncoder:
    """An encoder around a network: make_encoder(network, grid)."""

    def make(network: nn.Module, grid: int = GRID) -> ImageEncoder:
        def design(_: str, __: Mapping[str, Any]) -> Architecture:
            return Architecture(network, WIDTH, WIDTH, (0.5,) * 3, (0.25,) * 3, dict)

        monkeypatch.setitem(ENCODERS.entries, "tiny", design)
        return ImageEncoder("tiny", grid, network.state_dict())

    return make


@pytest.fixture
def encoder(make_encoder: MakeEncoder) -> ImageEncoder:
    return make_encoder(Tiny())


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_export", lambda *_: pytest.fail("exported again"))


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)


def same_bytes(first: Session, second: Session) -> bool:
    pairs = zip(first(PICTURES), second(PICTURES), strict=True)
    return all(ours.tobytes() == theirs.tobytes() for ours, theirs in pairs)


def test_the_features_are_pytorchs(encoder: ImageEncoder) -> None:
    for ours, theirs in zip(
        OpenVinoSession(encoder, SHAPE)(PICTURES), TorchSession(encoder)(PICTURES), strict=True
    ):
        assert ours.dtype == theirs.dtype == np.float16 and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, **HALF)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_bytes_do_not_depend_on_the_batch(encoder: ImageEncoder, count: int) -> None:
    session = OpenVinoSession(encoder, SHAPE)
    for whole, part in zip(session(PICTURES), session(PICTURES[:count]), strict=True):
        assert whole[:count].tobytes() == part.tobytes()


def test_threads_take_turns(encoder: ImageEncoder) -> None:
    session = OpenVinoSession(encoder, SHAPE)
    batches = [np.roll(np.tile(PICTURES, (100, 1, 1, 1)), shift, 0) for shift in range(12)]
    expected = [session(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert all(
            np.array_equal(*pair)
            for pair in zip(pool.map(lambda batch: session(batch)[0], batches), expected, strict=True)
        )


def test_the_default_encoder_is_read(encoder: ImageEncoder, cache: Path) -> None:
    """The real default: statistics of maps and histograms of colours, too."""
    published = ImageEncoder.pretrained("efficientnet_lite0", GRID)
    for ours, theirs in zip(
        open_session("auto", published, SHAPE)(PICTURES), TorchSession(published)(PICTURES), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, **HALF)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_it_has_as_many_threads_as_other_pools(
    encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(runtime, "cpu_count", lambda: threads)
    assert OpenVinoSession(encoder, SHAPE).network.get_property("INFERENCE_NUM_THREADS") == threads


def test_nothing_reports_to_the_makers_of_openvino(encoder: ImageEncoder) -> None:
    OpenVinoSession(encoder, SHAPE)
    assert sys.modules["openvino_telemetry"] is None


class TestTheCache:
    def test_an_encoder_is_exported_once(
        self, encoder: ImageEncoder, cache: Path, request: pytest.FixtureRequest
    ) -> None:
        first = OpenVinoSession(encoder, SHAPE)
        assert sorted(path.name for path in cache.glob("*/*")) == ["digest", "encoder.bin", "encoder.xml"]
        request.getfixturevalue("without_export")
        assert same_bytes(first, OpenVinoSession(encoder, SHAPE))

    @pytest.mark.parametrize("change", ["weights", "shape", "grid", "layers"])
    def test_another_encoder_is_exported(
        self, encoder: ImageEncoder, make_encoder: MakeEncoder, cache: Path, change: str
    ) -> None:
        OpenVinoSession(encoder, SHAPE)
        others = {
            "weights": (make_encoder(Tiny(seed=1)), SHAPE),
            "shape": (encoder, (SIDE, SIDE + 4)),
            "grid": (make_encoder(Tiny(), grid=4), SHAPE),
            "layers": (make_encoder(nn.Sequential(Tiny())), SHAPE),
        }
        OpenVinoSession(*others[change])
        assert len(list(cache.iterdir())) == 2

    @pytest.mark.parametrize("name", ["encoder.xml", "encoder.bin", "digest"])
    @pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{"])
    def test_a_broken_file_is_replaced(
        self, encoder: ImageEncoder, cache: Path, name: str, content: bytes | None
    ) -> None:
        first = OpenVinoSession(encoder, SHAPE)
        (path,) = cache.glob(f"*/{name}")
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert same_bytes(first, OpenVinoSession(encoder, SHAPE))
        assert runtime._is_complete(path.parent)
        assert [folder.name for folder in cache.iterdir()] == [path.parent.name]

    @pytest.mark.parametrize(("module", "name"), [(runtime, "_export"), (shutil, "rmtree")])
    def test_another_process_may_be_faster(
        self, encoder: ImageEncoder, cache: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
    ) -> None:
        """It exports the same encoder after this process has looked for it, or just before it keeps its files."""
        original = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> None:
            original(*arguments, **options)
            monkeypatch.setattr(module, name, original)
            OpenVinoSession(encoder, SHAPE)

        monkeypatch.setattr(module, name, call)
        session = OpenVinoSession(encoder, SHAPE)
        assert same_bytes(session, OpenVinoSession(encoder, SHAPE))
        assert len(list(cache.iterdir())) == 1

    def test_a_folder_that_cannot_be_written_is_not_needed(
        self, encoder: ImageEncoder, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        expected = TorchSession(encoder)(PICTURES)[0]
        np.testing.assert_allclose(OpenVinoSession(encoder, SHAPE)(PICTURES)[0], expected, **HALF)
        assert f"{cache}: cannot write here (Not a directory)" in capsys.readouterr().err
        assert (tmp_path / "cache").read_text() == "a file"

    def test_a_failed_export_leaves_nothing(self, make_encoder: MakeEncoder, cache: Path) -> None:
        with pytest.raises(DataError):
            OpenVinoSession(make_encoder(Complex()), SHAPE)
        assert not list(cache.iterdir())


class TestWhereItDoesNotWork:
    def check(self, encoder: ImageEncoder, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
        """`openvino` refuses, `auto` takes PyTorch and says why in one line."""
        with pytest.raises(
            DataError, match=rf"^featurize\.runtime: openvino: .*{reason}.*, or set it to torch$"
        ):
            open_session("openvino", encoder, SHAPE)
        assert not capsys.readouterr().err
        assert open_session("auto", encoder, SHAPE).name == "torch"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("the image encoder runs in PyTorch, more slowly: ")

    @pytest.mark.usefixtures("without_openvino")
    def test_the_package_is_missing(self, encoder: ImageEncoder, capsys: pytest.CaptureFixture[str]) -> None:
        self.check(encoder, r"not installed; run: pip install 'vitrine\[encoders\]'", capsys)

    def test_a_layer_is_unknown(self, make_encoder: MakeEncoder, capsys: pytest.CaptureFixture[str]) -> None:
        self.check(make_encoder(Complex()), r"OpenVINO cannot run tiny \(OpConversionFailure", capsys)

    def test_the_size_of_a_batch_is_fixed(
        self, make_encoder: MakeEncoder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.check(make_encoder(Fixed()), r"OpenVINO cannot run tiny \(ValueError", capsys)

    def test_its_features_are_others(
        self, make_encoder: MakeEncoder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.check(make_encoder(Counting()), r"features of tiny differ from PyTorch's by ", capsys)

    def test_a_gpu_is_left_to_pytorch(
        self, encoder: ImageEncoder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encoder.to("meta")
        assert open_session("auto", encoder, SHAPE).name == "torch"
        assert not capsys.readouterr().err
        with pytest.raises(DataError, match="the encoder is on a GPU"):
            open_session("openvino", encoder, SHAPE)


@pytest.mark.usefixtures("without_export")
def test_pytorch_exports_nothing(encoder: ImageEncoder, cache: Path) -> None:
    pooled, regions = open_session("torch", encoder, SHAPE)(PICTURES)
    assert (pooled.shape, regions.shape) == ((7, WIDTH), (7, GRID**2, WIDTH))
    assert not cache.exists()


def test_pytorch_computes_in_bfloat16_on_request(encoder: ImageEncoder) -> None:
    """Near the features of float32, but not within the tolerance of a runtime."""
    expected = TorchSession(encoder)(PICTURES)
    outputs = open_session("torch", encoder, SHAPE, "bf16")(PICTURES)
    for features, float_features in zip(outputs, expected, strict=True):
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, float_features, rtol=0.05, atol=0.05)
        assert not np.allclose(features, float_features, **HALF)


def test_openvino_computes_in_float32(encoder: ImageEncoder) -> None:
    session = open_session("auto", encoder, SHAPE, "bf16")
    assert session.name == "openvino" and same_bytes(session, OpenVinoSession(encoder, SHAPE))
