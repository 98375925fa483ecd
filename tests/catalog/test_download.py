"""Downloads of pictures from a real server on this machine."""

import re
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
    """Answers by path; `requests` counts. Who is busy answers the third request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.busy = {"/busy": 503, "/429.jpg": 429}
        self.errors: dict[str, int] = {}
        self.moved = {"/moved": "/a.png", "/redir.jpg": "/a.png"}
        self.requests: Counter[str] = Counter()

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Shop

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        if self.path in self.server.busy and self.server.requests[self.path] < 3:
            self.send_response(self.server.busy[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in self.server.errors:
            self.send_error(self.server.errors[self.path])
        elif self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in self.server.pages:
            content = self.server.pages[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + (self.path == "/short.jpg")))
            self.end_headers()
            self.wfile.write(content)
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


@pytest.mark.real
def test_addresses_of_all_kinds(
    cases: Path,
    shop: Shop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0)
    picture = shop.pages["/a.png"]
    good = (
        "/good.jpg",
        "/good.jpg?v=1&w=400",
        "/good.JPG",
        "/noext",
        "/with%20space.jpg",
        "/%C3%96l.jpg",
        "/429.jpg",
    )
    shop.pages |= dict.fromkeys(good, picture)
    shop.pages |= {"/html200.jpg": b"<html>This page has moved</html>", "/short.jpg": picture}
    shop.errors = {"/403.jpg": 403, "/s500.jpg": 500}
    text = (cases / "odd" / "urls.csv").read_text()
    port = re.search(r"127\.0\.0\.1:(\d+)", text)
    assert port
    (tmp_path / "urls.csv").write_text(text.replace(port[1], str(shop.server_port)))
    import_data("table", tmp_path / "urls.csv", tmp_path / "data", private=True)
    pictures = {
        row["product_id"]: [item["bytes"] for item in row["images"] or []]
        for row in store.read_table(tmp_path / "data", "products").to_pylist()
    }
    without = {
        "a404",
        "html",
        "ua403",
        "short",
        "s500",
        "pl",
    }  # an address without a scheme is taken as https
    assert {key for key, contents in pictures.items() if not contents} == without
    assert {tuple(contents) for key, contents in pictures.items() if key not in without} == {
        (picture,),
        (picture, picture),
    }
    assert len(pictures["multi"]) == 2
    assert (
        shop.requests["/good.jpg"] == 1 and shop.requests["/429.jpg"] == 3 and shop.requests["/403.jpg"] == 1
    )
    assert "left out 6, " in capsys.readouterr().err
