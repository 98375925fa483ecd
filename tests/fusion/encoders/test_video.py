from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from catalog.images import PictureError
from catalog.schema import DataError
from fusion.encoders.video import ENCODERS, ClipReader, VideoEncoder

DIM = 16


@pytest.fixture(scope="module")
def r3d() -> dict[str, Tensor]:
    """A randomly initialised r3d_18, as its state dict is published: with the classifier."""
    from torchvision.models import video

    torch.manual_seed(0)
    return video.r3d_18(weights=None).state_dict()


@pytest.fixture
def trunks(r3d: dict[str, Tensor], tmp_path: Path) -> dict[str, str | None]:
    """Where each encoder's published weights lie."""
    save_file(r3d, tmp_path / "r3d.safetensors")
    return dict.fromkeys(ENCODERS.entries) | {"r3d_18": str(tmp_path / "r3d.safetensors")}


@pytest.fixture(params=list(ENCODERS.entries))
def encoder(request: pytest.FixtureRequest) -> VideoEncoder:
    torch.manual_seed(0)
    return ENCODERS[request.param](DIM, 0.0).eval()


def clips(encoder: VideoEncoder) -> Tensor:
    """Three clips, as `ClipReader` returns them."""
    rng = np.random.default_rng(0)
    if encoder.trunk():
        return torch.from_numpy(rng.normal(size=(3, encoder.width)).astype(np.float16))
    return torch.from_numpy(rng.integers(0, 256, (3, 8, encoder.size, encoder.size, 3), dtype=np.uint8))


def test_clips_are_encoded_one_by_one(encoder: VideoEncoder) -> None:
    batch = clips(encoder)
    pooled, states = encoder(batch)
    assert pooled.shape == (3, DIM)
    assert states.ndim == 3 and states.shape[::2] == (3, encoder.width)
    assert torch.pdist(pooled).min() > 1e-3
    for row in range(3):
        single_pooled, single_states = encoder(batch[row : row + 1])
        torch.testing.assert_close(single_pooled[0], pooled[row], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(single_states[0], states[row], atol=1e-5, rtol=1e-4)


def test_every_weight_learns(encoder: VideoEncoder) -> None:
    encoder.train()(clips(encoder))[0].square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_conv3d_tells_a_clip_from_its_reverse() -> None:
    """Learned from 40 clips of a bar that moves up or down: the frames are the same, their order differs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def bars(count: int) -> tuple[Tensor, Tensor]:
        down = rng.integers(0, 2, count)
        pixels = rng.integers(0, 40, (count, 8, 32, 32, 3)).astype(np.uint8)
        for clip, way in zip(pixels, down, strict=True):
            top = 3 * np.arange(8)[:: 1 if way else -1] + rng.integers(0, 6)
            for frame, row in zip(clip, top, strict=True):
                frame[row : row + 4] = 220
        return torch.from_numpy(pixels), torch.from_numpy(down)

    encoder = nn.Sequential(ENCODERS["conv3d"](DIM, 0.0))
    head = nn.Linear(DIM, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=5e-3)
    seen, ways = bars(40)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(encoder(seen)[0]), ways).backward()
        optimizer.step()
    unseen, expected = bars(40)
    with torch.inference_mode():
        assert (head(encoder(unseen)[0]).argmax(1) == expected).float().mean() > 0.9


@pytest.mark.parametrize("name", list(ENCODERS.entries))
def test_clips_of_any_length_have_one_shape(
    trunks: dict[str, str | None], name: str, png: Callable[..., bytes]
) -> None:
    """And the encoder can read them."""
    reader = ClipReader.pretrained(name, 8, trunks[name])
    frames = [png(seed) for seed in range(11)]
    read = np.stack([reader.read(frames), reader.read(frames[:3]), reader.read(frames[:1])])
    assert read.shape == (3, 8, reader.size, reader.size, 3)
    assert read.dtype == np.uint8
    assert (read[2] == read[2, 0]).all()
    assert (read[0, 0] == read[1, 0]).all() and (read[0, 0] != read[0, -1]).any(), "from first to last"
    encoder_input = reader(read)
    pooled, _ = ENCODERS[name](DIM, 0.0)(torch.from_numpy(encoder_input))
    assert pooled.shape == (3, DIM)
    assert np.array_equal(encoder_input, read) == (ENCODERS[name].trunk() is None)


@pytest.mark.parametrize("name", list(ENCODERS.entries))
def test_survives_saving(
    trunks: dict[str, str | None], name: str, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    reader = ClipReader.pretrained(name, 4, trunks[name])
    reader.save(tmp_path / "clips.safetensors")
    loaded = ClipReader.load(name, 4, tmp_path / "clips.safetensors")
    read = reader.read([png(seed) for seed in range(4)])[None]
    assert np.array_equal(loaded(read), reader(read))


def test_r3d_is_that_of_torchvision(
    r3d: dict[str, Tensor], trunks: dict[str, str | None], png: Callable[..., bytes]
) -> None:
    from torchvision.models import video

    reader = ClipReader.pretrained("r3d_18", 8, trunks["r3d_18"])
    read = reader.read([png(seed) for seed in range(8)])[None]
    network = video.r3d_18(weights=None).eval()
    network.load_state_dict(r3d)
    prepare = video.R3D_18_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values) for values in (prepare.mean, prepare.std))
    scaled = ((torch.from_numpy(read) / 255 - mean) / std).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        scores = network(scaled)
        reader_scores = network.fc(torch.from_numpy(reader(read)).float())
    torch.testing.assert_close(reader_scores, scores, atol=5e-3, rtol=1e-2)


def test_a_broken_frame_is_named(png: Callable[..., bytes]) -> None:
    with pytest.raises(PictureError, match="frame 2 of its clip: "):
        ClipReader("conv3d", 4, {}).read([png(0), png(1), b"", png(3)])


def test_weights_out_of_reach(tmp_path: Path) -> None:
    message = r"featurize\.video_encoder: r3d_18: weights .*absent.*featurize\.video_weights"
    with pytest.raises(DataError, match=message):
        ClipReader.pretrained("r3d_18", 8, str(tmp_path / "absent.safetensors"))
