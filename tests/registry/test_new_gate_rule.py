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
        "    max_segment_loss: float = 0.2\n": "    max_segment_loss: float = 0.2\n    min_answered: float = 0.0\n",
        "        *check_rating(candidate.rating, rules.min_rating),\n": (
            "        *check_rating(candidate.rating, rules.min_rating),\n        *_check_answered(candidate, rules),\n"
        ),
        "def _check_queries(": """def _check_answered(candidate: Evidence, rules: Rules) -> Iterator[Finding]:
    share = candidate.scores.answered.mean()
    passed = share >= rules.min_answered
    yield Finding("answered", "passed" if passed else "failed", f"{share:.0%} of queries are answered.", share)


def _check_queries(""",
    },
    "registry/params.py": {
        "    min_segment: int": "    min_answered: float = Field(0.9, ge=0)\n    min_segment: int",
    },
}
PROGRAM = """
import numpy as np
from vitrine_judge.gate import Evidence, decide
from vitrine_judge.metrics import Scores
from registry.comparison import make_rules
from registry.params import RegisterParams

scores = Scores(np.array(["a", "b"]), np.array([True, False]), {"ndcg@10": np.array([0.5, 0.7])})
evidence = Evidence(scores, np.array(["all", "all"]), {})
params = RegisterParams(floors={}, budgets={}, margins={}, baselines={})
decision = decide(evidence, None, make_rules(params, {"model": scores}))
print(decision.verdict, [finding.text for finding in decision.findings if finding.rule == "answered"])
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
    assert process.stdout == "failed ['50% of queries are answered.']\n", process.stderr
