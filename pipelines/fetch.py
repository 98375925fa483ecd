"""fetch: gets a data set from a git repository and its DVC remote. In the pipeline it replaces `dvc pull`."""

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
NO_PROMPT = {"GIT_TERMINAL_PROMPT": "0"}  # fail instead of asking for a password
SECRETS = ("GIT_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class DataVersion(NamedTuple):
    """Version of a data set."""

    revision: str  # commit id
    dvc: str  # DVC's hash of the folder


def fetch_data(repo: str, rev: str, data: Path) -> DataVersion:
    """Copy the folder `data` of a repository, as of a commit.

    An https server gets GIT_USERNAME and GIT_PASSWORD of the environment. The DVC remote takes its credentials from the
    environment too, such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL.

    Args:
        repo: Path or URL of the git repository.
        rev: Commit id, branch or tag.
        data: Folder to write.

    Raises:
        DataError: if the repository, the commit or the data cannot be read; the message holds no password.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        clone = DVCFileSystem(_with_credentials(repo), rev=rev)
        revision = clone.repo.get_rev()
        # opened again at its own path: a remote inside the repository, like that of the sample, is relative to it
        source = DVCFileSystem(clone.repo.scm.root_dir, rev=revision)
        pointer = yaml.safe_load(source.read_text("data.dvc"))["outs"][0]
    except (DvcException, SCMError, OSError) as error:
        raise DataError(f"fetch: {repo} has no data.dvc at '{rev}' ({_describe_error(error)})") from error
    try:
        with store.new_atomic_dir(data) as partial:
            # with the slash: the contents; without: a folder `data` inside
            source.get("data/", str(partial), recursive=True)
    except Exception as error:  # each kind of remote raises its own
        raise DataError(
            f"fetch: cannot read the data of {repo} at {revision[:12]} ({_describe_error(error)}); push it to the DVC "
            "remote, and check the credentials"
        ) from error
    return DataVersion(revision, pointer["md5"])


def resolve_commit(repo: str, rev: str) -> str:
    """The commit id of a name in a local or remote repository.

    Raises:
        DataError: if there is no such repository or name.
    """
    remote = "://" in repo
    if remote:
        command = ["git", "ls-remote", _with_credentials(repo), rev, f"{rev}^{{}}"]
    else:
        command = ["git", "-C", repo, "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | NO_PROMPT)
    words = result.stdout.split()
    if remote and not words and result.returncode == 0 and COMMIT.fullmatch(rev):
        return rev  # servers list names, not commits
    if result.returncode or not words:
        reason = f" ({' '.join(result.stderr.split())})" if result.stderr else ""
        raise DataError(f"{repo}: no commit '{rev}'{reason}")
    return words[-2] if remote else words[0]  # the commit of an annotated tag comes last


def _with_credentials(repo: str) -> str:
    """The https URL of a repository with the user name and password of the environment; others stay as they are."""
    parts = urlsplit(repo)
    password = os.environ.get("GIT_PASSWORD")
    if parts.scheme != "https" or not password or parts.username:
        return repo
    user = quote(os.environ.get("GIT_USERNAME", "git"), safe="")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{parts.netloc}").geturl()


def _describe_error(error: BaseException) -> str:
    """The messages of an error and its causes, on one line, without passwords."""
    messages = []
    cause: BaseException | None = error
    while cause:
        messages.append(" ".join(str(cause).split()) or type(cause).__name__)
        cause = cause.__cause__
    text = ": ".join(dict.fromkeys(messages))
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text
