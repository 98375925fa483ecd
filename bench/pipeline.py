"""What the pipeline costs on top of its stages, here: kfp's local runner beside the same commands one after the other.

python bench/pipeline.py          # on this project's data and params.yaml; some minutes
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

FETCH = "from pathlib import Path; from pipelines.fetch import fetch; import sys; "
FETCH += "fetch('.', 'HEAD', Path(sys.argv[1]))"


def timed(*words: str) -> float:
    """Seconds that a Python command takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print both, and the difference."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"fetch": timed("-c", FETCH, f"{folder}/data")}
        for name, stage in stages.items():
            words = stage["cmd"].split()[1:]  # after `python`
            seconds[name] = timed(*(word.replace("artifacts/", f"{folder}/") for word in words))
        whole = timed("-m", "pipelines", "run", "--root", f"{folder}/pipeline")
    alone = sum(seconds.values())
    print("  ".join(f"{name} {took:.1f} s" for name, took in seconds.items()))
    print(f"stages {alone:.1f} s, pipeline {whole:.1f} s: {whole - alone:+.1f} s, {whole / alone - 1:+.1%}")


if __name__ == "__main__":
    main()
