import subprocess
import sys
from pathlib import Path

import pytest

from catalog.schema import DataError
from registry.champion_process import artifact, python_for
from registry.model_logging import requirements

HERE = ".".join(map(str, sys.version_info[:3]))


def package(folder: Path, *needed: str) -> Path:
    """The files of a registered model that say what it needs."""
    folder.mkdir()
    (folder / "requirements.txt").write_text("\n".join(needed))
    (folder / "python_env.yaml").write_text(f"python: {HERE}\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitrine"


def test_what_is_installed_here_needs_no_other_environment(tmp_path: Path, cache: Path) -> None:
    assert python_for(package(tmp_path / "package", *requirements())) == sys.executable
    assert not cache.exists()


def test_a_model_of_other_libraries_gets_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another version than is installed here, and one that is not installed at all."""
    needed = package(tmp_path / "package", "iniconfig==1.1.1", "toolz==0.12.0")
    python = python_for(needed)
    assert "the champion needs other libraries" in capsys.readouterr().err
    code = "import importlib.metadata as m; print(m.version('iniconfig'), m.version('toolz'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.1.1", "0.12.0"]
    assert python_for(needed) == python
    assert not capsys.readouterr().err  # it is not made again


def test_an_environment_that_cannot_be_made(tmp_path: Path, cache: Path) -> None:
    needed = package(tmp_path / "package", "iniconfig==0.0.0.0.1")
    for _ in range(2):  # what was half made is not taken for whole
        with pytest.raises(DataError, match=r"environment could not be made: [\s\S]*iniconfig"):
            python_for(needed)


def test_a_model_of_another_making_is_told(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {}}")
    with pytest.raises(DataError, match=r"holds no profile; move the alias 'champion'"):
        artifact(tmp_path, "profile")
