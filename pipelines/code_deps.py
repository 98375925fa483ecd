"""The code that each stage runs, as deps in dvc.yaml: `python -m pipelines.code_deps`, or `make deps`.

DVC runs a stage again when one of its deps has changed. The code deps of a stage are the files that its module
imports, directly or through others, and the templates that these files name. A folder stands for its files where the
stage runs all of them.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from catalog.command import run
from components.params import SECTIONS

ROOT = Path(__file__).parents[1]
PACKAGES = ("catalog", "eval", "fusion", "scoring", "registry", "validation", "components", "serving")
PLUGINS = "plugins"  # imported where a file looks up a name that a plugin may add
# how params.yaml is read: a stage depends on its values there
PARAMS = {"catalog/config.py", *(f"{package}/params.py" for package in PACKAGES)}
# code that register logs with the model: no import leads there
LOGGED = {"register": ("serving/pyfunc.py", "fusion/__main__.py")}
TEMPLATES = ("*.jinja", "*.css")


def stage_code(stage: str) -> set[str]:
    """The files that a stage runs, relative to the project."""
    pending = {ROOT / "components" / f"{stage}.py", *(ROOT / path for path in LOGGED.get(stage, ()))}
    files: set[Path] = set()
    while pending:
        file = pending.pop()
        files.add(file)
        pending |= set(imported_files(file)) - files
    templates = {
        path for package in PACKAGES for pattern in TEMPLATES for path in (ROOT / package).rglob(pattern)
    }
    while new := {path for path in templates for file in files if path.name in file.read_text()} - files:
        files |= new
    plugins = {PLUGINS} if any(f"\nimport {PLUGINS}\n" in file.read_text() for file in files) else set()
    return {file.relative_to(ROOT).as_posix() for file in files} - PARAMS | plugins


def imported_files(file: Path) -> Iterator[Path]:
    """The project's files that a file imports, except for imports that only a type checker sees."""
    for node in _walk_code(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            if module.split(".")[0] in PACKAGES and path.is_file():
                yield path


def _walk_code(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _walk_code(child)


def group_files(files: Iterable[str]) -> list[str]:
    """The files, with folders in place of files where all files of the folder are listed; sorted."""
    paths = set(files)
    for package in PACKAGES:
        folders = [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]
        for folder in sorted(folders):
            content = {path.relative_to(ROOT).as_posix() for path in source_files(folder)}
            if content and content <= paths:
                paths = paths - content | {folder.relative_to(ROOT).as_posix()}
    return sorted(paths)


def source_files(folder: Path) -> Iterator[Path]:
    """The code and templates below a folder that a stage can depend on."""
    for pattern in ("*.py", *TEMPLATES):
        for path in folder.rglob(pattern):
            if path.name != "__init__.py" and path.relative_to(ROOT).as_posix() not in PARAMS:
                yield path


def code_deps(stage: str) -> list[str]:
    """The deps of a stage that are code: its own module first."""
    module = f"components/{stage}.py"
    return [module, *group_files(stage_code(stage) - {module})]


def write_deps(path: Path) -> None:
    """Write the code deps of every stage into dvc.yaml; the deps on data, and all else, stay as they are."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(path)
    for stage in SECTIONS:
        deps = content["stages"][stage]["deps"]
        deps[:] = [dep for dep in deps if dep.split("/")[0] not in PACKAGES] + code_deps(stage)
    yaml.dump(content, path)


if __name__ == "__main__":
    sys.exit(run(lambda: write_deps(ROOT / "dvc.yaml")))
