import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.schema import DataError
from pipelines.fetch import fetch

PERSON = {f"GIT_{role}_{what}": "shop" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Repository:
    """A git repository whose folder `data` is versioned by DVC, with a remote beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text(
            f"[core]\n    remote = own\n    analytics = false\n['remote \"own\"']\n    url = {root}-remote\n"
        )
        self._git("init", "--quiet")

    def commit(self, **files: str) -> str:
        """A version of the data; its commit."""
        shutil.rmtree(self.root / "data", ignore_errors=True)
        for name, text in files.items():
            path = self.root / "data" / name / "00000.parquet"
            path.parent.mkdir(parents=True)
            path.write_text(text)
        for words in (["add", "data"], ["push"]):
            dvc = [sys.executable, "-m", "dvc", *words, "--quiet"]
            subprocess.run(dvc, cwd=self.root, check=True, env=os.environ | PERSON)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", "data")
        return self._git("rev-parse", "HEAD").strip()

    def forget(self) -> None:
        """Lose what the remote and the cache hold."""
        shutil.rmtree(self.root.with_name(f"{self.root.name}-remote"))
        shutil.rmtree(self.root / ".dvc" / "cache")

    def _git(self, *words: str) -> str:
        command = ["git", *words]
        return subprocess.run(
            command, cwd=self.root, check=True, env=os.environ | PERSON, capture_output=True, text=True
        ).stdout


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_data_as_it_was_at_a_commit(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "shop")
    first = repository.commit(products="one", queries="asked")
    second = repository.commit(products="two")
    url = repository.root.as_uri()
    fetch(url, first, tmp_path / "data")
    assert content(tmp_path / "data") == {"products/00000.parquet": "one", "queries/00000.parquet": "asked"}
    fetch(str(repository.root), second, tmp_path / "data")  # a retry over what is there
    assert content(tmp_path / "data") == {"products/00000.parquet": "two"}

    with pytest.raises(DataError, match=r"data of .* at 0000000 cannot be had"):
        fetch(url, "0000000", tmp_path / "none")
    repository.forget()
    with pytest.raises(DataError, match=r"cannot be had .*; is it pushed to the DVC remote\?"):
        fetch(url, second, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data of .*nowhere at HEAD cannot be had"):
        fetch(str(tmp_path / "nowhere"), "HEAD", tmp_path / "data")
