"""What people are told about a run: by `submit --wait`, by `status`, and by the webhook.

`pytest tests/pipelines/test_status.py -k table -rP | grep '^|'` prints a table of the messages.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import yaml
from kfp_backend import OUT_OF_MEMORY, TERMINATED, Ending

from catalog.schema import DataError
from pipelines import failures, ir, notify, remote, status
from pipelines.__main__ import main
from pipelines.cluster import load_cluster
from pipelines.step_runner import run_step

ROOT = Path(__file__).parents[2]
UI = "https://kfp.test"


class Messages(NamedTuple):
    """What people read about a run; the id of the run is RUN, and the number of a pod is 1."""

    wait: str
    status: str
    webhook: str | None

    def __str__(self) -> str:
        return "| " + " | ".join((text or "none").replace("\n", "<br>") for text in self) + " |"


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    cluster = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text())
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster | {"ui": UI}))
    return path


@pytest.fixture
def report_run(
    kubeflow: Any,
    pod_server: Any,
    cluster_file: Path,
    compile_once: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[], Messages]:
    """Submit a run, wait for it, and look at it again."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VITRINE_COMMIT", "abc")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(ir, "compile_pipeline", compile_once)
    monkeypatch.setattr(remote, "resolve_commit", lambda *_: "0" * 40)
    monkeypatch.setattr(status, "POLL_INTERVAL", 0)
    monkeypatch.setattr(notify, "find_pipeline_version", lambda _: None)
    pod_server.list_pods = lambda: [pod for run_id in kubeflow.runs for pod in kubeflow.list_pods(run_id)]

    def report() -> Messages:
        capsys.readouterr()
        options = ["--cluster", str(cluster_file), "--host", kubeflow.address]
        code = main(["submit", "--repo", "https://git.test/shop.git", "--wait", *options])
        output = capsys.readouterr()
        (run_id,) = kubeflow.runs
        run = kubeflow.runs[run_id]
        assert code == (run.states[-1] != "SUCCEEDED") and "Traceback" not in output.err
        end = (
            output.err[output.err.index("vitrine: ") :]
            if code
            else output.out.partition(f"run {run_id}\n")[2]
        )
        assert main(["status", run_id, *options]) == 0
        looked = capsys.readouterr().out.partition("\n")[2]
        # KFP gives the exit handler of a terminated run no time
        sent = (
            notify.compose_message(run.final_status["state"], run_id, "training")
            if run.final_status
            else None
        )
        return Messages(*(text and clean(text.strip(), kubeflow, run_id) for text in (end, looked, sent)))

    return report


def clean(text: str, kubeflow: Any, run_id: str) -> str:
    """A message with RUN and POD instead of their ids."""
    for pod in kubeflow.list_pods(run_id):
        text = text.replace(pod["metadata"]["name"], "POD")
    return text.replace(run_id, "RUN")


@pytest.fixture
def fail_step(
    kubeflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str, str], None]:
    """Let a step of the next run raise a DataError, as `run_step` does in a pod."""
    monkeypatch.setattr(failures, "TERMINATION_FILE", tmp_path / "termination-log")
    failures.TERMINATION_FILE.touch()

    def fail(task: str, step: str, message: str) -> None:
        def stage() -> None:
            raise DataError(message)

        with pytest.raises(SystemExit):
            run_step(step, stage)
        kubeflow.backend.endings[task] = Ending(1, "Error", failures.TERMINATION_FILE.read_text())

    return fail


@pytest.mark.parametrize(
    ("task", "step", "message"),
    [
        (
            "resolve",
            "resolve",
            "https://git.test/shop.git has no data.dvc at 'main' (unknown Git revision 'main')",
        ),
        (
            "fetch",
            "fetch",
            "fetch: cannot read the data of https://git.test/shop.git at 000000000000 (403); push it",
        ),
        ("validate", "validate", "MLflow at http://mlflow.mlflow:5000 cannot be reached"),
        (
            "require-valid",
            "require_valid",
            "/data: not fit to use, 1 rule fails:\n  price_range (products): 0 to 1e6; 3 of 10 fail\n"
            "The full report is s3://mlpipeline/v2/report/index.html",
        ),
        ("featurize-shard", "featurize", "data/images/00000.parquet: row 7: no picture"),
        ("gather", "gather", "shard 2 of 4 is missing"),
        ("train", "train", "train: no judged query in the training split"),
        ("evaluate", "evaluate", "evaluate: the test split has no query"),
        ("register", "register", "MLflow at http://mlflow.mlflow:5000 cannot be reached"),
    ],
)
def test_the_table_names_a_failed_step_and_its_reason(
    task: str,
    step: str,
    message: str,
    fail_step: Callable[[str, str, str], None],
    report_run: Callable[[], Messages],
) -> None:
    fail_step(task, step, message)
    messages = report_run()
    count = " (4 pods)" if task == "featurize-shard" else ""
    reason = f"{step}: {message.removeprefix(f'{step}: ')}{count}"
    lines = [*reason.splitlines(), "  kubectl -n kubeflow logs POD -c main", f"{UI}/#/runs/details/RUN"]
    assert messages.status == "\n  ".join(["run RUN failed", *lines])
    assert messages.wait == f"vitrine: {messages.status}"
    assert messages.webhook == "\n".join(["Vitrine: training run RUN failed", *lines[:-1]])
    print(f"| {step} fails {messages}")


def test_the_table_names_a_step_that_lacked_memory(kubeflow: Any, report_run: Callable[[], Messages]) -> None:
    kubeflow.backend.endings["train"] = OUT_OF_MEMORY
    messages = report_run()
    (run,) = kubeflow.runs.values()
    assert run.final_status["state"] == "RUNNING"  # nobody has told KFP
    reason = "train: killed, out of memory (137): raise `steps.train.memory` of the cluster file"
    assert all(
        f" failed\n{' ' * indent}{reason}\n" in text for text, indent in zip(messages, (2, 2, 0), strict=True)
    )
    print(f"| train is killed {messages}")


def test_the_table_names_the_step_of_a_terminated_run(
    kubeflow: Any, report_run: Callable[[], Messages]
) -> None:
    """KFP's state of it is FAILED."""
    kubeflow.backend.endings["train"] = TERMINATED
    messages = report_run()
    line = "run RUN was terminated on request in train; no step failed by itself"
    assert messages.status == f"{line}\n  {UI}/#/runs/details/RUN"
    assert messages.wait == f"vitrine: {messages.status}"
    assert messages.webhook is None
    print(f"| terminated during train {messages}")


@pytest.mark.parametrize("verdict", ["passed", "failed"])
def test_the_table_names_the_verdict_of_the_gate(
    verdict: str, report_run: Callable[[], Messages], monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {"vitrine.gate": verdict, "vitrine.reasons": f"Gate {verdict}: ndcg@10 is 3 % better."}
    version = SimpleNamespace(name="product-search", version="7", tags=tags)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.test")
    monkeypatch.setattr(notify, "find_pipeline_version", lambda _: version)
    messages = report_run()
    sentence = f"product-search version 7. Gate {verdict}: ndcg@10 is 3 % better."
    page = "http://mlflow.test/#/models/product-search/versions/7"
    assert messages.webhook == f"Vitrine: training run RUN succeeded: {sentence}\n{page}"
    assert (
        messages.wait
        == messages.status
        == "\n  ".join(["run RUN succeeded", sentence, page, f"{UI}/#/runs/details/RUN"])
    )
    print(f"| gate {verdict} {messages}")


def test_without_mlflow_the_verdict_is_not_known_here(report_run: Callable[[], Messages]) -> None:
    assert "its gate is in MLflow; set MLFLOW_TRACKING_URI to see it here" in report_run().wait


def test_without_a_cluster_the_step_is_named_with_its_command(
    kubeflow: Any, report_run: Callable[[], Messages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.backend.endings["train"] = OUT_OF_MEMORY
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert report_run().status.splitlines()[1:3] == [
        "  train: the reason is in the log: no Kubernetes cluster is configured here",
        "    kubectl -n kubeflow logs -l 'pipeline/runid=RUN,vitrine/step in (train)' --prefix -c main",
    ]


def make_run(state: str, *tasks: tuple[str, str], history: tuple[str, ...] = ()) -> Any:
    """A run with tasks, each a name and a state, in the order of their start."""
    details = [
        SimpleNamespace(display_name=name, state=state, start_time=str(number))
        for number, (name, state) in enumerate(tasks)
    ]
    return SimpleNamespace(
        run_id="r1",
        state=state,
        state_history=[SimpleNamespace(state=state) for state in history],
        run_details=SimpleNamespace(task_details=details) if details else None,
    )


def test_the_progress_of_a_run_names_the_steps_that_run() -> None:
    assert status.describe_progress(make_run("PENDING")) == "pending"
    running = [
        ("root", "RUNNING"),
        ("fetch", "SUCCEEDED"),
        ("train-driver", "RUNNING"),
        ("executor", "RUNNING"),
    ]
    assert status.describe_progress(make_run("RUNNING", *running, ("train", "RUNNING"))) == "running: train"
    shards = [("featurize-shard", "RUNNING"), ("featurize-shard(0)", "RUNNING")] * 2
    assert status.describe_progress(make_run("RUNNING", *shards)) == "running: featurize"


def test_an_attempt_that_failed_is_no_failed_step() -> None:
    run = make_run("FAILED", ("fetch(0)", "FAILED"), ("fetch(1)", "SUCCEEDED"), ("fetch", "SUCCEEDED"))
    assert status.list_steps(run, "FAILED") == []


def test_waiting_prints_a_line_for_each_change_and_every_ten_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output of a test is no terminal."""
    runs = [make_run("PENDING"), *[make_run("RUNNING", ("train", "RUNNING"))] * 130, make_run("SUCCEEDED")]
    now = [0.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(status.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    client = SimpleNamespace(get_run=lambda _: runs.pop(0))
    assert status.wait_for_run(client, "r1").state == "SUCCEEDED"
    lines = ["00:00 pending", "00:10 running: train", "10:10 running: train", "20:10 running: train"]
    assert capsys.readouterr().err.splitlines() == lines


def test_the_steps_of_the_pipeline_are_those_of_the_cluster_file(
    compile_once: Any, cluster_file: Path
) -> None:
    """Each pod has a label with a step; `status` finds the same step by the name of the task."""
    cluster = load_cluster(cluster_file)
    spec, settings = ir.parse_pipeline(compile_once(cluster, "abc", {}))
    components = {component.executor_label: name for name, component in spec.components.items()}
    labels = {
        failures.parse_task(components[executor].removeprefix("comp-")): config["podMetadata"]["labels"]
        for executor, config in settings.items()
    }
    assert len(labels) > 8
    assert all(label[failures.STEP_LABEL] == step for step, label in labels.items())
