"""Several shops in one repository."""

import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.schema import DataError
from components.params import load_section
from pipelines.shops import main, write_shop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def read(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "dvc.yaml").read_text())


def test_the_chain_of_a_shop_is_the_projects_on_the_shops_files(project: Path) -> None:
    write_shop(project / "shops" / "north", project)
    original, moved = read(project), read(project / "shops" / "north")
    assert {name: moved[name] for name in ("metrics", "plots")} == {
        name: original[name] for name in ("metrics", "plots")
    }
    assert list(moved["stages"]) == list(original["stages"])
    for name, stage in moved["stages"].items():
        text = yaml.safe_dump(stage).replace("shops/north/", "")
        back = yaml.safe_load(text)
        expected = deepcopy(original["stages"][name])
        assert back.pop("wdir") == "../.."
        assert back.pop("params") == [{"params.yaml": [name]}]
        assert expected.pop("params") == [name]
        words = shlex.split(back.pop("cmd"))
        assert words[4:6] == ["--params", "params.yaml"]
        assert [*words[:4], *words[6:]] == shlex.split(expected.pop("cmd"))
        assert back == expected
        shared = {"data", "artifacts", "params.yaml"}
        paths = [*stage["deps"], *(path for out in stage["outs"] for path in out)]
        assert shared.isdisjoint(path.split("/")[0] for path in [*paths, *shlex.split(stage["cmd"])])


def test_a_shop_has_parameters_and_a_model_of_its_own(project: Path) -> None:
    shop = project / "shops" / "north"
    message = write_shop(shop, project)
    assert message.endswith("dvc add shops/north/data && dvc repro shops/north/dvc.yaml")
    for section in ("validate", "register"):
        assert load_section(shop / "params.yaml", section).model_dump()["model_name"] == "north"
    (shop / "params.yaml").write_text("validate: {min_letters: 9}\n")
    write_shop(shop, project)
    assert (shop / "params.yaml").read_text() == "validate: {min_letters: 9}\n"


@pytest.mark.parametrize("name", [".", "..", "shops/No rth", "../elsewhere"])
def test_a_folder_that_cannot_be_a_shop(project: Path, name: str) -> None:
    with pytest.raises(DataError, match="give a folder below the project's, such as shops/north"):
        write_shop(project / name, project)


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"vitrine: {tmp_path}: give a folder below")
