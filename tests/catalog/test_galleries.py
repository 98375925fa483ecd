import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catalog import store
from catalog.files import Files
from catalog.galleries import PICTURES, find_by_id, list_media, split_names
from catalog.images import decode
from catalog.sources import import_data


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.jpg,b.jpg", ["a.jpg", "b.jpg"]),
        ("a.webp|b.gif| c.png", ["a.webp", "b.gif", "c.png"]),
        ("a.jpg; b.jpg\nc.jpg", ["a.jpg", "b.jpg", "c.jpg"]),
        (
            "https://x.test/a?w=1,https://x.test/b,//x.test/c",
            ["https://x.test/a?w=1", "https://x.test/b", "//x.test/c"],
        ),
        ("https://x.test/w_300,h_200/a.jpg", ["https://x.test/w_300,h_200/a.jpg"]),
        ("red, blue.jpg", ["red", "blue.jpg"]),
        (" , ", []),
        (None, []),
    ],
)
def test_lists_of_names(text: str | None, names: list[str]) -> None:
    assert split_names(text) == names


@pytest.fixture
def shop(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    folder = tmp_path / "shop"
    (folder / "photos").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.JPG", "C.Jpeg", "red, blue.png", "photos/sub.png"]):
        (folder / name).write_bytes(png(seed))
    (folder / "products.csv").write_text("product_id,title,image\n")
    return folder


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("/a.png", ["a.png"]),
        ("./a.png", ["a.png"]),
        (r"photos\sub.png", ["sub.png"]),
        (r"\photos\sub.png", ["sub.png"]),
        (r"C:\media\a.png", ["a.png"]),
        ("/pub/media/catalog/b.JPG", ["b.JPG"]),
        ("red, blue.png", ["red, blue.png"]),
        ("photos/sub.png|a.png|/photos/sub.png", ["sub.png", "a.png"]),
        (
            ["a.png", "", {"src": "photos/sub.png", "alt": "x"}, {"position": 1}],
            ["a.png", "sub.png", {"position": 1}],
        ),
        ("", []),
        (None, []),
    ],
)
def test_names_of_files_in_any_spelling(shop: Path, value: object, names: list[object]) -> None:
    with Files(shop / "products.csv") as files:
        media = list_media(files, value)
        assert [getattr(item, "name", item) for item in media] == names
        assert all(item.read() for item in media if not isinstance(item, dict))


@pytest.mark.parametrize("packed", [False, True])
def test_files_by_id_whatever_the_case_of_the_suffix(shop: Path, packed: bool) -> None:
    if packed:
        with zipfile.ZipFile(shop / "photos.zip", "w") as archive:
            for name in ("a.png", "b.JPG", "C.Jpeg"):
                archive.write(shop / name, name)
    with Files(shop / "photos.zip" if packed else shop / "products.csv") as files:
        names = [
            [item.name for item in find_by_id(files, key, PICTURES)]
            for key in ("a", "b", "C", "c", "x/a", None)
        ]
    assert names == [["a.png"], ["b.JPG"], ["C.Jpeg"], [], [], []]


def test_a_gallery_keeps_its_order_and_its_usable_pictures(shop: Path, png: Callable[..., bytes]) -> None:
    (shop / "bad.png").write_bytes(b"<html>")
    lines = ["product_id,title,image", "p,Cup,photos/sub.png|bad.png|a.png", "b,Mug,", "q,Jug,bad.png"]
    (shop / "products.csv").write_text("\n".join(lines))
    import_data("table", shop / "products.csv", shop / "data")
    rows = store.read_table(shop / "data", "products").to_pylist()
    galleries = {row["product_id"]: [picture["path"] for picture in row["images"] or ()] for row in rows}
    assert galleries == {"p": ["sub.png", "a.png"], "b": ["b.JPG"], "q": []}
    rejected = pq.read_table(shop / "data" / "rejected.parquet").to_pylist()
    reason = "not a JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF picture"
    assert [(row["id"], row["reason"]) for row in rejected] == [("p", f"picture 2: {reason}"), ("q", reason)]


def test_an_address_may_have_its_scheme_in_capitals(tmp_path: Path) -> None:
    class Downloads:
        def get(self, address: str) -> bytes:
            return address.encode()

    with Files(tmp_path, Downloads()) as files:
        media = list_media(files, "HTTPS://x.test/A.jpg, //x.test/b.jpg")
        assert [item.read() for item in media] == [b"https://x.test/A.jpg", b"https://x.test/b.jpg"]


@pytest.mark.real
def test_the_pictures_of_the_cases(cases: Path, tmp_path: Path) -> None:
    import_data("table", cases / "pics" / "products.csv", tmp_path / "data")
    rows = store.read_table(tmp_path / "data", "products").to_pylist()
    galleries = {row["product_id"]: [picture["path"] for picture in row["images"] or ()] for row in rows}
    assert galleries["multi"] == galleries["multi2"] == ["webp.webp", "gif.gif"]
    assert galleries["upper"] == ["upper.JPG"] and galleries["upper2"] == ["upper2.JPEG"]
    for key in ("winpath", "leading", "dotslash"):
        assert galleries[key] == ["sub.jpg"]
    broken = {"trunc1", "trunc50", "html", "empty", "huge", "svg", "protocolless", "dataurl"}
    absent = {"bmp", "tif", "one"}  # named, but not in the folder
    assert {key for key, gallery in galleries.items() if not gallery} == broken | absent
    (grey,) = (row["images"][0]["bytes"] for row in rows if row["product_id"] == "i16")
    low, high = decode(grey).getextrema()[0]
    assert (low, high) == (43, 209)  # 11,051 and 53,713 of 65,535
