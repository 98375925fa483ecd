"""Two hundred damaged inputs: none crashes or hangs an import, writes outside of its folder, or is kept in silence."""

import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog import store
from catalog.schema import DataError
from catalog.sources import import_from

ROWS = [
    {"product_id": f"p{n}", "title": f"Thing {n}", "price": n + 0.5, "image": f"p{n}.png"} for n in range(20)
]
LONGEST = 20  # seconds that an input may take
Damage = Callable[[bytes, np.random.Generator], bytes]


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(len(content), size=1 + len(content) // 50):
        changed[at] ^= int(rng.integers(1, 256))
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    one, other = sorted(int(at) for at in rng.integers(len(content), size=2))
    return content[:one] + content[other:]


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    one, other = sorted(int(at) for at in rng.integers(len(content), size=2))
    return content[:other] + content[one:]


def sprinkled(content: bytes, rng: np.random.Generator) -> bytes:
    odd = [b"\0", b'"', b"\n", b"\xff\xfe", b",,,", b"{", b"[" * 2000, b"\xed\xa0\x80", b"'", b"1e999"]
    for _ in range(5):
        at = int(rng.integers(len(content)))
        content = content[:at] + odd[int(rng.integers(len(odd)))] + content[at:]
    return content


DAMAGES: tuple[Damage, ...] = (truncated, flipped, cut, doubled, sprinkled)


def table(kind: str) -> bytes:
    if kind == "csv":
        return "\n".join([",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]).encode()
    if kind == "jsonl":
        return "\n".join(json.dumps(row) for row in ROWS).encode()
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def gif(width: int, height: int, frames: int = 1) -> bytes:
    head = (
        b"GIF89a"
        + width.to_bytes(2, "little")
        + height.to_bytes(2, "little")
        + b"\x80\0\0"
        + b"\0" * 3
        + b"\xff" * 3
    )
    frame = (
        b"," + bytes(4) + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0\x02\x02\x4c\x01\0"
    )
    return head + frame * frames + b";"


def png_bomb() -> bytes:
    image = bytearray(picture("PNG"))
    image[16:24] = (50_000).to_bytes(4, "big") * 2
    return bytes(image)


PICTURES = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "svg with entities": b'<!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
    "gif of 4 billion pixels": gif(65_535, 65_535),
    "png of 2.5 billion pixels": png_bomb(),
    "html": b"<html>not found</html>",
    "nothing": b"",
    "tiff": picture("TIFF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "zip": b"PK\x03\x04" + bytes(60),
}
NAMES = [
    "../outside.png",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "..\\outside.png",
    "C:\\windows\\win.ini",
    "file:///etc/passwd",
    "link.png",
    "links/outside.png",
    "loop.png",
    "p0.png/../../outside.png",
    "x" * 5000,
    "p0.png\0.txt",
    "~/.ssh/id_rsa",
    "http://127.0.0.1:1/a.png",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]/a.png",
    "con",
    ".",
    "",
]


SEEDED = [
    ("table", "products.{}", ("csv", "jsonl", "parquet"), DAMAGES, 8),
    ("table", "products.{}.gz", ("csv", "jsonl"), DAMAGES[:3], 2),
    ("picture", "{}", ("JPEG", "PNG", "WEBP", "GIF"), DAMAGES[:3], 3),
    ("clip", "{}", ("GIF", "WEBP", "MP4", "WebM"), DAMAGES[:4], 4),
    ("zip", "{}", ("pictures.zip",), DAMAGES[:4], 6),
]
ARCHIVES = ("bomb", "link", "traversal", "twice", "encrypted", "folder")
CLIPS = {
    "gif of 20,000 frames": gif(1, 1, 20_000),
    "gif of 4 billion pixels": gif(65_535, 65_535, 2),
    "gif of 20 times 9 million pixels": gif(3_000, 3_000, 20),
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "playlist that begins as MP4": b"\0\0\0\x18ftypisom#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "WebM's first bytes": b"\x1a\x45\xdf\xa3" + bytes(1000),
    "html": b"<html>not found</html>",
    "nothing": b"",
}
PACKED = {"line": bytes(1 << 28), "lines": b"[]\n" * 90_000}
CASES: list[tuple[str, str, Any]] = [
    *(
        (f"{name.format(one)} {damage.__name__} {seed}", kind, (name.format(one), one, damage, seed))
        for kind, name, ones, damages, seeds in SEEDED
        for one in ones
        for damage in damages
        for seed in range(seeds)
    ),
    *((name, "content", content) for name, content in PICTURES.items()),
    *((f"clip {name}", "clip content", content) for name, content in CLIPS.items()),
    *((f"path {name[:30]!r}", "path", name) for name in NAMES),
    *((f"zip {name}", "archive", name) for name in ARCHIVES),
    *((f"gz bomb of a {name}", "packed", content) for name, content in PACKED.items()),
]


def archive(path: Path, name: str, good: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        if name == "bomb":
            made.writestr("p0.png", bytes(1 << 28))
        elif name == "link":
            link = zipfile.ZipInfo("p0.png")
            link.external_attr = 0o120777 << 16
            made.writestr(link, "../outside.png")
        elif name == "traversal":
            made.writestr("../../p0.png", good)
            made.writestr("/tmp/p0.png", good)  # noqa: S108 - it is not to be written
        elif name == "twice":
            made.writestr("p0.png", good)
            made.writestr("p0.png", b"other")
        elif name == "folder":
            made.writestr("p0.png/", b"")
    if name == "encrypted":
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("p0.png", good)
        content = bytearray(path.read_bytes())
        content[6] |= 1
        content[content.rindex(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(bytes(content))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a good table, and good pictures; outside of it what nobody may touch."""
    (tmp_path / "outside.png").write_bytes(picture("PNG"))
    folder = tmp_path / "shop"
    folder.mkdir()
    for row in ROWS:
        (folder / row["image"]).write_bytes(picture("PNG"))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "links").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "products.csv").write_bytes(table("csv"))
    return folder


def test_there_are_two_hundred() -> None:
    assert len(CASES) >= 200


def damaged(
    shop: Path, kind: str, what: Any, draw_clip: Callable[..., bytes]
) -> tuple[Path, dict[str, Path]]:
    """Do the damage; the table to import, and options."""
    table_there, packed = shop / "products.csv", shop / "pictures.zip"
    if kind.startswith("clip"):
        _, of, damage, seed = what if kind == "clip" else ("", "", None, 0)
        content = damage(draw_clip(of), np.random.default_rng(seed)) if damage else what
        (shop / "p0.clip").write_bytes(content)
        table_there = shop / "products.jsonl"
        table_there.write_text(
            "\n".join(json.dumps(row) for row in [ROWS[0] | {"video": "p0.clip"}, *ROWS[1:]])
        )
        return table_there, {}
    if kind == "table":
        file, of, damage, seed = what
        content = gzip.compress(table(of), mtime=0) if file.endswith(".gz") else table(of)
        table_there.unlink()
        table_there = shop / file
        table_there.write_bytes(damage(content, np.random.default_rng(seed)))
    elif kind == "picture":
        _, of, damage, seed = what
        (shop / "p0.png").write_bytes(damage(picture(of), np.random.default_rng(seed)))
    elif kind == "content":
        (shop / "p0.png").write_bytes(what)
    elif kind == "path":
        table_there = shop / "products.jsonl"
        table_there.write_text("\n".join(json.dumps(row) for row in [ROWS[0] | {"image": what}, *ROWS[1:]]))
    elif kind == "packed":
        table_there = shop / "products.jsonl.gz"
        table_there.write_bytes(gzip.compress(b'{"product_id": "a", "title": "b"}\n' + what))
    elif kind == "archive":
        archive(packed, what, picture("PNG"))
    else:
        with zipfile.ZipFile(packed, "w") as made:
            for row in ROWS:
                made.write(shop / row["image"], row["image"])
        packed.write_bytes(what[2](packed.read_bytes(), np.random.default_rng(what[3])))
    return table_there, {"pictures": packed} if packed.exists() else {}


def seen(folder: Path) -> dict[Path, int]:
    """All that is in a folder, but for what the import is to write."""
    mine = folder / "data"
    return {
        path: path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if not path.is_relative_to(mine) and not path.is_relative_to(folder / ".data.partial")
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("name", "kind", "what"), CASES, ids=[case[0] for case in CASES])
def test_damage(
    name: str, kind: str, what: Any, shop: Path, tmp_path: Path, draw_clip: Callable[..., bytes]
) -> None:
    source, options = damaged(shop, kind, what, draw_clip)
    harmless = kind in {"table", "picture", "clip", "zip"} or what == ""  # some of it leaves what can be read
    before, elsewhere, began = seen(tmp_path), set(Path("/tmp").iterdir()), time.monotonic()  # noqa: S108
    try:
        found = import_from("table", source, tmp_path / "data", **options)
    except DataError as error:
        assert "\n" not in str(error)
        assert not (tmp_path / "data").exists()
    else:
        rejected = tmp_path / "data" / "rejected.parquet"
        assert rejected.exists() == (found["rejected"] > 0)
        assert harmless or rejected.exists()
        if rejected.exists():
            assert all(row["reason"] and row["where"] for row in pq.read_table(rejected).to_pylist())
        for row in store.read(tmp_path / "data", "products").to_pylist():
            assert row["product_id"] and row["title"]
    assert time.monotonic() - began < LONGEST
    assert seen(tmp_path) == before
    assert "p0.png" not in {path.name for path in set(Path("/tmp").iterdir()) - elsewhere}  # noqa: S108
