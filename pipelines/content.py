"""What every step does around its work: its errors are one message each, and what it made has a digest.

The digest makes KFP reuse a step when, and only when, content is the same.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from catalog.command import run
from catalog.store import fingerprint
from eval.rankings import JudgeError

if TYPE_CHECKING:
    from kfp.dsl import Artifact

T = TypeVar("T")


def work(verb: Callable[[], T]) -> T:
    """Do a stage's work, and return what that returns; what the user can mend ends the step with one line rather than a
    traceback.

    Raises:
        SystemExit: where it does not succeed.
    """
    made: list[T] = []
    if code := run(lambda: made.append(verb()), JudgeError, FloatingPointError):
        sys.exit(code)
    return made[0]


def tell(artifact: "Artifact", digest: str, name: str = "") -> str:
    """Write the digest of what a step made.

    KFP's back end knows an artifact by its name, and its local runner by its place. So on this machine the same content
    is given the same place, ROOT/content/NAME/DIGEST, and a link is left where the run has it.

    Args:
        artifact: What the step made.
        digest: File of the output parameter.
        name: The one file in it that counts, where others, such as pages, differ from run to run.

    Returns:
        The digest.
    """
    made = Path(artifact.path)
    found = fingerprint(made / name)
    Path(digest).write_text(found)
    if "://" not in artifact.uri:
        place = made.parents[2] / "content" / made.name / found
        if place.exists():
            shutil.rmtree(made)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.rename(place)
        made.symlink_to(place)
        artifact.uri = str(place)
    return found
