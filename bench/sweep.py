"""Are the committed weights of the losses the best? Every α with every β, several seeds, set against what is committed.

    python bench/sweep.py RUNS alpha=0,0.5,1 beta=0,0.5,1 seed=0,1 --plot docs/weights.svg > TABLE.md

Takes any two knobs of the section `train` of params.yaml that are numbers; the committed setting must be among them.
Runs are made, or found, as by `bench/ablation.py`. The plot has the first knob along its axis, and a line for each
value of the second.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from ablation import PRIMARY, combinations, knobs, made, paired, parser, scores, spread, told

from components.evaluate import CANDIDATE
from eval.significance import PairedResult

Setting = tuple[object, ...]


def main(argv: Sequence[str] | None = None) -> None:
    asks = parser(__doc__)
    asks.add_argument("--plot", type=Path, required=True)
    asked = asks.parse_args(argv)
    names = knobs(asked.grid)
    if len(names) != 2:
        asks.error(f"two knobs and the seed are swept, not {', '.join(names)}")
    committed = yaml.safe_load(Path("params.yaml").read_text())["train"]
    default = tuple(committed.get(name) for name in names)
    if default not in {tuple(setting[name] for name in names) for setting in combinations(asked.grid)}:
        asks.error(f"what is committed, {names[0]}={default[0]} {names[1]}={default[1]}, is not in the grid")
    fused = {setting: scores(runs, CANDIDATE) for setting, runs in made(asked).items()}
    against = {
        setting: paired(values, fused[default]) for setting, values in fused.items() if setting != default
    }
    print(f"    python bench/sweep.py RUNS {' '.join(asked.grid)} --plot {asked.plot}\n")
    print(
        f"{PRIMARY} of the fused model on the test queries, mean ± standard deviation over seeds; the difference is to "
        "the committed setting, paired over queries, each with its mean over the seeds.\n"
    )
    print(f"| {' | '.join(names)} | seeds | fused | difference | 95 % interval | p |\n|{'---|' * 7}")
    for setting, values in fused.items():
        cells = [*map(str, setting), str(len(values)), spread(values)]
        if setting == default:
            cells += ["committed", "", ""]
        else:
            test = against[setting]
            cells += [f"{test.difference:+.3f}", f"{test.low:+.3f} to {test.high:+.3f}", told(test.p_value)]
        print(f"| {' | '.join(cells)} |")
    draw(names, default, against, asked.plot)


def draw(names: Sequence[str], default: Setting, against: Mapping[Setting, PairedResult], path: Path) -> None:
    """Differences to the committed setting with their intervals."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    settings = [default, *against]
    lines = sorted({setting[1] for setting in settings})
    for number, line in enumerate(lines):
        points = sorted(setting for setting in settings if setting[1] == line)
        found = [against.get(setting, PairedResult(0.0, 1.0, 0.0, 0.0, 0.95)) for setting in points]
        beside = 0.012 * (number - (len(lines) - 1) / 2)  # so that intervals do not hide each other
        axes.errorbar(
            [setting[0] + beside for setting in points],
            [test.difference for test in found],
            [
                [test.difference - test.low for test in found],
                [test.high - test.difference for test in found],
            ],
            marker="o",
            capsize=3,
            label=f"{names[1]} = {line}",
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel(names[0])
    axes.set_ylabel(f"{PRIMARY} minus that of {names[0]} = {default[0]}, {names[1]} = {default[1]}")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})  # the same figure, the same file


if __name__ == "__main__":
    main()
