"""The documentation names only files, commands, parameters and functions that exist, and its blocks run."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import product, takewhile
from pathlib import Path
from types import ModuleType
from typing import get_origin

import pytest

from catalog.config import Params
from components.params import SECTIONS

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = [path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()]
NAMES = [*FOLDERS, "vitrine_judge"]
FILE_FOLDERS = [*FOLDERS, "eval", "bench", "deploy", "docs", "examples", "tests"]
PROGRAMS = ("catalog", "components", "fusion", "pipelines", "registry")
OWN_BLOCK = "python -m catalog import table products.csv --out catalogue"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def code_blocks(text: str) -> list[str]:
    """The indented blocks of a page."""
    blocks = re.findall(r"(?:(?<=\n\n)|^)((?:    .*\n+)+)", text)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in blocks]


def code(text: str) -> str:
    """All code of a page: blocks, with continued lines joined, and spans."""
    blocks = "\n".join(code_blocks(text)).replace("\\\n", " ")
    return "\n".join([blocks, *re.findall(r"`([^`]+)`", text)])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(path), f"{target}: no such heading"
        if ROOT / "docs" in page.parents:
            assert ROOT / "docs" in path.parents, f"{target}: outside the site; write the path as code"


@every_page
def test_paths_exist(page: Path) -> None:
    pattern = rf"(?<![\w/.-])(?:{'|'.join(FILE_FOLDERS)})/[\w./-]*\w"
    for path in re.findall(pattern, code(page.read_text())):
        assert (ROOT / path).exists(), f"{path}: no such file"


@every_page
def test_names_exist(page: Path) -> None:
    pattern = rf"(?<![\w/.-])(?:{'|'.join(NAMES)})\.[a-z_]\w*(?:\.\w+)*(?![\w/(]*\.(?:py|jinja))"
    for name in re.findall(pattern, page.read_text()):
        if not name.endswith((".py", ".jinja", ".md", ".yaml", "kserve.io")) and not is_parameter(name):
            assert resolve(name), f"{name}: no such name"


def resolve(name: str) -> bool:
    """Whether a dotted name is a module, or something in a module."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def is_parameter(name: str) -> bool:
    """Whether a dotted name is a section of params.yaml and a field; or a key of a map, such as `budgets.NAME`."""
    section, *keys = name.split(".")
    annotation: object = SECTIONS.get(section)
    for key in keys:
        if isinstance(annotation, type) and issubclass(annotation, Params):
            if key not in annotation.model_fields:
                return False
            annotation = annotation.model_fields[key].annotation
        elif get_origin(annotation) is not dict:
            return False
    return annotation is not None and bool(keys)


@every_page
def test_parameters_exist(page: Path) -> None:
    text = code(page.read_text())
    names = re.findall(r"-S '?([a-z_.]+)=", text)
    names += re.findall(rf"^(?:{'|'.join(SECTIONS)})\.[a-z_.]+(?=[:=]|$)", text, re.MULTILINE)
    for name in names:
        if not name.endswith((".py", ".yaml")) and not resolve(name):
            assert is_parameter(name), f"{name}: no such parameter"


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The packages and arguments of all `python -m PACKAGE VERB …` and `vitrine-judge VERB …` on a page."""
    pattern = rf"(?:python -m ({'|'.join(PROGRAMS)})(?![\w.])|^vitrine-judge)([^\n`|]*)"
    for package, rest in re.findall(pattern, code(text), re.MULTILINE):
        yield package or "vitrine_judge", rest.split(" #")[0].split("&&")[0].split()


@every_page
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package, arguments in commands(page.read_text()):
        verbs = list(takewhile(re.compile(r"[a-z][a-z_0-9-]*").fullmatch, arguments[:2]))
        if verbs[:1] != ["import"]:
            verbs = verbs[:1]
        with pytest.raises(SystemExit) as exit_info:
            import_module(f"{package}.__main__").main([*verbs, "--help"])
        output = capsys.readouterr()
        command = f"{package} {' '.join(arguments)}"
        assert exit_info.value.code == 0, f"{command}: {output.err}"
        if "FORMAT" in arguments:  # stands for any format; each has flags of its own
            continue
        for flag in (word for word in arguments if re.fullmatch(r"--[a-z-]+", word)):
            assert flag in output.out, f"{command}: no flag {flag}"


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|&& )make ([a-z-]+)", code(page.read_text()), re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert named <= targets


def test_both_readmes_have_the_same_commands_figures_and_links() -> None:
    english, chinese = README.read_text(), CHINESE.read_text()
    assert code_blocks(english) == code_blocks(chinese)
    for pattern in (r"\d[\d.,]*\d|\d", r"\]\(([^)]+)\)", r"^\[[\w-]+\]: \S+$", r"\]\[([\w-]+)\]"):
        first, second = (sorted(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese))
        assert first == second, pattern


def test_lines_of_the_readme_fit() -> None:
    assert max(map(len, README.read_text().splitlines())) <= 120


def test_the_site_has_every_page() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in settings


def load_script(name: str) -> ModuleType:
    """A program of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_its_source() -> None:
    assert load_script("architecture").draw() == (ROOT / "docs" / "architecture.svg").read_text()


def test_the_reference_has_every_parameter() -> None:
    script = load_script("parameter_tables")
    page = script.on_page_markdown((ROOT / "docs/reference/parameters.md").read_text())
    assert script.MARKER not in page
    assert script.on_page_markdown("another page") == "another page"
    for section, model in SECTIONS.items():
        table = page.split(f"## {section}\n")[1].split("\n## ")[0]
        for name in model.model_fields:
            assert f"`{name}`" in table or f"`{name}." in table
    assert "| `min_rating` | float or null, ≥ 1, ≤ 5 | `null` |" in page
    assert "| `margins` | map of str to float" in page
    assert (
        "| `online` | map or null | `null` |" in page and "| `online.min_sessions` | int, ≥ 0 | `0` |" in page
    )


def write_own_products(path: Path) -> None:
    """A table of 30 products of tableware, without pictures."""
    kinds, colours = (
        ("mug", "plate", "bowl", "teapot", "jug", "vase"),
        ("red", "blue", "green", "white", "black"),
    )
    brands, materials = ("Alba", "Birk", "Cora"), ("stoneware", "porcelain", "glass")
    lines = ["product_id,title,category,brand,color,material,price"]
    for number, (kind, colour) in enumerate(product(kinds, colours)):
        brand, material = brands[number % 3], materials[number % 3]
        title = f"{colour.title()} {material} {kind} {brand}"
        lines.append(f"s{number},{title},tableware/{kind},{brand},{colour},{material},{8 + number}.50")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_catalogue_of_your_own_takes_the_five_commands_of_the_readme(
    tmp_path: Path, empty_store: Path, launcher: Path
) -> None:
    shop = tmp_path / "shop"
    list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "data-remote/")):
            (shop / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, shop / name)
    (shop / "data").mkdir()  # as `make demo` leaves it, with the environment and a store
    shutil.copy(empty_store, shop / "mlflow.db")
    (shop / ".venv/bin").mkdir(parents=True)
    search_path = f"{launcher.parent}:{Path(sys.executable).parent}"
    (shop / ".venv/bin/activate").write_text(f'PATH="{search_path}:$PATH"\n')
    write_own_products(shop / "products.csv")
    (block,) = (block for block in code_blocks(README.read_text()) if OWN_BLOCK in block)
    assert len(block.splitlines()) == 5
    prefixes = ("MLFLOW_", "GIT_", "DVC_", "PYTHON")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
    environment["DVC_SITE_CACHE_DIR"] = str(tmp_path / "site-cache")
    subprocess.run(["git", "init", "--quiet"], cwd=shop, check=True, env=environment)
    result = subprocess.run(
        ["bash", "-e", "-c", block], cwd=shop, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "table: 30 products" in result.stderr
    assert "product-search version 1" in result.stdout
    assert {"bm25", "fused"} <= json.loads((shop / "artifacts/evaluate/metrics.json").read_text()).keys()
    assert (shop / "artifacts/register/decision.html").exists()
