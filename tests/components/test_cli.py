import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from vitrine_judge.errors import JudgeError

from components.__main__ import load_stage, main
from components.params import SECTIONS, TrainParams

ROOT = Path(__file__).parents[2]


def test_flags_are_the_paths_of_the_signature(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["train", "--help"])
    assert raised.value.code == 0
    output = capsys.readouterr().out
    assert "--features PATH" in output and "--model PATH" in output and "--params FILE" in output
    assert "--seed" not in output
    assert (load_stage("train").__doc__ or "").splitlines()[0] in output


def test_a_flag_that_is_missing_or_unknown_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["train", "--features", "f"], "--model"),
        (["train", "--features", "f", "--model", "m", "--epochs", "3"], "--epochs"),
        (["fit"], "invalid choice: 'fit'"),
        ([], "stage"),
    ):
        with pytest.raises(SystemExit) as raised:
            main(words)
        assert raised.value.code == 2
        assert message in capsys.readouterr().err


def test_the_stage_gets_its_paths_and_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(features: Path, params: TrainParams, model: Path) -> None:
        calls.append((features, params, model))

    monkeypatch.setattr("components.train.train", train)
    (tmp_path / "own.yaml").write_text("train: {epochs: 3}")
    assert main(["train", "--features", "f", "--model", "m", "--params", str(tmp_path / "own.yaml")]) == 0
    assert calls == [(Path("f"), TrainParams(epochs=3), Path("m"))]


@pytest.mark.parametrize("error", [FloatingPointError("the loss is nan"), JudgeError("the loss is nan")])
def test_what_stops_a_stage_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(features: Path, params: TrainParams, model: Path) -> None:
        raise error

    monkeypatch.setattr("components.train.train", train)
    (tmp_path / "params.yaml").write_text("train: {}")
    words = ["train", "--features", "f", "--model", "m", "--params", str(tmp_path / "params.yaml")]
    assert main(words) == 1
    assert capsys.readouterr().err == "vitrine: the loss is nan\n"


def test_every_section_is_a_stage() -> None:
    assert list(SECTIONS) == ["validate", "featurize", "train", "index", "evaluate", "register"]
    assert [load_stage(name).__name__ for name in SECTIONS] == list(SECTIONS)


@pytest.mark.slow
def test_a_training_image_needs_neither_tracker_nor_validator() -> None:
    script = """
        import sys
        absent = ["mlflow", "kfp", "dvc", "great_expectations", "pandas", "sklearn"]
        sys.modules.update(dict.fromkeys(absent))  # as if they were not installed
        import components.featurize, components.train, components.__main__
        import vitrine_judge.gate, vitrine_judge.report, vitrine_judge.significance
        import fusion.search.catalogue_search, fusion.__main__
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
