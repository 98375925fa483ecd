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
from eval.significance import PairedResult, paired_test

PRIMARY = "ndcg@10"
TOWERS = ("text-only", "image-only", "video-only")
SEEDS = "seed"

Setting = dict[str, object]
Groups = dict[tuple[object, ...], list[Path]]  # by the values of `knobs`


def main(argv: Sequence[str] | None = None) -> None:
    asked = parser(__doc__).parse_args(argv)
    print(table(asked.grid, made(asked)))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """What a script over a grid is told."""
    asks = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("runs", type=Path)
    asks.add_argument("grid", nargs="+", metavar="KNOB=VALUE,…", help="knobs of the section train")
    asks.add_argument("--data", type=Path, default=Path("data"))
    asks.add_argument("--features", type=Path, default=Path("artifacts/featurize"))
    asks.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time, a core each")
    return asks


def made(asked: argparse.Namespace) -> Groups:
    """Make the runs of a grid: the folders of each setting, one a seed."""
    settings = list(combinations(asked.grid))
    with ThreadPoolExecutor(asked.workers) as pool:
        running = pool.map(lambda setting: make(asked.runs, setting, asked.data, asked.features), settings)
        folders = list(tqdm(running, "runs", len(settings)))
    names = knobs(asked.grid)
    groups: Groups = {}
    for setting, folder in zip(settings, folders, strict=True):
        groups.setdefault(tuple(setting[name] for name in names), []).append(folder)
    return groups


def knobs(grid: Sequence[str]) -> list[str]:
    """The names in a grid, but for the seed."""
    return [word.partition("=")[0] for word in grid if not word.startswith(f"{SEEDS}=")]


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


def table(grid: Sequence[str], groups: Groups) -> str:
    """Markdown: the mean and the standard deviation over seeds, and the fused model against the best tower.

    The test pairs queries, each with its mean over the seeds.
    """
    names = knobs(grid)
    lines = [
        f"    python bench/ablation.py RUNS {' '.join(grid)}",
        "",
        f"{PRIMARY} on the test queries, mean ± standard deviation over seeds; the gain is over the best tower of the "
        "same runs, p from a paired randomisation test over queries, each with its mean over the seeds.",
        "",
        f"| {' | '.join(names)} | seeds | fused | best tower | gain | p |",
        "|" + "---|" * (len(names) + 5),
    ]
    fused: dict[tuple[object, ...], np.ndarray] = {}
    for values, runs in groups.items():
        ours, towers = scores(runs, CANDIDATE), {name: scores(runs, name) for name in systems(runs)}
        name, best = max(towers.items(), key=lambda item: item[1].mean())
        fused[values] = ours
        test = paired(ours, best)
        gain = ours.mean() / best.mean() - 1
        cells = [
            *map(str, values),
            str(len(runs)),
            spread(ours),
            f"{name} {best.mean():.3f}",
            f"{gain:+.0%}",
            told(test.p_value),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *contrasts(names, fused)]
    return "\n".join(lines)


def contrasts(names: Sequence[str], fused: Mapping[tuple[object, ...], np.ndarray]) -> Iterable[str]:
    """Each knob's first value against the others, over all settings of the other knobs."""
    yield "| knob | first | against | difference in the fused model | p |"
    yield "|---|---|---|---|---|"
    for place, name in enumerate(names):
        first, *others = dict.fromkeys(values[place] for values in fused)
        for other in others:
            pairs = [
                (fused[values], fused[(*values[:place], other, *values[place + 1 :])])
                for values in fused
                if values[place] == first and (*values[:place], other, *values[place + 1 :]) in fused
            ]
            test = paired(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
            yield f"| {name} | {first} | {other} | {test.difference:+.3f} | {told(test.p_value)} |"


def systems(runs: Sequence[Path]) -> list[str]:
    found = json.loads((runs[0] / "evaluation" / "metrics.json").read_text())
    return [name for name in TOWERS if name in found]


def scores(runs: Sequence[Path], system: str) -> np.ndarray:
    """Of every seed and query, float (S, Q)."""
    files = [run / "evaluation" / "scores" / f"{system}.parquet" for run in runs]
    return np.stack([Scores.from_parquet(file).values[PRIMARY] for file in files])


def spread(values: np.ndarray) -> str:
    """The mean of (S, Q), and the standard deviation over the S seeds where there are several."""
    deviation = f" ± {values.mean(1).std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def paired(ours: np.ndarray, theirs: np.ndarray) -> PairedResult:
    """Of (S, Q) each: over queries, each with its mean over seeds."""
    params = EvaluateParams()
    return paired_test(ours.mean(0), theirs.mean(0), params.resamples, params.seed)


def told(p_value: float) -> str:
    return f"{p_value:.1g}" if p_value >= 1e-3 else "< 0.001"


if __name__ == "__main__":
    main()
