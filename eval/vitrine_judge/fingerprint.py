"""The fingerprint of the judge: scores that two judges with the same fingerprint computed may be compared."""

import ast
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import parse_metric

JUDGE = "judge"  # where scores are stored with other facts on their origin: the key of the fingerprint
DISTRIBUTION, PACKAGE = "vitrine-judge", "vitrine_judge"
ROOT, FOLDER = "metrics", Path(__file__).parent  # the module that computes scores, and its folder


def fingerprint(metrics: Sequence[str]) -> str:
    """Hash what scores depend on besides runs, judgements and their configuration.

    That is the version of this distribution, the source of `vitrine_judge.metrics` and of all modules of this package
    that it imports, directly or not, and the source of the modules that define metrics of other packages. Any edit
    counts, also of a comment. Modules that a foreign metric imports are not read.

    Args:
        metrics: Names of the metrics that are used.

    Returns:
        32 hexadecimal digits.

    Raises:
        JudgeError: an unknown metric, or one whose source cannot be read.
    """
    sources = {name: (FOLDER / f"{name}.py").read_bytes() for name in scoring_modules()}
    for name in metrics:
        module, source = _read_foreign_source(name)
        if source is not None:
            sources[module] = source
    digest = hashlib.blake2b(_read_version().encode(), digest_size=16)
    for name, source in sorted(sources.items()):
        digest.update(f"\0{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


def scoring_modules() -> list[str]:
    """The modules of this package that compute scores, by name: `metrics` and all that it imports."""
    names, queue = set(), [ROOT]
    while queue:
        name = queue.pop()
        if name not in names:
            names.add(name)
            queue += _list_imports(FOLDER / f"{name}.py")
    return sorted(names)


def _list_imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            # in `from vitrine_judge import arrays`, the module is among the names
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        modules = [name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")]
        yield from (module for module in modules if (FOLDER / f"{module}.py").exists())


def _read_foreign_source(metric: str) -> tuple[str, bytes | None]:
    """The module that defines a metric, and its source; None for a module of this package."""
    function, _ = parse_metric(metric)
    while isinstance(function, partial):
        function = function.func
    module = function.__module__
    if module.partition(".")[0] == PACKAGE:
        return module, None
    try:
        return module, Path(inspect.getfile(function)).read_bytes()
    except (OSError, TypeError) as error:
        raise JudgeError(
            f"metric '{metric}': the source of {module} cannot be read ({error}); define it in a file"
        ) from error


def _read_version() -> str:
    """The version of the installed distribution; "" where only the code is there, as beside a registered model."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ""
