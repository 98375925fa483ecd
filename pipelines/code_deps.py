"""Writes the code that each stage depends on into dvc.yaml: `python -m pipelines.code_deps`, or `make deps`.

DVC runs a stage again if one of its deps has changed. The code deps of a stage are the files that its module imports,
directly or indirectly, and the templates that these files name. If a stage uses all files of a folder, the folder is
listed in their place.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from catalog.command import run_command
from components.params import SECTIONS

ROOT = Path(__file__).parents[1]
PACKAGES = ("catalog", "eval", "fusion", "scoring", "registry", "validation", "components", "serving")
IMPORT_ROOTS = (ROOT, ROOT / "eval")  # eval/ holds the package vitrine_judge
PLUGINS = "plugins"  # a dep of every stage that looks up names that a plugin can register
LOADS_PLUGINS = re.compile(r"^import plugins$|entry_points\(", re.MULTILINE)
# read and check params.yaml; a stage depends on the values, not on this code
PARAMS_FILES = {"catalog/config.py", *(f"{package}/params.py" for package in PACKAGES)}
# register logs this code with the model but does not import it
LOGGED_CODE = {"register": ("serving/pyfunc.py", "fusion/__main__.py")}
TEMPLATES = ("*.jinja", "*.css")


def stage_code(stage: str) -> set[str]:
    """The files that a stage runs, relative to the project."""
    modules = (f"components/{stage}.py", *LOGGED_CODE.get(stage, ()))
    code = import_closure(ROOT / module for module in modules)
    files = {path.relative_to(ROOT).as_posix() for path in code | used_templates(code)} - PARAMS_FILES
    uses_plugins = any(LOADS_PLUGINS.search(path.read_text()) for path in code)
    return files | {PLUGINS} if uses_plugins else files


def import_closure(modules: Iterable[Path]) -> set[Path]:
    """The modules and all project files that they import, directly or indirectly; not what params files import."""
    pending, files = set(modules), set[Path]()
    while pending:
        file = pending.pop()
        files.add(file)
        if file.relative_to(ROOT).as_posix() not in PARAMS_FILES:
            pending |= set(imported_files(file)) - files
    return files


def used_templates(files: set[Path]) -> set[Path]:
    """The templates whose names occur in the files, or in templates that do."""
    templates = {
        path for package in PACKAGES for pattern in TEMPLATES for path in (ROOT / package).rglob(pattern)
    }
    used: set[Path] = set()
    while (
        new := {path for path in templates for file in files | used if path.name in file.read_text()} - used
    ):
        used |= new
    return used


def imported_files(file: Path) -> Iterator[Path]:
    """The project's files that a file imports; ignores imports under TYPE_CHECKING."""
    for node in _walk_code(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module, root in product(modules, IMPORT_ROOTS):
            path = root.joinpath(*module.split(".")).with_suffix(".py")
            if path.is_file() and path.relative_to(ROOT).parts[0] in PACKAGES:
                yield path


def _walk_code(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _walk_code(child)


def group_files(files: Iterable[str]) -> list[str]:
    """The files, sorted; a folder replaces its files if all of them are listed."""
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
            if path.name != "__init__.py" and path.relative_to(ROOT).as_posix() not in PARAMS_FILES:
                yield path


def code_deps(stage: str) -> list[str]:
    """The code deps of a stage, its own module first."""
    module = f"components/{stage}.py"
    return [module, *group_files(stage_code(stage) - {module})]


def write_deps(path: Path) -> None:
    """Replace the code deps of every stage in dvc.yaml; everything else stays."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(path)
    for stage in SECTIONS:
        deps = content["stages"][stage]["deps"]
        deps[:] = [dep for dep in deps if dep.split("/")[0] not in (*PACKAGES, PLUGINS)] + code_deps(stage)
    yaml.dump(content, path)


if __name__ == "__main__":
    sys.exit(run_command(lambda: write_deps(ROOT / "dvc.yaml")))
