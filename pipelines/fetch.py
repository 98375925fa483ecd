"""resolve and fetch: a data set from a git repository and its DVC remote. In the pipeline they replace `dvc pull`."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import yaml
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from catalog import store
from catalog.progress import show_progress
from catalog.schema import DataError

if TYPE_CHECKING:
    from scmrepo.git import Git

T = TypeVar("T")

POINTER = "data.dvc"
COMMIT = re.compile(r"[0-9a-f]{40}")
NO_PROMPT = {"GIT_TERMINAL_PROMPT": "0"}  # fail instead of asking for a password
SECRETS = ("GIT_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 2, 60  # seconds
# Messages of git servers and object stores about a condition that may pass.
TRANSIENT = re.compile(
    r"timed? ?out|could not (connect|resolve)|name resolution|connection (was )?(refused|reset|closed|aborted)|"
    r"unreachable|temporar|unavailable|slow ?down|too many requests|internal ?error|hung up|early eof|"
    r"\b(429|50[0234])\b",
    re.IGNORECASE,
)


class DataVersion(NamedTuple):
    """Version of a data set."""

    commit: str  # the commit of a name in the repository
    data_commit: str  # the latest commit, up to that one, that changed data.dvc
    data_hash: str  # DVC's hash of the folder


def resolve_version(repo: str, rev: str) -> DataVersion:
    """The version of the data in a repository at a commit.

    An https server gets GIT_USERNAME and GIT_PASSWORD of the environment.

    Args:
        repo: Path or URL of the git repository.
        rev: Commit id, branch or tag.

    Raises:
        DataError: if the repository or the commit cannot be read, or has no data.dvc; the message holds no password.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            git = _retry("resolve", lambda: _open_repository(repo, Path(folder)))
            try:
                commit = git.resolve_rev(rev)
                pointer = git.get_fs(commit).open(POINTER, encoding="utf-8").read()
                data_commit = _find_latest_change(git, commit)
            finally:
                git.close()
        except Exception as error:  # scmrepo passes on those of three git libraries
            raise DataError(f"{repo} has no {POINTER} at '{rev}' ({_describe_error(error)})") from error
    return DataVersion(commit, data_commit, _read_hash(pointer))


def fetch_data(repo: str, commit: str, data_hash: str, data: Path) -> None:
    """Copy the folder `data` of a repository, as of a commit.

    An https server gets GIT_USERNAME and GIT_PASSWORD of the environment. The DVC remote takes its credentials from the
    environment too, such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL.

    Args:
        repo: Path or URL of the git repository.
        commit: Commit id.
        data_hash: DVC's hash of the folder at that commit.
        data: Folder to write.

    Raises:
        DataError: if the repository, the commit or the data cannot be read, or the hash differs; the message holds no
            password.
    """
    from dvc.api import DVCFileSystem
    from fsspec.callbacks import TqdmCallback

    def copy() -> None:
        clone = DVCFileSystem(_with_credentials(repo), rev=commit)
        # opened again at its own path: a remote inside the repository, like that of the sample, is relative to it
        source = DVCFileSystem(clone.repo.scm.root_dir, rev=commit)
        if (stored := _read_hash(source.read_text(POINTER))) != data_hash:
            raise DataError(
                f"fetch: {POINTER} of {repo} at {commit[:12]} has the hash {stored}, not {data_hash}"
            )
        progress = TqdmCallback({"desc": "fetch", "unit": "file"}, tqdm_cls=show_progress)
        with store.new_atomic_dir(data) as partial, progress:
            # with the slash: the contents; without: a folder `data` inside
            source.get("data/", str(partial), recursive=True, callback=progress)

    try:
        _retry("fetch", copy)
    except DataError:
        raise
    except Exception as error:  # each kind of remote raises its own
        raise DataError(
            f"fetch: cannot read the data of {repo} at {commit[:12]} ({_describe_error(error)}); push it to the DVC "
            "remote, and check the credentials"
        ) from error


def _open_repository(repo: str, folder: Path) -> "Git":
    """A repository of this machine, or a clone of another with its complete history."""
    from scmrepo.git import Git

    return Git.clone(_with_credentials(repo), str(folder / "clone")) if "://" in repo else Git(repo)


def _find_latest_change(git: "Git", commit: str) -> str:
    """The latest commit up to `commit` that changed the pointer; of two branches with the same pointer, the first."""
    walker = git.dulwich.repo.get_walker([commit.encode()], paths=[POINTER.encode()], max_entries=1)
    return next(iter(walker)).commit.id.decode()


def _read_hash(pointer: str) -> str:
    return str(yaml.safe_load(pointer)["outs"][0]["md5"])


def _retry(step: str, action: Callable[[], T]) -> T:
    """Repeat what fails for a reason that may pass: KFP does not repeat a step that fails, see docs/kubernetes.md."""

    def report(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        reason, wait = _describe_error(error) if error else "", state.next_action and state.next_action.sleep
        print(
            f"{step}: {reason}; attempt {state.attempt_number + 1} of {ATTEMPTS} in {wait:.0f} s",
            file=sys.stderr,
        )

    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(FIRST_WAIT, LONGEST_WAIT),
        before_sleep=report,
        reraise=True,
    )
    return retrying(action)


def _is_transient(error: BaseException) -> bool:
    """Whether an error may not come again; judged by the messages, since each kind of remote raises its own errors."""
    return not isinstance(error, DataError) and bool(TRANSIENT.search(_describe_error(error)))


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
