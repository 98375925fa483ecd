import subprocess
import sys
from pathlib import Path

import pytest

from catalog.schema import DataError
from registry.champion_process import find_artifact, prepare_interpreter
from registry.model_logging import list_requirements

HERE = ".".join(map(str, sys.version_info[:3]))


def make_package(folder: Path, *requirements: str) -> Path:
    """The files of a registered model that list its requirements."""
    folder.mkdir()
    (folder / "requirements.txt").write_text("\n".join(requirements))
    (folder / "python_env.yaml").write_text(f"python: {HERE}\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitrine"


def test_what_is_installed_here_needs_no_other_environment(tmp_path: Path, cache: Path) -> None:
    assert prepare_interpreter(make_package(tmp_path / "package", *list_requirements())) == sys.executable
    assert not cache.exists()


def test_a_model_of_other_libraries_gets_an_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version than is installed here, and one that is not installed at all."""
    package = make_package(tmp_path / "package", "iniconfig==1.1.1", "toolz==0.12.0")
    python = prepare_interpreter(package)
    assert "the champion needs libraries that are not installed here" in capsys.readouterr().err
    code = "import importlib.metadata as m; print(m.version('iniconfig'), m.version('toolz'))"
    process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["1.1.1", "0.12.0"]
    assert prepare_interpreter(package) == python
    assert not capsys.readouterr().err  # it is not created again


def test_an_environment_that_cannot_be_created(tmp_path: Path, cache: Path) -> None:
    package = make_package(tmp_path / "package", "iniconfig==0.0.0.0.1")
    for _ in range(2):  # an incomplete environment is not used
        with pytest.raises(DataError, match=r"environment could not be created: [\s\S]*iniconfig"):
            prepare_interpreter(package)


def test_a_model_that_this_chain_did_not_register(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {}}")
    with pytest.raises(DataError, match=r"has no profile; move the alias 'champion'"):
        find_artifact(tmp_path, "profile")
