"""Names and sizes that reviews would otherwise have to watch; see CONTRIBUTING.md, "Names and language"."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "catalog",
    "eval",
    "fusion",
    "scoring",
    "registry",
    "validation",
    "components",
    "serving",
    "pipelines",
)
LINES = 50  # of a function, with signature and docstring
TABLES = {"rules"}  # functions that are a table
# past participles and pronouns say nothing about what a value holds
VAGUE = {"found", "told", "said", "asked", "wanted", "sought", "apart", "own", "one", "again"}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def defined_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names of functions, classes, arguments, variables and attributes, where they are defined."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def parsed_files(folder: str) -> Iterator[tuple[str, ast.Module]]:
    """The files below a folder, by their path in the project."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


@pytest.mark.parametrize("folder", PACKAGES)
def test_functions_fit_a_screen(folder: str) -> None:
    long = [
        f"{file}:{function.lineno} {function.name}, {size} lines"
        for file, tree in parsed_files(folder)
        for function in functions(tree)
        if (size := (function.end_lineno or 0) - function.lineno + 1) > LINES and function.name not in TABLES
    ]
    assert not long, f"functions of more than {LINES} lines: {long}"


@pytest.mark.parametrize("folder", [*PACKAGES, "plugins", "bench", "examples", "tests"])
def test_names_are_nouns_and_verbs(folder: str) -> None:
    vague = [
        f"{file}:{line} {name}"
        for file, tree in parsed_files(folder)
        for name, line in defined_names(tree)
        if name.strip("_") in VAGUE
    ]
    assert not vague, f"names that do not say what they hold or do: {vague}"
