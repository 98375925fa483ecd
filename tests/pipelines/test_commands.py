import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.params import load_pipeline_params
from pipelines.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_compiled_twice_it_is_the_same_file(tmp_path: Path) -> None:
    """The order of sets, which differs between two Pythons, plays no part."""
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    assert main(["compile", "--params", str(ROOT / "params.yaml"), "--output", str(files[0])]) == 0
    command = [sys.executable, "-m", "pipelines", "compile", "--output", str(files[1])]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    head = files[0].read_text().partition("components:")[0]
    assert "#    train: dict\n" in head and "Default" not in head


def test_null_is_left_out() -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text())["featurize"]
    passed = load_pipeline_params(ROOT / "params.yaml")["featurize"]
    assert passed == {name: value for name, value in written.items() if value is not None} != written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compile", "--output", "pipeline.json"], "--output pipeline.json: the file name must end in .yaml"),
        (["compile", "--output", "nowhere/pipeline.yaml"], "nowhere"),
        (["run", "--rev", "no-such-branch"], "no commit 'no-such-branch'"),
        (["run", "--repo", "nowhere"], "nowhere: no commit 'HEAD'"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--params", str(ROOT / "params.yaml")]) == 1
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.startswith("vitrine: ") and "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_broken_params_file_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text("train: {epohcs: 3}")
    words = ["compile", "--params", str(tmp_path / "params.yaml"), "--output", str(tmp_path / "out.yaml")]
    assert main(words) == 1
    assert "train.epohcs: unknown key" in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()
