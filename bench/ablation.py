"""What each choice is worth: train and judge a grid of settings, several seeds each, and tell differences from chance.

    python bench/ablation.py RUNS fusion=concat,gated,attention,coattention loss=graded,binary seed=0,1,2 > TABLE.md

Every run is a folder of RUNS, as `python -m components train` and `evaluate` write it; those that are there already
are not made again, so a grid can be interrupted and grow. Settings are those of the section `train` of params.yaml;
what the grid does not name is as committed.
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
from tqdm import tqdm

from catalog import store
from components.evaluate import CANDIDATE
from components.params import EvaluateParams
from eval.metrics import Scores
from eval.significance import paired_test

PRIMARY = "ndcg@10"
TOWERS = ("text", "image", "video")
SEEDS = "seed"

Setting = dict[str, object]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("grid", nargs="+", metavar="KNOB=VALUE,…", help="knobs of the section train")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--features", type=Path, default=Path("artifacts/featurize"))
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="runs at a time, a core each"
    )
    asked = parser.parse_args(argv)
    settings = list(combinations(asked.grid))
    with ThreadPoolExecutor(asked.workers) as pool:
        made = pool.map(lambda setting: make(asked.runs, setting, asked.data, asked.features), settings)
        folders = list(tqdm(made, "runs", len(settings)))
    print(table(asked.grid, settings, folders))


def combinations(grid: Iterable[str]) -> Iterable[Setting]:
    """All settings of a grid such as ["fusion=concat,gated", "seed=0,1"]."""
    knobs = [word.partition("=")[::2] for word in grid]
    values = [[yaml.safe_load(value) for value in text.split(",")] for _, text in knobs]
    for chosen in product(*values):
        yield {name: value for (name, _), value in zip(knobs, chosen, strict=True)}


def make(runs: Path, setting: Setting, data: Path, features: Path) -> Path:
    """Train and judge one setting, unless that has been done: the folder with `model` and `evaluation`."""
    folder = runs / ",".join(f"{name}={value}" for name, value in setting.items())
    with store.fresh(folder / "params") as out:
        train = yaml.safe_load(Path("params.yaml").read_text())["train"] | setting
        (out / "params.yaml").write_text(yaml.safe_dump({"train": train, "evaluate": {"resamples": 1000}}))
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


def table(grid: Sequence[str], settings: Sequence[Setting], folders: Sequence[Path]) -> str:
    """Markdown: the mean and the standard deviation over seeds, and the fused model against the best tower.

    The test pairs queries, each with its mean over the seeds.
    """
    knobs = [word.partition("=")[0] for word in grid if not word.startswith(f"{SEEDS}=")]
    groups: dict[tuple[object, ...], list[Path]] = {}
    for setting, folder in zip(settings, folders, strict=True):
        groups.setdefault(tuple(setting[knob] for knob in knobs), []).append(folder)
    lines = [
        f"    python bench/ablation.py RUNS {' '.join(grid)}",
        "",
        f"{PRIMARY} on the test queries, mean ± standard deviation over seeds; the gain is over the best tower of the "
        "same runs, p from a paired randomisation test over queries, each with its mean over the seeds.",
        "",
        f"| {' | '.join(knobs)} | seeds | fused | best tower | gain | p |",
        "|" + "---|" * (len(knobs) + 5),
    ]
    fused: dict[tuple[object, ...], np.ndarray] = {}
    for values, runs in groups.items():
        ours, towers = scores(runs, CANDIDATE), {name: scores(runs, name) for name in systems(runs)}
        name, best = max(towers.items(), key=lambda item: item[1].mean())
        fused[values] = ours.mean(0)
        test = paired(ours.mean(0), best.mean(0))
        gain = ours.mean() / best.mean() - 1
        spread = f"{ours.mean():.3f} ± {ours.mean(1).std(ddof=len(runs) > 1):.3f}"
        cells = [
            *map(str, values),
            str(len(runs)),
            spread,
            f"{name} {best.mean():.3f}",
            f"{gain:+.0%}",
            told(test),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *contrasts(knobs, fused)]
    return "\n".join(lines)


def contrasts(knobs: Sequence[str], fused: Mapping[tuple[object, ...], np.ndarray]) -> Iterable[str]:
    """Each knob's first value against the others, over all settings of the other knobs."""
    yield "| knob | first | against | difference in the fused model | p |"
    yield "|---|---|---|---|---|"
    for place, knob in enumerate(knobs):
        first, *others = dict.fromkeys(values[place] for values in fused)
        for other in others:
            pairs = [
                (fused[values], fused[(*values[:place], other, *values[place + 1 :])])
                for values in fused
                if values[place] == first and (*values[:place], other, *values[place + 1 :]) in fused
            ]
            ours, theirs = (np.mean(side, axis=0) for side in zip(*pairs, strict=True))
            difference = (ours - theirs).mean()
            yield f"| {knob} | {first} | {other} | {difference:+.3f} | {told(paired(ours, theirs))} |"


def systems(runs: Sequence[Path]) -> list[str]:
    found = json.loads((runs[0] / "evaluation" / "metrics.json").read_text())
    return [name for name in TOWERS if name in found]


def scores(runs: Sequence[Path], system: str) -> np.ndarray:
    """Of every seed and query, float (S, Q)."""
    files = [run / "evaluation" / "scores" / f"{system}.parquet" for run in runs]
    return np.stack([Scores.from_parquet(file).values[PRIMARY] for file in files])


def paired(ours: np.ndarray, theirs: np.ndarray) -> float:
    params = EvaluateParams()
    return paired_test(ours, theirs, params.resamples, params.seed).p_value


def told(p_value: float) -> str:
    return f"{p_value:.1g}" if p_value >= 1e-3 else "< 0.001"


if __name__ == "__main__":
    main()
