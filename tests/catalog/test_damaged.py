"""Two hundred damaged inputs: no crash, no hang, no file outside of the folder, no damage without a report."""

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
from catalog.sources import import_data

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
    start, end = sorted(int(at) for at in rng.integers(len(content), size=2))
    return content[:start] + content[end:]


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(int(at) for at in rng.integers(len(content), size=2))
    return content[:end] + content[start:]


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
    "ppm": picture("PPM"),
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
        (f"{name.format(suffix)} {damage.__name__} {seed}", kind, (name.format(suffix), suffix, damage, seed))
        for kind, name, suffixes, damages, seeds in SEEDED
        for suffix in suffixes
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
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive_file:
        if name == "bomb":
            archive_file.writestr("p0.png", bytes(1 << 28))
        elif name == "link":
            link = zipfile.ZipInfo("p0.png")
            link.external_attr = 0o120777 << 16
            archive_file.writestr(link, "../outside.png")
        elif name == "traversal":
            archive_file.writestr("../../p0.png", good)
            archive_file.writestr("/tmp/p0.png", good)  # noqa: S108 - it is not to be written
        elif name == "twice":
            archive_file.writestr("p0.png", good)
            archive_file.writestr("p0.png", b"other")
        elif name == "folder":
            archive_file.writestr("p0.png/", b"")
    if name == "encrypted":
        with zipfile.ZipFile(path, "w") as archive_file:
            archive_file.writestr("p0.png", good)
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


def damage_shop(
    shop: Path, kind: str, detail: Any, draw_clip: Callable[..., bytes]
) -> tuple[Path, dict[str, Path]]:
    """Damage the shop; returns the table to import, and options."""
    table_path, zip_path = shop / "products.csv", shop / "pictures.zip"
    if kind.startswith("clip"):
        _, suffix, damage, seed = detail if kind == "clip" else ("", "", None, 0)
        content = damage(draw_clip(suffix), np.random.default_rng(seed)) if damage else detail
        (shop / "p0.clip").write_bytes(content)
        table_path = shop / "products.jsonl"
        table_path.write_text(
            "\n".join(json.dumps(row) for row in [ROWS[0] | {"video": "p0.clip"}, *ROWS[1:]])
        )
        return table_path, {}
    if kind == "table":
        file, suffix, damage, seed = detail
        content = gzip.compress(table(suffix), mtime=0) if file.endswith(".gz") else table(suffix)
        table_path.unlink()
        table_path = shop / file
        table_path.write_bytes(damage(content, np.random.default_rng(seed)))
    elif kind == "picture":
        _, suffix, damage, seed = detail
        (shop / "p0.png").write_bytes(damage(picture(suffix), np.random.default_rng(seed)))
    elif kind == "content":
        (shop / "p0.png").write_bytes(detail)
    elif kind == "path":
        table_path = shop / "products.jsonl"
        table_path.write_text("\n".join(json.dumps(row) for row in [ROWS[0] | {"image": detail}, *ROWS[1:]]))
    elif kind == "packed":
        table_path = shop / "products.jsonl.gz"
        table_path.write_bytes(gzip.compress(b'{"product_id": "a", "title": "b"}\n' + detail))
    elif kind == "archive":
        archive(zip_path, detail, picture("PNG"))
    else:
        with zipfile.ZipFile(zip_path, "w") as archive_file:
            for row in ROWS:
                archive_file.write(shop / row["image"], row["image"])
        zip_path.write_bytes(detail[2](zip_path.read_bytes(), np.random.default_rng(detail[3])))
    return table_path, {"pictures": zip_path} if zip_path.exists() else {}


def list_entries(folder: Path) -> dict[Path, int]:
    """List the content of a folder without the output of the import."""
    mine = folder / "data"
    return {
        path: path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if not path.is_relative_to(mine) and not path.is_relative_to(folder / ".data.partial")
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("name", "kind", "detail"), CASES, ids=[case[0] for case in CASES])
def test_damage(
    name: str, kind: str, detail: Any, shop: Path, tmp_path: Path, draw_clip: Callable[..., bytes]
) -> None:
    source, options = damage_shop(shop, kind, detail, draw_clip)
    harmless = (
        kind in {"table", "picture", "clip", "zip"} or detail == ""
    )  # some of it leaves what can be read
    before, elsewhere, began = list_entries(tmp_path), set(Path("/tmp").iterdir()), time.monotonic()  # noqa: S108
    try:
        counts = import_data("table", source, tmp_path / "data", **options)
    except DataError as error:
        assert "\n" not in str(error)
        assert not (tmp_path / "data").exists()
    else:
        rejected = tmp_path / "data" / "rejected.parquet"
        assert rejected.exists() == (counts["rejected"] > 0)
        assert harmless or rejected.exists()
        if rejected.exists():
            assert all(row["reason"] and row["where"] for row in pq.read_table(rejected).to_pylist())
        for row in store.read_table(tmp_path / "data", "products").to_pylist():
            assert row["product_id"] and row["title"]
    assert time.monotonic() - began < LONGEST
    assert list_entries(tmp_path) == before
    assert "p0.png" not in {path.name for path in set(Path("/tmp").iterdir()) - elsewhere}  # noqa: S108
