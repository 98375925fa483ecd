"""Downloads of pictures from a real server on this machine."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from catalog import download, store
from catalog.download import Downloader
from catalog.images import Limits
from catalog.sources import import_data


class Shop(ThreadingHTTPServer):
    """Answers by path; `requests` counts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Shop

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        if self.path == "/busy" and self.server.requests[self.path] < 3:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in self.server.pages:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.pages[self.path])
        else:
            self.send_error(404)


@pytest.fixture
def shop(png: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    server = Shop()
    server.pages = {"/a.png": png(1), "/busy": png(2)}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_there_comes_once(shop: Shop, tmp_path: Path) -> None:
    with Downloader(tmp_path / "m", private=True) as downloader:
        assert downloader.get(shop.at("/a.png")) == downloader.get(shop.at("/a.png")) == shop.pages["/a.png"]
        assert downloader.get(shop.at("/busy")) == shop.pages["/busy"] and shop.requests["/busy"] == 3
        assert downloader.get(shop.at("/moved")) == shop.pages["/a.png"]
        with pytest.raises(ValueError, match="/none: the server answered 404"):
            downloader.get(shop.at("/none"))
    with Downloader(tmp_path / "m", private=True) as downloader:  # as after a kill
        assert downloader.get(shop.at("/busy"))
        with pytest.raises(ValueError, match="/none: the server answered 404"):
            downloader.get(shop.at("/none"))
        downloader.clear()
    assert (
        shop.requests == {"/a.png": 2, "/busy": 3, "/moved": 1, "/none": 1} and not (tmp_path / "m").exists()
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"])  # noqa: S104
def test_a_private_server_is_not_asked(host: str, shop: Shop, tmp_path: Path) -> None:
    with (
        Downloader(tmp_path / "m") as downloader,
        pytest.raises(ValueError, match=r"has a private address|cannot be downloaded"),
    ):
        downloader.get(f"http://{host}:{shop.server_port}/a.png")
    assert not shop.requests


def test_limits(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.pages["/big"] = bytes(Limits().max_bytes + 1)
    with Downloader(tmp_path / "m", private=True) as downloader:
        with pytest.raises(ValueError, match="/big: more than 20,000,000 bytes"):
            downloader.get(shop.at("/big"))
        monkeypatch.setattr(download, "TIMEOUT", -1)
        with pytest.raises(ValueError, match="not downloaded within -1 seconds"):
            downloader.get(shop.at("/a.png"))
        for address in ("http://", "http://host:port/", "http://no.such.host.invalid/a.png"):
            with pytest.raises(ValueError, match="cannot be downloaded"):
                downloader.get(address)


def test_a_table_of_addresses(shop: Shop, tmp_path: Path) -> None:
    shop.pages["/page.html"] = b"<html>"
    names = ["/a.png", "/busy", "/page.html", "/none", ""]
    rows = [f"{n},t,{shop.at(name) if name else ''}" for n, name in enumerate(names)]
    (tmp_path / "products.csv").write_text("\n".join(["product_id,title,image", *rows]))
    counts = import_data("table", tmp_path / "products.csv", tmp_path / "data", private=True)
    assert counts["products"] == 5 and counts["rejected"] == 2
    pictures = [
        row["images"] and row["images"][0]["path"]
        for row in store.read_table(tmp_path / "data", "products").to_pylist()
    ]
    assert pictures == ["a.png", "busy", None, None, None]
    assert {path.name for path in tmp_path.iterdir()} == {"products.csv", "data"}
