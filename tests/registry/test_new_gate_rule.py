"""CONTRIBUTING.md, "To add a rule of the gate": two files of a copy of the project are changed, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("catalog", "eval", "fusion", "plugins", "registry", "scoring")
# file → text → what stands there with the new rule
CHANGES = {
    "eval/vitrine_judge/gate.py": {
        "    min_segment: int\n": "    min_segment: int\n    min_queries: int\n",
        "        *_check_rating(candidate, rules),\n": (
            "        *_check_rating(candidate, rules),\n        *_check_queries(candidate, rules),\n"
        ),
        "def _check_rating(": """def _check_queries(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    count = len(candidate.segments)
    passed = count >= rules.min_queries
    yield Finding("queries", "passed" if passed else "failed", f"There are {count} test queries.", count)


def _check_rating(""",
    },
    "registry/params.py": {
        "    min_segment: int": "    min_queries: int = Field(3, ge=1)\n    min_segment: int",
    },
}
PROGRAM = """
import numpy as np
from vitrine_judge.gate import Evidence, decide
from vitrine_judge.metrics import Scores
from registry.comparison import make_rules
from registry.params import RegisterParams

scores = Scores(np.array(["a", "b"]), np.array([True, True]), {"ndcg@10": np.array([0.5, 0.7])})
evidence = Evidence(scores, np.array(["all", "all"]), {})
params = RegisterParams(floors={}, budgets={}, margins={})
decision = decide(evidence, None, make_rules(params))
print(decision.verdict, [finding.text for finding in decision.findings if finding.rule == "queries"])
"""


def test_a_rule_is_added_in_two_files(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, replacements in CHANGES.items():
        path = tmp_path / file
        text = path.read_text()
        for old, new in replacements.items():
            assert text.count(old) == 1, f"{file}: {old}"
            text = text.replace(old, new)
        path.write_text(text)
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "eval")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout == "failed ['There are 2 test queries.']\n", process.stderr
