import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from catalog.schema import DataError
from registry import model_logging, tracking
from registry import model_registry as module
from registry.__main__ import main
from registry.model_registry import COMPARED_WITH, GATE, REASONS, Registry
from registry.promotion import history, promote, rollback

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "product-search"


@pytest.fixture
def registry(client: "MlflowClient") -> Registry:
    """With four versions: 1 to 3 passed, 1 without and the others against version 1; 4 failed."""
    made = Registry(client, NAME)
    for number, (verdict, against) in enumerate(
        [("passed", ""), ("passed", "1"), ("passed", "1"), ("failed", "1")], start=1
    ):
        add(made, number, {GATE: verdict, COMPARED_WITH: against, REASONS: f"Reason {number}."})
    return made


def add(registry: Registry, number: int, tags: dict[str, str]) -> None:
    experiment = tracking.experiment(registry.client, tracking.EXPERIMENT)
    run = registry.client.create_run(experiment).info.run_id
    version = registry.client.create_model_version(NAME, f"runs:/{run}/model", run, tags)
    assert int(version.version) == number


def moves(registry: Registry) -> list[tuple[str | None, str | None, str, str]]:
    return [(move.old, move.new, move.how, move.by) for move in registry.moves()]


def names(registry: Registry) -> dict[str, str]:
    """Version → the name of its run."""
    return {
        str(one.version): registry.client.get_run(one.run_id).info.run_name for one in registry.versions()
    }


def test_promoted_then_rolled_back(registry: Registry) -> None:
    assert promote(registry, "1") == "version 1 is the champion; before, there was no champion"
    assert promote(registry, "2") == "version 2 is the champion; before, there was version 1"
    assert promote(registry, "2") == "version 2 is the champion already"
    assert (names(registry)["1"], names(registry)["2"]) == ("version 1", "version 2 · champion")
    assert rollback(registry) == "version 1 is the champion again; before, it was version 2"
    assert registry.alias("champion") == "1"
    assert (names(registry)["1"], names(registry)["2"]) == ("version 1 · champion", "version 2")
    with pytest.raises(DataError, match="product-search has no previous champion to go back to"):
        rollback(registry)
    assert moves(registry) == [
        (None, "1", "promoted", "ada"),
        ("1", "2", "promoted", "ada"),
        ("2", "1", "rolled back", "ada"),
    ]


def test_each_rollback_goes_one_further_back(registry: Registry) -> None:
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
        ("3", "it was judged against version 1, and now there is version 2; register it again"),
        ("5", "no gate has judged it"),
    ],
)
def test_what_the_gate_did_not_pass_needs_force_and_a_reason(
    registry: Registry, number: str, reason: str
) -> None:
    add(registry, 5, {})
    promote(registry, "1")
    promote(registry, "2")
    with pytest.raises(DataError, match=f"version {number} is not promoted: {reason}"):
        promote(registry, number)
    for force, text in ((True, ""), (True, "  "), (False, "because"), (True, "x" * 1001)):
        with pytest.raises(DataError, match="--force and --reason go together"):
            promote(registry, number, force, text)
    assert registry.alias("champion") == "2" and len(moves(registry)) == 2
    promote(registry, number, force=True, reason="the shop window needs it")
    assert registry.alias("champion") == number
    assert registry.moves()[-1].reason == "the shop window needs it"
    assert "the shop window needs it" in history(registry)


def test_a_version_that_is_not_there(registry: Registry) -> None:
    with pytest.raises(DataError, match="product-search has no version 9; there are 1, 2, 3, 4"):
        promote(registry, "9")
    with pytest.raises(DataError, match="has no version one"):
        promote(registry, "one")


def test_a_move_by_hand_is_noticed(registry: Registry) -> None:
    promote(registry, "1")
    registry.client.set_registered_model_alias(NAME, "champion", "4")
    assert registry.settle() == "4"
    registry.client.delete_registered_model_alias(NAME, "champion")
    assert registry.settle() is None
    assert registry.settle() is None
    assert moves(registry)[1:] == [("1", "4", "by hand", "unknown"), ("4", None, "by hand", "unknown")]
    assert [move.verdict for move in registry.moves()] == ["passed", "failed", ""]
    assert rollback(registry) == "version 4 is the champion again; before, it was none"


def warnings(registry: Registry, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the next command says on stderr."""
    capsys.readouterr()
    Registry(registry.client, NAME).settle()
    return capsys.readouterr().err.splitlines()


def test_a_champion_by_hand_against_the_gate_is_warned_of_until_it_is_undone(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(registry, "1")
    registry.client.set_registered_model_alias(NAME, "champion", "2")
    assert warnings(registry, capsys) == []  # its gate passed
    registry.client.set_registered_model_alias(NAME, "champion", "4")
    line = (
        "product-search: warning: version 4 was made champion by hand, and its gate failed; to undo: python -m "
        "registry.model_registry rollback"
    )
    assert warnings(registry, capsys) == warnings(registry, capsys) == [line]
    assert len(moves(registry)) == 3
    registry.settle()
    registry.settle()
    assert capsys.readouterr().err.splitlines() == [line]  # once in a process
    assert (
        rollback(Registry(registry.client, NAME))
        == "version 2 is the champion again; before, it was version 4"
    )
    assert not capsys.readouterr().err
    assert warnings(registry, capsys) == []
    promote(registry, "4", force=True, reason="a person's decision, with a reason, is no surprise")
    assert warnings(registry, capsys) == []


def test_a_first_champion_by_hand_cannot_be_rolled_back(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    add(registry, 5, {})
    registry.client.set_registered_model_alias(NAME, "champion", "5")
    (line,) = warnings(registry, capsys)
    assert line.endswith("no gate has judged it; to undo: python -m registry promote VERSION")


@pytest.mark.parametrize("model", ["shop (live)", NAME])
def test_a_copy_by_mlflow_against_the_gate_is_written_down_once_and_warned_of_until_it_is_deleted(
    registry: Registry, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """With the call that the button "Promote model" of MLflow's page makes."""
    promote(registry, "1")
    registry.client.copy_model_version(f"models:/{NAME}/1", "harmless")  # its gate passed
    assert warnings(registry, capsys) == []
    copy = registry.client.copy_model_version(f"models:/{NAME}/4", model)
    line = (
        f"product-search: warning: version 4 was copied as {model} version {copy.version} in MLflow, and its gate "
        f"failed; to undo: delete version {copy.version} of {model} in MLflow"
    )
    assert warnings(registry, capsys) == warnings(registry, capsys) == [line]
    (written,) = registry.copies()
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
    assert registry.alias("champion") == "1" and len(moves(registry)) == 1
    registry.client.delete_model_version(model, copy.version)
    assert warnings(registry, capsys) == []
    assert registry.copies() == [written]


def test_a_copy_that_two_notice_at_once_is_written_down_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.client.copy_model_version(f"models:/{NAME}/4", "shop")
    log_param = registry.client.log_param

    def beaten(run: str, key: str, value: str) -> None:
        log_param(run, key, value.replace("failed", "undecided"))  # judged again in between
        log_param(run, key, value)

    monkeypatch.setattr(registry.client, "log_param", beaten)
    registry.settle()
    assert [copy.verdict for copy in registry.copies()] == ["undecided"]


def test_the_chain_does_not_take_a_copy_for_its_version(registry: Registry) -> None:
    """Both have the same run; a copy that the chain took for a duplicate would be deleted."""
    (version,) = [version for version in registry.versions() if str(version.version) == "4"]
    registry.client.copy_model_version(f"models:/{NAME}/4", "shop")
    registry.client.copy_model_version(f"models:/{NAME}/4", NAME)
    run = registry.client.get_run(version.run_id)
    versions = model_logging._versions(registry.client, run, NAME)
    assert [(version.name, str(version.version)) for version in versions] == [(NAME, "4")]


def test_who_challenges_no_longer_does_when_promoted(registry: Registry) -> None:
    registry.challenge("1", earned=True)
    assert names(registry)["1"] == "version 1 · challenger"
    registry.challenge("2", earned=True)
    assert (names(registry)["1"], names(registry)["2"]) == ("version 1", "version 2 · challenger")
    registry.challenge("1", earned=False)  # another one's alias is not taken away
    assert registry.alias("challenger") == "2"
    registry.challenge("2", earned=False)
    assert registry.alias("challenger") is None
    registry.challenge("1", earned=True)
    promote(registry, "1")
    assert (registry.alias("champion"), registry.alias("challenger")) == ("1", None)


def test_the_history_is_a_table(registry: Registry) -> None:
    assert history(registry) == "no champion yet"
    promote(registry, "1")
    heads, line = history(registry).splitlines()
    assert heads.split() == ["when", "from", "to", "how", "by", "gate", "reason"]
    assert line.split()[1:] == ["–", "1", "promoted", "ada", "passed"]


@pytest.mark.parametrize("after", ["log_param", "set_registered_model_alias"])
def test_an_interrupted_promotion_is_finished_by_the_next_command(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    promote(registry, "1")
    original = getattr(registry.client, after)

    def once(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry.client, after, once)
        promote(registry, "2")
    assert Registry(registry.client, NAME).settle() == "2"
    assert registry.alias("champion") == "2"
    assert [how for *_, how, _ in moves(registry)] == ["promoted", "promoted"]


def test_nothing_that_is_written_can_be_changed(registry: Registry) -> None:
    from mlflow.exceptions import MlflowException

    promote(registry, "1")
    run = registry.client.get_registered_model(NAME).tags[module.HISTORY]
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        registry.client.log_param(run, "0001", "something else")


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(registry: Registry) -> None:
    """Each has seen version 1 as champion before either moves."""
    promote(registry, "1")
    together = threading.Barrier(2)
    told: dict[str, str] = {}

    class Slow(Registry):
        def move(self, *arguments: Any) -> None:
            together.wait()
            super().move(*arguments)

    def attempt(number: str) -> None:
        try:
            told[number] = promote(Slow(registry.client, NAME), number)
        except DataError as error:
            told[number] = str(error)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion = registry.settle()
    assert champion in {"2", "3"}
    (other,) = {"2", "3"} - {champion}
    assert told[champion] == f"version {champion} is the champion; before, there was version 1"
    assert told[other].startswith(
        f"product-search: version {other} is not champion: ada was faster, and version "
    )
    assert moves(registry)[1:] == [("1", champion, "promoted", "ada")]


def test_a_late_hand_does_not_undo_what_came_after(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still between writing its move down and making it, while others went on."""
    promote(registry, "1")
    other = Registry(registry.client, NAME)
    point = registry._point
    again: list[bool] = []

    def late(number: str | None) -> None:
        if not again:
            again.append(True)
            assert other.settle() == "2"
            other.move("3", "promoted", "2", "a test")
        point(number)

    monkeypatch.setattr(registry, "_point", late)
    promote(registry, "2")
    assert registry.settle() == registry.alias("champion") == "3"
    assert [new for _, new, *_ in moves(registry)] == ["1", "2", "3"]


def test_two_that_make_the_model_share_its_history(
    client: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    create = client.create_registered_model
    rivals: list[Registry] = []

    def beaten(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(client, "create_registered_model", create)
        rivals.append(Registry(client, NAME))
        return create(*arguments, **more)

    monkeypatch.setattr(client, "create_registered_model", beaten)
    mine = Registry(client, NAME)
    add(mine, 1, {GATE: "passed", COMPARED_WITH: ""})
    promote(mine, "1")
    assert moves(rivals[0]) == moves(mine) == [(None, "1", "promoted", "ada")]


def test_a_model_that_was_made_by_hand_gets_a_history(client: "MlflowClient") -> None:
    client.create_registered_model(NAME)
    made = Registry(client, NAME)
    add(made, 1, {})
    client.set_registered_model_alias(NAME, "champion", "1")
    assert Registry(client, NAME).settle() == "1"
    assert moves(made) == [(None, "1", "by hand", "unknown")]


def test_the_command(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"register": {"model_name": NAME}}))
    assert main(["promote", "1"]) == 0
    assert capsys.readouterr().out == "version 1 is the champion; before, there was no champion\n"
    assert main(["promote", "4"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("vitrine: version 4 is not promoted: Reason 4.") and not said.out
    assert main(["promote", "4", "--force", "--reason", "why not"]) == 0
    assert main(["rollback"]) == 0
    assert main(["history"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    registry.client.copy_model_version(f"models:/{NAME}/4", "shop")
    capsys.readouterr()
    for words in (["history"], ["promote", "4"]):
        main(words)
        warning, *_ = capsys.readouterr().err.splitlines()
        assert warning.startswith("product-search: warning: version 4 was copied as shop version 1")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr(module.getpass, "getuser", nameless)
    assert module.user().startswith("user ")
