"""Grid of two parameters, such as the loss weights α and β, with several seeds, compared with the committed setting.

    python bench/sweep.py RUNS alpha=0,0.5,1 beta=0,0.5,1 seed=0,1 --plot docs/weights.svg > TABLE.md

Takes any two numeric parameters of the section `train` of params.yaml; the grid must contain the committed setting.
Runs are made and reused as by `bench/ablation.py`. In the plot, the first parameter is the x-axis, and each value of
the second is a line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from ablation import (
    PRIMARY,
    build_parser,
    combinations,
    format_mean,
    format_p,
    load_scores,
    parameter_names,
    run_grid,
    test_difference,
)
from vitrine_judge.significance import PairedResult

from scoring.systems import CANDIDATE

Setting = tuple[object, ...]


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args(argv)
    names = parameter_names(arguments.grid)
    if len(names) != 2:
        parser.error(f"give two parameters and the seed, not {', '.join(names)}")
    committed = yaml.safe_load(Path("params.yaml").read_text())["train"]
    default = tuple(committed.get(name) for name in names)
    if default not in {tuple(setting[name] for name in names) for setting in combinations(arguments.grid)}:
        parser.error(f"the grid lacks the committed setting {names[0]}={default[0]} {names[1]}={default[1]}")
    fused = {setting: load_scores(runs, CANDIDATE) for setting, runs in run_grid(arguments).items()}
    tests = {
        setting: test_difference(values, fused[default])
        for setting, values in fused.items()
        if setting != default
    }
    print(f"    python bench/sweep.py RUNS {' '.join(arguments.grid)} --plot {arguments.plot}\n")
    print(
        f"{PRIMARY} of the fused model on the test queries, mean ± standard deviation over seeds. The difference is to "
        "the committed setting, paired over queries, each with its mean over the seeds.\n"
    )
    print(f"| {' | '.join(names)} | seeds | fused | difference | 95 % interval | p |\n|{'---|' * 7}")
    for setting, values in fused.items():
        cells = [*map(str, setting), str(len(values)), format_mean(values)]
        if setting == default:
            cells += ["committed", "", ""]
        else:
            test = tests[setting]
            cells += [
                f"{test.difference:+.3f}",
                f"{test.low:+.3f} to {test.high:+.3f}",
                format_p(test.p_value),
            ]
        print(f"| {' | '.join(cells)} |")
    plot_differences(names, default, tests, arguments.plot)


def plot_differences(
    names: Sequence[str], default: Setting, tests: Mapping[Setting, PairedResult], path: Path
) -> None:
    """Differences to the committed setting with their intervals."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    settings = [default, *tests]
    lines = sorted({setting[1] for setting in settings})
    for number, line in enumerate(lines):
        points = sorted(setting for setting in settings if setting[1] == line)
        results = [tests.get(setting, PairedResult(0.0, 1.0, 0.0, 0.0, 0.95, 0.0)) for setting in points]
        shift = 0.012 * (number - (len(lines) - 1) / 2)  # so that intervals do not hide each other
        axes.errorbar(
            [setting[0] + shift for setting in points],
            [test.difference for test in results],
            [
                [test.difference - test.low for test in results],
                [test.high - test.difference for test in results],
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
