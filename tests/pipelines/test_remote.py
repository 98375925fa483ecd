"""submit, schedule, schedules and status, through kfp's own client against its HTTP API."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_backend import OUT_OF_MEMORY

from pipelines import ir, remote, status
from pipelines.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repo(tmp_path: Path) -> str:
    """The URL of a git repository on localhost, as another machine would name it."""
    folder = tmp_path / "shop"
    folder.mkdir()
    who = ["-c", "user.name=shop", "-c", "user.email=shop"]
    for words in (
        ["init", "--quiet", "--initial-branch", "main"],
        [*who, "commit", "--quiet", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return f"file://localhost{folder}"


@pytest.fixture
def call(
    kubeflow: Any,
    repo: str,
    compile_once: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run a command; returns its exit code, stdout and stderr."""
    monkeypatch.setattr(ir, "compile_pipeline", compile_once)
    monkeypatch.setattr(status, "POLL_INTERVAL", 0)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(remote, "find_repo", lambda url: url or repo)

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--host", kubeflow.address])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


NIGHTLY = ["schedule", "nightly", "--rev", "main", "--cron", "0 2 * * *"]


def test_submit_sends_commit_params_and_service_account(kubeflow: Any, call: Any, repo: str) -> None:
    code, out, err = call("submit", "--wait")
    assert code == 0, err
    (run,) = kubeflow.objects["runs"].values()
    assert out.splitlines()[:2] == [f"run {run['run_id']}", f"run {run['run_id']} succeeded"]
    sent = run["runtime_config"]["parameters"]
    commit = subprocess.run(
        ["git", "-C", repo.removeprefix("file://localhost"), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (sent["repo"], sent["rev"]) == (repo, commit.stdout.strip())
    assert sent["train"]["fusion"] == yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["fusion"]
    assert run["service_account"] == "vitrine"
    assert run["plugins_input"] == {"mlflow": {"experiment_name": "product-search"}}
    _, version = kubeflow.objects["versions"].values()  # KFP makes the first from the upload of the pipeline
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    checkout = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert version["display_name"].startswith(checkout[:12])


def test_the_same_pipeline_is_uploaded_once(kubeflow: Any, call: Any) -> None:
    outputs = [call("submit") for _ in range(2)]
    assert outputs == [(0, f"run {run}\n", "") for run in kubeflow.objects["runs"]]
    assert {kind: len(kubeflow.objects[kind]) for kind in ("pipelines", "versions", "experiments")} == {
        "pipelines": 1,
        "versions": 2,
        "experiments": 1,
    }


def test_a_run_that_fails_is_an_error(kubeflow: Any, call: Any) -> None:
    kubeflow.backend.endings["train"] = OUT_OF_MEMORY
    code, _, err = call("submit", "--wait")
    assert code == 1 and "\n  train: " in err and "Traceback" not in err


def test_dry_run_shows_everything_and_sends_nothing(kubeflow: Any, call: Any) -> None:
    for words in (["submit"], NIGHTLY):
        code, out, _ = call(*words, "--dry-run")
        header, spec, platform = yaml.safe_load_all(out)
        assert code == 0 and header["pipeline"] == spec["pipelineInfo"]["name"]
        assert header["parameters"]["evaluate"]["depth"] == 100 and "platforms" in platform
    assert header["cron"] == "0 0 2 * * *" and header["catch_up"] is False
    assert not any(kubeflow.objects.values())


@pytest.mark.slow
def test_a_schedule_of_the_same_name_is_replaced_and_stays_paused(kubeflow: Any, call: Any) -> None:
    assert call(*NIGHTLY)[0] == 0
    (first,) = kubeflow.objects["recurringruns"].values()
    assert first["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert not first.get("plugins_input")  # with it, KFP 2.17.0 loses the parameters of a schedule
    assert first["no_catchup"] is True and first["max_concurrency"] in {1, "1"} and first["mode"] == "ENABLE"
    assert first["runtime_config"]["parameters"]["rev"] == "main"  # each run resolves it

    code, out, _ = call("schedule", "weekly", "--cron", "0 3 * * MON", "--catch-up", "--concurrency", "2")
    assert code == 0 and "missed runs: all; at most 2 at a time" in out
    assert call("schedules", "pause", "nightly")[:2] == (0, "schedule nightly: paused\n")
    code, out, _ = call("schedule", "nightly", "--cron", "30 15 4 * * *")
    assert code == 0 and "schedule nightly replaced: 30 15 4 * * * (UTC), paused" in out
    code, out, _ = call("schedules")
    assert sorted(out.splitlines()) == [
        "nightly\t30 15 4 * * *\tpaused\tvitrine-training",
        "weekly\t0 0 3 * * MON\tactive\tvitrine-training",
    ]
    assert call("schedules", "resume", "nightly")[0] == 0
    assert "nightly\t30 15 4 * * *\tactive" in call("schedules")[1]
    assert call("schedules", "delete", "nightly")[0] == call("schedules", "delete", "weekly")[0] == 0
    assert not kubeflow.objects["recurringruns"]


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """A serving.yaml with a log in a store."""
    path = tmp_path / "serving.yaml"
    path.write_text("log: {folder: s3://shop/log}")
    return str(path)


def test_submit_and_schedule_take_another_pipeline(
    kubeflow: Any, call: Any, repo: str, settings: str
) -> None:
    """With its own name and its parameters of both files."""
    code, out, err = call("submit", "--pipeline", "refresh", "--wait")
    assert code == 0 and "verdict" not in out, err
    (run,) = kubeflow.objects["runs"].values()
    assert run["display_name"].startswith("vitrine-refresh ")
    validate, max_removed = (
        yaml.safe_load((ROOT / name).read_text())[section]
        for name, section in (("params.yaml", "validate"), ("serving.yaml", "refresh"))
    )
    sent = run["runtime_config"]["parameters"]
    assert set(sent) == {"repo", "rev", "validate", "refresh", "model_name"} and sent["repo"] == repo
    assert sent["refresh"]["max_removed"] == max_removed["max_removed"]
    assert sent["validate"]["max_drift"] == validate["max_drift"]

    words = ["schedule", "watch", "--pipeline", "monitor", "--rev", "main", "--cron", "0 6 * * *"]
    assert call(*words, "--settings", settings)[0] == 0
    (watch,) = kubeflow.objects["recurringruns"].values()
    assert watch["runtime_config"]["parameters"]["log"]["folder"] == "s3://shop/log"
    assert call("schedules")[1] == "watch\t0 0 6 * * *\tactive\tvitrine-monitor\n"
    names = [pipeline["display_name"] for pipeline in kubeflow.objects["pipelines"].values()]
    assert names == ["vitrine-refresh", "vitrine-monitor"]


def test_a_schedule_does_not_replace_that_of_another_pipeline(
    kubeflow: Any, call: Any, settings: str
) -> None:
    words = ["schedule", "nightly", "--rev", "main", "--cron", "0 2 * * *", "--pipeline"]
    assert call(*words, "monitor", "--settings", settings)[0] == 0
    code, _, err = call(*words, "refresh")
    assert code == 1 and "schedule nightly: it runs the pipeline vitrine-monitor" in err
    assert len(kubeflow.objects["recurringruns"]) == len(kubeflow.objects["pipelines"]) == 1


@pytest.mark.slow
def test_only_schedules_of_the_same_name_are_replaced(kubeflow: Any, call: Any) -> None:
    kubeflow.page_limit = 2  # so that there are several pages
    for name in ("a", "b", "c", "d", "c"):
        assert call("schedule", name, "--cron", "0 2 * * *")[0] == 0
    assert sorted(schedule["display_name"] for schedule in kubeflow.objects["recurringruns"].values()) == [
        "a",
        "b",
        "c",
        "d",
    ]


def test_status(kubeflow: Any, call: Any) -> None:
    assert call("submit")[0] == 0
    (run,) = kubeflow.objects["runs"]
    assert f"{run}\tPENDING" in call("status", run)[1]
    assert "\nrunning" in call("status", run)[1]
    assert f"\nrun {run} succeeded\n" in call("status", run)[1]
    assert call("status")[1].count(run) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["schedule", "n", "--cron", "0 25 * * *"], "hour: 25 is not within 0-23"),
        (
            ["schedule", "n", "--cron", "0 2 * * *", "--timezone", "Europe/Paris"],
            "set CRON_SCHEDULE_TIMEZONE",
        ),
        (["schedule", "n", "--cron", "0 2 * * *", "--concurrency", "11"], "KFP accepts 1 to 10"),
        (["schedule", "n", "--cron", "0 2 * * *", "--rev", "no-such"], "no commit 'no-such'"),
        (["submit", "--rev", "no-such"], "no commit 'no-such'"),
        (["submit", "--cluster", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["submit", "--pipeline", "monitor"], "log.folder: null: pods cannot read it"),
        (["schedules", "pause"], "schedules pause: give the name of a schedule"),
        (["schedules", "delete", "other"], "no schedule 'other'; existing schedules: none"),
    ],
)
def test_bad_input_is_one_message_and_sends_nothing(
    words: list[str], message: str, kubeflow: Any, call: Any
) -> None:
    code, _, err = call(*words)
    assert code == 1 and message in err.splitlines()[-1] and "Traceback" not in err
    assert not any(kubeflow.objects[kind] for kind in ("pipelines", "runs", "recurringruns"))


def test_a_refusal_of_kfp_is_reported(kubeflow: Any, call: Any) -> None:
    kubeflow.refusing = 403
    code, _, err = call("submit")
    assert code == 1 and 'Kubeflow Pipelines refuses (403): {"message": "not today"}' in err


@pytest.mark.parametrize(
    ("repo_", "message"),
    [
        ("https://me:hunter2@git.test/shop.git", "--repo git.test/shop.git: the URL holds a password"),
        ("/srv/shop", "--repo /srv/shop: is a path of this machine"),
        ("file:///srv/shop", "is a path of this machine"),
    ],
)
def test_a_repository_that_no_pod_can_reach(
    repo_: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", "--repo", repo_, "--cluster", str(ROOT / "deploy" / "cluster.yaml")]
    assert main(words) == 1
    stderr = capsys.readouterr().err
    assert message in stderr and "hunter2" not in stderr
