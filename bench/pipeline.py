"""Overhead of the pipeline on this machine: kfp's local runner compared with the commands of the stages in a row.

python bench/pipeline.py          # on this project's data and params.yaml; some minutes
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

FETCH = "from pathlib import Path; from pipelines.fetch import fetch_data, resolve_version; import sys; "
FETCH += "fetch_data('.', *resolve_version('.', 'HEAD')[1:], Path(sys.argv[1]))"


def measure(*words: str) -> float:
    """Seconds of a Python command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the seconds of both, and the difference."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"fetch": measure("-c", FETCH, f"{folder}/data")}
        for name, stage in stages.items():
            words = stage["cmd"].split()[1:]  # after `python`
            seconds[name] = measure(*(word.replace("artifacts/", f"{folder}/") for word in words))
        pipeline_seconds = measure("-m", "pipelines", "run", "--root", f"{folder}/pipeline")
    stage_seconds = sum(seconds.values())
    overhead = pipeline_seconds - stage_seconds
    print("  ".join(f"{name} {duration:.1f} s" for name, duration in seconds.items()))
    print(f"stages {stage_seconds:.1f} s, pipeline {pipeline_seconds:.1f} s: ", end="")
    print(f"{overhead:+.1f} s, {overhead / stage_seconds:+.1%}")


if __name__ == "__main__":
    main()
