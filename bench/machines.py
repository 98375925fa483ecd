"""How much figures differ between machines: the same training with other numbers of threads and instruction sets.

    python bench/machines.py RUNS

Each setting trains and evaluates on the features in artifacts/featurize, with environment variables of PyTorch, oneDNN
and MKL that limit what they use of this machine's processor. A folder of RUNS holds the outputs of a setting; existing
folders are not made again. Prints a Markdown table: NDCG@10 of the candidate by segment, and the largest difference.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from vitrine_judge.metrics import Scores

from catalog.progress import show_progress
from scoring.systems import CANDIDATE

PRIMARY = "ndcg@10"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SETTINGS: dict[str, dict[str, str]] = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "AVX2, 2 threads": {"OMP_NUM_THREADS": "2", **AVX2},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    folder = parser.parse_args().runs
    means = {
        name: run_setting(folder / name.replace(" ", "-"), SETTINGS[name]) for name in show_progress(SETTINGS)
    }
    print(format_table(means))


def run_setting(folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Train and evaluate, if not done before.

    Returns:
        NDCG@10 of the candidate by segment; "all" for all queries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stages = {
        "model": ["train"],
        "evaluation": ["evaluate", "--data", "data", "--model", str(folder / "model")],
    }
    for name, words in stages.items():
        if not (folder / name).exists():
            command = [sys.executable, "-m", "components", *words, "--features", "artifacts/featurize"]
            with (folder / f"{name}.log").open("w") as log:
                subprocess.run(
                    [*command, f"--{name}", str(folder / name)],
                    check=True,
                    stdout=log,
                    stderr=log,
                    env=os.environ | environment,
                )
    values = Scores.from_parquet(folder / "evaluation" / "scores" / f"{CANDIDATE}.parquet").values[PRIMARY]
    segments = pq.read_table(folder / "evaluation" / "queries.parquet")["segment"].to_numpy()
    by_segment = {str(name): float(values[segments == name].mean()) for name in np.unique(segments)}
    return {"all": float(values.mean())} | by_segment


def format_table(means: dict[str, dict[str, float]]) -> str:
    """A row for each segment: the mean of each setting, and the difference between the highest and the lowest."""
    lines = [f"| segment | {' | '.join(means)} | difference |", "|" + "---|" * (len(means) + 2)]
    for segment in next(iter(means.values())):
        values = [setting[segment] for setting in means.values()]
        cells = [segment, *(f"{value:.3f}" for value in values), f"{max(values) - min(values):.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
