"""Feeds in XML: their values, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from catalog.__main__ import main
from catalog.feeds import MAX_DEPTH, MAX_ELEMENTS, is_feed, read_feed
from catalog.files import Files

HEAD = '<?xml version="1.0"?>'
RSS = '<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel>'
END = "</channel></rss>"
LAUGHS = "<!DOCTYPE lolz [<!ENTITY a 'lol'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

# Prints the growth of the peak memory in KiB; VmHWM is of the process alone, ru_maxrss also of the one that started it.
GROWTH = """
import re, sys
from pathlib import Path
from catalog.feeds import read_feed
from catalog.files import Files

path = Path(sys.argv[1])
def peak():
    return int(re.search("VmHWM:[ \\t]+([0-9]+)", Path("/proc/self/status").read_text())[1])
before = peak()
assert sum(1 for _ in read_feed(Files(path), path.name)) == 30_000
print(peak() - before)
"""


def write_feed(folder: Path, content: str) -> Files:
    (folder / "feed.xml").write_text(content)
    return Files(folder / "feed.xml")


def test_values_are_lists_of_texts_without_namespace(tmp_path: Path) -> None:
    content = f"""{HEAD}{RSS}<language>de</language><item><title>A &amp; B</title><g:id>1</g:id><g:id>2</g:id>
        <description>a <b>bold</b> word<!-- no --></description><link href="https://shop.example"/>
        <g:product_detail><g:section_name>S</g:section_name><g:attribute_name>N</g:attribute_name>
        <g:attribute_value>V</g:attribute_value></g:product_detail></item>{END}"""
    (record,) = read_feed(write_feed(tmp_path, content), "feed.xml")
    assert record.where == "feed.xml line 1"
    assert record.values == {
        "title": ["A & B"],
        "id": ["1", "2"],
        "description": ["a bold word"],
        "link": ["https://shop.example"],
        "product_detail": ["S:N:V"],
        "language": ["de"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEAD}{LAUGHS}]>{RSS}<item><g:id>&i;</g:id></item>{END}", "line 1: declares a DTD"),
        (f'{HEAD}<!DOCTYPE rss SYSTEM "http://localhost/a.dtd">{RSS}{END}', "line 1: declares a DTD"),
        (f"{HEAD}<!DOCTYPE r [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>{RSS}{END}", "declares a DTD"),
        (f"{HEAD}{RSS}<item><g:id>1</g:id>", "not well-formed XML"),
        (f"{HEAD}{RSS}<item><g:id>&nbsp;</g:id></item>{END}", "not well-formed XML"),
        (f"{HEAD}{RSS}{'<a>' * MAX_DEPTH}{'</a>' * MAX_DEPTH}{END}", f"more than {MAX_DEPTH} levels"),
        (
            f"{HEAD}{RSS}<item>{'<a/>' * (MAX_ELEMENTS + 1)}</item>{END}",
            "an item of more than 10,000 elements",
        ),
        (f"{HEAD}{RSS}<item><g:id>{'a' * 11_000_000}</g:id></item>{END}", "not well-formed XML"),
        (f"{HEAD}{RSS}<product/>{END}", "no <item> or <entry>"),
        ("<", "not well-formed XML"),
    ],
)
def test_what_is_no_feed_is_one_message(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_feed(tmp_path, content)
    assert (
        main(["import", "google_merchant", str(tmp_path / "feed.xml"), "--out", str(tmp_path / "data")]) == 1
    )
    error = capsys.readouterr().err
    assert message in error and error.startswith("vitrine: ") and error.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_memory_does_not_grow_with_the_feed(tmp_path: Path) -> None:
    item = f"<item><g:id>1</g:id><description>{'word ' * 200}</description></item><ignored>{'x' * 1000}</ignored>"
    write_feed(tmp_path, f"{HEAD}{RSS}{item * 30_000}{END}")  # 62 MB
    growth = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path / "feed.xml"], check=True, capture_output=True, text=True
    )
    assert int(growth.stdout) < 20 << 10


@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-8-sig", "feed.txt"), ("utf-16", "feed"), ("utf-8", "feed.php")]
)
def test_xml_is_known_by_its_content(encoding: str, name: str, tmp_path: Path) -> None:
    content = (
        f"<?xml version='1.0' encoding='{encoding[:6].rstrip('-')}'?>{RSS}<item><g:id>ü</g:id></item>{END}"
    )
    (tmp_path / name).write_bytes(content.encode(encoding))
    files = Files(tmp_path / name)
    assert is_feed(files, name)
    assert [record.values["id"] for record in read_feed(files, name)] == [["ü"]]
