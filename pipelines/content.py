"""What every step does around its stage: report errors as one message, and record a digest of its output.

KFP reuses a step if, and only if, the digests of its inputs are the same.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from catalog.command import run_command
from catalog.store import fingerprint
from eval.rankings import JudgeError

if TYPE_CHECKING:
    from kfp.dsl import Artifact

T = TypeVar("T")


def run_step(stage: Callable[[], T]) -> T:
    """Run a stage and return its result. An error that the user can fix ends the step with one line, not a traceback.

    Raises:
        SystemExit: if the stage fails.
    """
    results: list[T] = []
    if code := run_command(lambda: results.append(stage()), JudgeError, FloatingPointError):
        sys.exit(code)
    return results[0]


def record_digest(artifact: "Artifact", digest_file: str, name: str = "") -> str:
    """Write the digest of an artifact into the file of an output parameter.

    KFP's back end identifies an artifact by its name, its local runner by its path. So on this machine the same content
    always gets the same path, ROOT/content/NAME/DIGEST, and the run's path becomes a link to it.

    Args:
        artifact: Output of the step.
        digest_file: File of the output parameter.
        name: The only file in it to hash, if others (such as pages) differ from run to run.

    Returns:
        The digest.
    """
    output = Path(artifact.path)
    digest = fingerprint(output / name)
    Path(digest_file).write_text(digest)
    if "://" not in artifact.uri:
        stored = output.parents[2] / "content" / output.name / digest
        if stored.exists():
            shutil.rmtree(output)
        else:
            stored.parent.mkdir(parents=True, exist_ok=True)
            output.rename(stored)
        output.symlink_to(stored)
        artifact.uri = str(stored)
    return digest
