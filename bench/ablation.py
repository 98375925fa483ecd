"""Ablation: trains and evaluates a grid of settings with several seeds, and tests the differences.

    python bench/ablation.py RUNS fusion=concat,gated,attention,coattention loss=graded,binary seed=0,1,2 > TABLE.md

Every run is a folder of RUNS with the outputs of `python -m components train` and `evaluate`. Existing runs are not
repeated, so a grid can be interrupted and extended. Settings are parameters of the section `train` of params.yaml;
parameters that are not in the grid keep their value there.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import yaml
from vitrine_judge.metrics import Scores
from vitrine_judge.significance import PairedResult, paired_test

from catalog import store
from catalog.progress import show_progress
from scoring.systems import CANDIDATE

PRIMARY = "ndcg@10"
TOWERS = ("text-only", "image-only", "video-only")
SEEDS = "seed"

Setting = dict[str, object]
Groups = dict[tuple[object, ...], list[Path]]  # folders of runs by the values of `parameter_names`


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser(__doc__).parse_args(argv)
    print(format_results(arguments.grid, run_grid(arguments)))


def build_parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments of a script that runs a grid."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument(
        "grid", nargs="+", metavar="PARAMETER=VALUE,…", help="parameters of the section train"
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--features", type=Path, default=Path("artifacts/featurize"))
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="parallel runs, one core each"
    )
    return parser


def run_grid(arguments: argparse.Namespace) -> Groups:
    """Run all settings of a grid; returns the folders of each setting, one for each seed."""
    settings = list(combinations(arguments.grid))
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = pool.map(
            lambda setting: run_setting(arguments.runs, setting, arguments.data, arguments.features), settings
        )
        folders = list(show_progress(results, "runs", len(settings)))
    names = parameter_names(arguments.grid)
    groups: Groups = {}
    for setting, folder in zip(settings, folders, strict=True):
        groups.setdefault(tuple(setting[name] for name in names), []).append(folder)
    return groups


def parameter_names(grid: Sequence[str]) -> list[str]:
    """The names in a grid, except the seed."""
    return [word.partition("=")[0] for word in grid if not word.startswith(f"{SEEDS}=")]


def combinations(grid: Iterable[str]) -> Iterable[Setting]:
    """All settings of a grid such as ["fusion=concat,gated", "seed=0,1"]."""
    parameters = [word.partition("=")[::2] for word in grid]
    values = [[yaml.safe_load(value) for value in text.split(",")] for _, text in parameters]
    for combination in product(*values):
        yield {name: value for (name, _), value in zip(parameters, combination, strict=True)}


def run_setting(runs: Path, setting: Setting, data: Path, features: Path) -> Path:
    """Train and evaluate one setting, if not done before; returns the folder with `model` and `evaluation`."""
    folder = runs / ",".join(f"{name}={value}" for name, value in setting.items())
    with store.new_atomic_dir(folder / "params") as out:
        train = yaml.safe_load(Path("params.yaml").read_text())["train"] | setting
        (out / "params.yaml").write_text(yaml.safe_dump({"train": train, "evaluate": {"holdout": 0.0}}))
    common = ["--features", features, "--params", folder / "params" / "params.yaml"]
    stages = {
        "model": ["train", "--model", folder / "model"],
        "evaluation": [
            "evaluate",
            "--data",
            data,
            "--model",
            folder / "model",
            "--evaluation",
            folder / "evaluation",
        ],
    }
    for name, words in stages.items():
        if not (folder / name).exists():
            command = [sys.executable, "-m", "components", *map(str, words), *map(str, common)]
            with (folder / f"{name}.log").open("w") as log:
                subprocess.run(
                    command, check=True, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
                )
    return folder


def format_results(grid: Sequence[str], groups: Groups) -> str:
    """Markdown: mean and standard deviation over seeds, and the fused model against the best tower.

    The test is paired over queries; each query has its mean over the seeds.
    """
    names = parameter_names(grid)
    lines = [
        f"    python bench/ablation.py RUNS {' '.join(grid)}",
        "",
        f"{PRIMARY} on the test queries, mean ± standard deviation over seeds. The gain is over the best tower of the "
        "same runs; p is of a paired randomisation test over queries, each with its mean over the seeds.",
        "",
        f"| {' | '.join(names)} | seeds | fused | best tower | gain | p |",
        "|" + "---|" * (len(names) + 5),
    ]
    fused: dict[tuple[object, ...], np.ndarray] = {}
    for values, runs in groups.items():
        fused_scores = load_scores(runs, CANDIDATE)
        towers = {name: load_scores(runs, name) for name in list_towers(runs)}
        name, best = max(towers.items(), key=lambda item: item[1].mean())
        fused[values] = fused_scores
        test = test_difference(fused_scores, best)
        gain = fused_scores.mean() / best.mean() - 1
        cells = [
            *map(str, values),
            str(len(runs)),
            format_mean(fused_scores),
            f"{name} {best.mean():.3f}",
            f"{gain:+.0%}",
            format_p(test.p_value),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *compare_values(names, fused)]
    return "\n".join(lines)


def compare_values(names: Sequence[str], fused: Mapping[tuple[object, ...], np.ndarray]) -> Iterable[str]:
    """The first value of each parameter against its other values, over all settings of the other parameters."""
    yield "| parameter | first | against | difference in the fused model | p |"
    yield "|---|---|---|---|---|"
    for place, name in enumerate(names):
        first, *alternatives = dict.fromkeys(values[place] for values in fused)
        for alternative in alternatives:
            pairs = [
                (fused[values], fused[(*values[:place], alternative, *values[place + 1 :])])
                for values in fused
                if values[place] == first and (*values[:place], alternative, *values[place + 1 :]) in fused
            ]
            test = test_difference(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
            yield f"| {name} | {first} | {alternative} | {test.difference:+.3f} | {format_p(test.p_value)} |"


def list_towers(runs: Sequence[Path]) -> list[str]:
    metrics = json.loads((runs[0] / "evaluation" / "metrics.json").read_text())
    return [name for name in TOWERS if name in metrics]


def load_scores(runs: Sequence[Path], system: str) -> np.ndarray:
    """Scores of every seed and query, float (S, Q)."""
    files = [run / "evaluation" / "scores" / f"{system}.parquet" for run in runs]
    return np.stack([Scores.from_parquet(file).values[PRIMARY] for file in files])


def format_mean(values: np.ndarray) -> str:
    """The mean of (S, Q), and the standard deviation over the S seeds if there are several."""
    deviation = f" ± {values.mean(1).std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def test_difference(scores: np.ndarray, reference: np.ndarray) -> PairedResult:
    """Paired test over queries, each with its mean over seeds.

    Args:
        scores: Shape (S, Q).
        reference: Scores to compare with, shape (S, Q).
    """
    return paired_test(scores.mean(0), reference.mean(0))


def format_p(p_value: float) -> str:
    return f"{p_value:.1g}" if p_value >= 1e-3 else "< 0.001"


if __name__ == "__main__":
    main()
