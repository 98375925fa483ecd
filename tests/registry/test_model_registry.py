import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from catalog.schema import DataError
from registry import champion_history, mlflow_store, model_logging
from registry.__main__ import main
from registry.model_registry import COMPARED_WITH, GATE, REASONS, ModelRegistry
from registry.promotion import history, promote, rollback

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "product-search"


@pytest.fixture
def registry(client: "MlflowClient") -> ModelRegistry:
    """With four versions: 1 to 3 passed, 1 without and the others against version 1; 4 failed."""
    registry = ModelRegistry(client, NAME)
    for number, (verdict, against) in enumerate(
        [("passed", ""), ("passed", "1"), ("passed", "1"), ("failed", "1")], start=1
    ):
        add(registry, number, {GATE: verdict, COMPARED_WITH: against, REASONS: f"Reason {number}."})
    return registry


def add(registry: ModelRegistry, number: int, tags: dict[str, str]) -> None:
    experiment = mlflow_store.ensure_experiment(registry.client, mlflow_store.EXPERIMENT)
    run = registry.client.create_run(experiment).info.run_id
    artifacts = {name: {"path": f"artifacts/{name}"} for name in ("index", "model", "profile.parquet")}
    flavour = yaml.safe_dump({"flavors": {"python_function": {"artifacts": artifacts}}})
    for name, text in (
        ("MLmodel", flavour),
        ("artifacts/index/marker.json", ""),
        ("artifacts/model/weights", ""),
        ("artifacts/profile.parquet", ""),
    ):
        registry.client.log_text(run, text, f"model/{name}")
    version = registry.client.create_model_version(NAME, f"runs:/{run}/model", run, tags)
    assert int(version.version) == number


def moves(registry: ModelRegistry) -> list[tuple[str | None, str | None, str, str]]:
    return [(move.old, move.new, move.how, move.by) for move in registry.history.list_moves()]


def names(registry: ModelRegistry) -> dict[str, str]:
    """Version → the name of its run."""
    return {
        str(version.version): registry.client.get_run(version.run_id).info.run_name
        for version in registry.list_versions()
    }


def test_promoted_then_rolled_back(registry: ModelRegistry) -> None:
    assert promote(registry, "1") == "version 1 is the champion; before, there was no champion"
    assert promote(registry, "2") == "version 2 is the champion; before, there was version 1"
    assert promote(registry, "2") == "version 2 is the champion already"
    assert (names(registry)["1"], names(registry)["2"]) == ("version 1", "version 2 · champion")
    assert rollback(registry) == "version 1 is the champion again; before, there was version 2"
    assert registry.find_by_alias("champion") == "1"
    assert (names(registry)["1"], names(registry)["2"]) == ("version 1 · champion", "version 2")
    with pytest.raises(DataError, match="product-search has no previous champion to go back to"):
        rollback(registry)
    assert moves(registry) == [
        (None, "1", "promoted", "ada"),
        ("1", "2", "promoted", "ada"),
        ("2", "1", "rolled back", "ada"),
    ]


def artifact_folder(registry: ModelRegistry, number: str) -> Path:
    run = registry.client.get_run(registry.get_version(number).run_id or "")
    return Path(urlsplit(run.info.artifact_uri).path) / "model"


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (".", "MLmodel"),
        ("artifacts", "artifacts/index, artifacts/model, artifacts/profile.parquet"),
        ("artifacts/model", "artifacts/model"),
    ],
)
def test_a_version_whose_files_are_gone_does_not_become_champion(
    registry: ModelRegistry, gone: str, named: str
) -> None:
    """Neither with force, nor by a rollback; and if it is the champion, that is said."""
    promote(registry, "1")
    shutil.rmtree(artifact_folder(registry, "2") / gone)
    reason = (
        rf": its files are gone from MLflow's artifacts \(missing: {named}; source: runs:/.*\); restore them"
    )
    for force, text in ((False, ""), (True, "a test")):
        with pytest.raises(DataError, match=f"version 2 is not promoted{reason}"):
            promote(registry, "2", force, text)
    promote(registry, "3")
    shutil.rmtree(artifact_folder(registry, "1") / gone)
    with pytest.raises(DataError, match=f"version 1 is not made champion again{reason}"):
        rollback(registry)
    assert registry.find_by_alias("champion") == "3" and len(moves(registry)) == 2
    shutil.rmtree(artifact_folder(registry, "3") / gone)
    with pytest.raises(DataError, match=f"version 3 is the champion, but cannot be served{reason}"):
        promote(registry, "3")


def test_each_rollback_goes_back_by_one_champion(registry: ModelRegistry) -> None:
    for number in ("1", "2"):
        promote(registry, number)
    for number in ("3", "1"):
        promote(registry, number, force=True, reason="a test")
    assert [rollback(registry).split()[1] for _ in range(3)] == ["3", "2", "1"]
    promote(registry, "2")
    assert rollback(registry).startswith("version 1")
    with pytest.raises(DataError, match="no previous champion"):
        rollback(registry)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("4", "Reason 4."),
        (
            "3",
            "judged against version 1, but the champion is version 2 now; judge it again: python -m registry judge 3",
        ),
        ("5", "no gate has judged it; judge it: python -m registry judge 5"),
    ],
)
def test_what_the_gate_did_not_pass_needs_force_and_a_reason(
    registry: ModelRegistry, number: str, reason: str
) -> None:
    add(registry, 5, {})
    promote(registry, "1")
    promote(registry, "2")
    with pytest.raises(DataError, match=f"version {number} is not promoted: {reason}"):
        promote(registry, number)
    for force, text in ((True, ""), (True, "  "), (False, "because"), (True, "x" * 1001)):
        with pytest.raises(DataError, match="--force and --reason go together"):
            promote(registry, number, force, text)
    assert registry.find_by_alias("champion") == "2" and len(moves(registry)) == 2
    promote(registry, number, force=True, reason="the shop window needs it")
    assert registry.find_by_alias("champion") == number
    assert registry.history.list_moves()[-1].reason == "the shop window needs it"
    assert "the shop window needs it" in history(registry)


def test_an_unknown_version(registry: ModelRegistry) -> None:
    with pytest.raises(DataError, match="product-search has no version 9; there are 1, 2, 3, 4"):
        promote(registry, "9")
    with pytest.raises(DataError, match="has no version one"):
        promote(registry, "one")


def test_a_move_by_hand_is_detected(registry: ModelRegistry) -> None:
    promote(registry, "1")
    registry.client.set_registered_model_alias(NAME, "champion", "4")
    assert registry.reconcile_and_warn() == "4"
    registry.client.delete_registered_model_alias(NAME, "champion")
    assert registry.reconcile_and_warn() is None
    assert registry.reconcile_and_warn() is None
    assert moves(registry)[1:] == [("1", "4", "by hand", "unknown"), ("4", None, "by hand", "unknown")]
    assert [move.verdict for move in registry.history.list_moves()] == ["passed", "failed", ""]
    assert rollback(registry) == "version 4 is the champion again; before, there was no champion"


def warnings(registry: ModelRegistry, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the next command prints on stderr."""
    capsys.readouterr()
    ModelRegistry(registry.client, NAME).reconcile_and_warn()
    return capsys.readouterr().err.splitlines()


def test_a_champion_by_hand_that_bypasses_the_gate_is_warned_of_until_it_is_undone(
    registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(registry, "1")
    registry.client.set_registered_model_alias(NAME, "champion", "2")
    assert warnings(registry, capsys) == []  # its gate passed
    registry.client.set_registered_model_alias(NAME, "champion", "4")
    line = (
        "product-search: warning: version 4 was made champion by hand, but its gate failed; to undo: python -m "
        "registry rollback"
    )
    assert warnings(registry, capsys) == warnings(registry, capsys) == [line]
    assert len(moves(registry)) == 3
    registry.reconcile_and_warn()
    registry.reconcile_and_warn()
    assert capsys.readouterr().err.splitlines() == [line]  # once in a process
    assert (
        rollback(ModelRegistry(registry.client, NAME))
        == "version 2 is the champion again; before, there was version 4"
    )
    assert not capsys.readouterr().err
    assert warnings(registry, capsys) == []
    promote(registry, "4", force=True, reason="a person's decision, with a reason, is no surprise")
    assert warnings(registry, capsys) == []


def test_a_first_champion_by_hand_cannot_be_rolled_back(
    registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    add(registry, 5, {})
    registry.client.set_registered_model_alias(NAME, "champion", "5")
    (line,) = warnings(registry, capsys)
    assert line.endswith("no gate has judged it; to undo: python -m registry promote VERSION")


@pytest.mark.parametrize("model", ["shop (live)", NAME])
def test_a_copy_by_mlflow_that_bypasses_the_gate_is_recorded_once_and_warned_of_until_it_is_deleted(
    registry: ModelRegistry, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """With the call that the button "Promote model" of MLflow's page makes."""
    promote(registry, "1")
    registry.client.copy_model_version(f"models:/{NAME}/1", "harmless")  # its gate passed
    assert warnings(registry, capsys) == []
    copy = registry.client.copy_model_version(f"models:/{NAME}/4", model)
    line = (
        f"product-search: warning: version 4 was copied in MLflow as {model} version {copy.version}, but its gate "
        f"failed; to undo: delete version {copy.version} of {model} in MLflow"
    )
    assert warnings(registry, capsys) == warnings(registry, capsys) == [line]
    (written,) = registry.history.list_copies()
    assert (written.version, written.model, written.number, written.verdict, written.by) == (
        "4",
        model,
        str(copy.version),
        "failed",
        "unknown",
    )
    _, moved, copied = history(registry).splitlines()
    assert (
        "promoted" in moved and f"{model} version {copy.version}" in copied and "copied in MLflow" in copied
    )
    assert registry.find_by_alias("champion") == "1" and len(moves(registry)) == 1
    registry.client.delete_model_version(model, copy.version)
    assert warnings(registry, capsys) == []
    assert registry.history.list_copies() == [written]


def test_a_copy_that_two_processes_detect_at_once_is_recorded_once(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.client.copy_model_version(f"models:/{NAME}/4", "shop")
    log_param = registry.client.log_param

    def lose_race(run: str, key: str, value: str) -> None:
        log_param(run, key, value.replace("failed", "undecided"))  # judged again in between
        log_param(run, key, value)

    monkeypatch.setattr(registry.client, "log_param", lose_race)
    registry.reconcile_and_warn()
    assert [copy.verdict for copy in registry.history.list_copies()] == ["undecided"]


def test_the_chain_does_not_mistake_a_copy_for_its_version(registry: ModelRegistry) -> None:
    """Both have the same run; the chain would delete a copy that it mistook for a duplicate."""
    (version,) = [version for version in registry.list_versions() if str(version.version) == "4"]
    registry.client.copy_model_version(f"models:/{NAME}/4", "shop")
    registry.client.copy_model_version(f"models:/{NAME}/4", NAME)
    run = registry.client.get_run(version.run_id)
    versions = model_logging._list_versions(registry.client, run, NAME)
    assert [(version.name, str(version.version)) for version in versions] == [(NAME, "4")]


def test_a_promoted_challenger_loses_that_alias(registry: ModelRegistry) -> None:
    registry.update_challenger("1", earned=True)
    assert names(registry)["1"] == "version 1 · challenger"
    registry.update_challenger("2", earned=True)
    assert (names(registry)["1"], names(registry)["2"]) == ("version 1", "version 2 · challenger")
    registry.update_challenger("1", earned=False)  # the alias of another version is not removed
    assert registry.find_by_alias("challenger") == "2"
    registry.update_challenger("2", earned=False)
    assert registry.find_by_alias("challenger") is None
    registry.update_challenger("1", earned=True)
    promote(registry, "1")
    assert (registry.find_by_alias("champion"), registry.find_by_alias("challenger")) == ("1", None)


def test_the_history_is_a_table(registry: ModelRegistry) -> None:
    assert history(registry) == "no champion yet"
    promote(registry, "1")
    heads, line = history(registry).splitlines()
    assert heads.split() == ["when", "from", "to", "how", "by", "gate", "reason"]
    assert line.split()[1:] == ["–", "1", "promoted", "ada", "passed"]


@pytest.mark.parametrize("after", ["log_param", "set_registered_model_alias"])
def test_the_next_command_completes_an_interrupted_promotion(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    promote(registry, "1")
    original = getattr(registry.client, after)

    def once(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry.client, after, once)
        promote(registry, "2")
    assert ModelRegistry(registry.client, NAME).reconcile_and_warn() == "2"
    assert registry.find_by_alias("champion") == "2"
    assert [how for *_, how, _ in moves(registry)] == ["promoted", "promoted"]


def test_the_history_cannot_be_changed(registry: ModelRegistry) -> None:
    from mlflow.exceptions import MlflowException

    promote(registry, "1")
    run = registry.client.get_registered_model(NAME).tags[champion_history.HISTORY]
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        registry.client.log_param(run, "0001", "something else")


def test_of_two_promotions_at_once_one_wins_and_the_other_gets_an_error(registry: ModelRegistry) -> None:
    """Each has seen version 1 as champion before either moves."""
    promote(registry, "1")
    together = threading.Barrier(2)
    outcomes: dict[str, str] = {}

    class Slow(ModelRegistry):
        def set_champion(self, *arguments: Any) -> None:
            together.wait()
            super().set_champion(*arguments)

    def attempt(number: str) -> None:
        try:
            outcomes[number] = promote(Slow(registry.client, NAME), number)
        except DataError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion = registry.reconcile_and_warn()
    assert champion in {"2", "3"}
    (other,) = {"2", "3"} - {champion}
    assert outcomes[champion] == f"version {champion} is the champion; before, there was version 1"
    assert outcomes[other].startswith(
        f"product-search: version {other} is not promoted: the champion has changed (version {champion}, "
        "promoted, user ada)"
    )
    assert moves(registry)[1:] == [("1", champion, "promoted", "ada")]


def test_a_delayed_process_does_not_undo_later_moves(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It paused between recording its move and making it, while others went on."""
    promote(registry, "1")
    other = ModelRegistry(registry.client, NAME)
    set_alias = registry._set_champion_alias
    done: list[bool] = []

    def set_late(number: str | None) -> None:
        if not done:
            done.append(True)
            assert other.reconcile_and_warn() == "2"
            other.set_champion("3", "promoted", "2", "a test")
        set_alias(number)

    monkeypatch.setattr(registry, "_set_champion_alias", set_late)
    promote(registry, "2")
    assert registry.reconcile_and_warn() == registry.find_by_alias("champion") == "3"
    assert [new for _, new, *_ in moves(registry)] == ["1", "2", "3"]


def test_two_that_make_the_model_share_its_history(
    client: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    create = client.create_registered_model
    rivals: list[ModelRegistry] = []

    def lose_race(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(client, "create_registered_model", create)
        rivals.append(ModelRegistry(client, NAME))
        return create(*arguments, **more)

    monkeypatch.setattr(client, "create_registered_model", lose_race)
    mine = ModelRegistry(client, NAME)
    add(mine, 1, {GATE: "passed", COMPARED_WITH: ""})
    promote(mine, "1")
    assert moves(rivals[0]) == moves(mine) == [(None, "1", "promoted", "ada")]


def test_a_model_that_was_made_by_hand_gets_a_history(client: "MlflowClient") -> None:
    client.create_registered_model(NAME)
    registry = ModelRegistry(client, NAME)
    add(registry, 1, {})
    client.set_registered_model_alias(NAME, "champion", "1")
    assert ModelRegistry(client, NAME).reconcile_and_warn() == "1"
    assert moves(registry) == [(None, "1", "by hand", "unknown")]


def test_the_command(registry: ModelRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"register": {"model_name": NAME}}))
    assert main(["promote", "1"]) == 0
    assert capsys.readouterr().out == "version 1 is the champion; before, there was no champion\n"
    assert main(["promote", "4"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("vitrine: version 4 is not promoted: Reason 4.") and not output.out
    assert main(["promote", "4", "--force", "--reason", "why not"]) == 0
    assert main(["rollback"]) == 0
    assert main(["history"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    registry.client.copy_model_version(f"models:/{NAME}/4", "shop")
    capsys.readouterr()
    for words in (["history"], ["promote", "4"]):
        main(words)
        warning, *_ = capsys.readouterr().err.splitlines()
        assert warning.startswith("product-search: warning: version 4 was copied in MLflow as shop version 1")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr(champion_history.getpass, "getuser", nameless)
    assert champion_history.current_user().startswith("user ")
