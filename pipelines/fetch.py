"""fetch: a data set out of a git repository and its DVC remote; the pipeline's counterpart of `dvc pull`."""

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import yaml

from catalog import store
from catalog.schema import DataError

COMMIT = re.compile(r"[0-9a-f]{40}")
QUIET = {"GIT_TERMINAL_PROMPT": "0"}  # rather fail than ask for a password


class Fetched(NamedTuple):
    """Where data came from."""

    revision: str  # commit id
    dvc: str  # DVC's hash of the folder


def fetch(repo: str, rev: str, data: Path) -> Fetched:
    """Copy the folder `data` of a repository, as it was at a commit.

    GIT_USERNAME and GIT_PASSWORD of the environment are shown to an https server; the DVC remote takes its credentials
    from the environment too, such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL.

    Args:
        repo: Path or URL of the git repository.
        rev: Commit id, branch or tag.
        data: Folder to write.

    Raises:
        DataError: where the repository, the commit or the data cannot be had; no password is told.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        clone = DVCFileSystem(_address(repo), rev=rev)
        revision = clone.repo.get_rev()
        # opened anew where it lies: a remote within the repository, as of the sample, is found from there
        source = DVCFileSystem(clone.repo.scm.root_dir, rev=revision)
        pointer = yaml.safe_load(source.read_text("data.dvc"))["outs"][0]
    except (DvcException, SCMError, OSError) as error:
        raise DataError(f"fetch: {repo} has no data.dvc at '{rev}' ({_told(error)})") from error
    try:
        with store.fresh(data) as partial:
            # with the slash, the contents; without, a folder `data` inside
            source.get("data/", str(partial), recursive=True)
    except Exception as error:  # each kind of remote raises its own
        raise DataError(
            f"fetch: data of {repo} at {revision[:12]} cannot be had ({_told(error)}); is it pushed to the DVC "
            "remote, and are the credentials right?"
        ) from error
    return Fetched(revision, pointer["md5"])


def resolve(repo: str, rev: str) -> str:
    """The commit id of a name in a repository, which may be elsewhere.

    Raises:
        DataError: where there is no such repository or name.
    """
    asked = ["git", "-C", repo, "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}"]
    if "://" in repo:
        asked = ["git", "ls-remote", _address(repo), rev, f"{rev}^{{}}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    found = done.stdout.split()
    if "://" in repo and not found and done.returncode == 0 and COMMIT.fullmatch(rev):
        return rev  # servers list names, not commits
    if done.returncode or not found:
        said = f" ({' '.join(done.stderr.split())})" if done.stderr else ""
        raise DataError(f"{repo}: no commit '{rev}'{said}")
    return found[-2] if "://" in repo else found[0]  # an annotated tag's commit comes last


def _address(repo: str) -> str:
    """A URL with the environment's name and password."""
    parts = urlsplit(repo)
    password = os.environ.get("GIT_PASSWORD")
    if parts.scheme != "https" or not password or parts.username:
        return repo
    user = quote(os.environ.get("GIT_USERNAME", "git"), safe="")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{parts.netloc}").geturl()


def _told(error: BaseException) -> str:
    """An error and what it came from, in one line, without passwords."""
    said = []
    one: BaseException | None = error
    while one:
        said.append(" ".join(str(one).split()) or type(one).__name__)
        one = one.__cause__
    text = ": ".join(dict.fromkeys(said))
    for name in ("GIT_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text
