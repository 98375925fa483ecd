import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dvc_repository import add_and_push

from catalog.schema import DataError
from pipelines import fetch
from pipelines.fetch import _with_credentials, fetch_data, resolve_commit, resolve_version
from registry import local_stack

PERSON = {f"GIT_{role}_{field}": "shop" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


class Repository:
    """A git repository whose folder `data` is versioned by DVC, with a remote next to it."""

    def __init__(self, root: Path, remote: str = "", env: Mapping[str, str] | None = None) -> None:
        self.root, self.env = root, os.environ | PERSON | dict(env or {})
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text(
            "[core]\n    remote = own\n    analytics = false\n['remote \"own\"']\n"
            f"    url = {remote or f'{root}-remote'}\n"
        )
        self.git("init", "--quiet")

    def commit(self, **files: str) -> str:
        """A version of the data; its commit."""
        shutil.rmtree(self.root / "data", ignore_errors=True)
        for name, text in files.items():
            path = self.root / "data" / name / "00000.parquet"
            path.parent.mkdir(parents=True)
            path.write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in self.env.items():
                patch.setenv(variable, value)
            add_and_push(self.root)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "data")
        return self.git("rev-parse", "HEAD").strip()

    def forget(self) -> None:
        """Lose what the remote and the cache hold."""
        shutil.rmtree(self.root.with_name(f"{self.root.name}-remote"))
        shutil.rmtree(self.root / ".dvc" / "cache")

    def empty(self, bucket: str) -> None:
        """Remove all objects of a bucket."""
        import boto3

        keys = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        credentials = {name: self.env[variable] for name, variable in keys.items()}
        store = boto3.resource(
            "s3", endpoint_url=self.env["AWS_ENDPOINT_URL"], region_name="us-east-1", **credentials
        )
        store.Bucket(bucket).objects.all().delete()

    def git(self, *words: str) -> str:
        command = ["git", *words]
        return subprocess.run(
            command, cwd=self.root, check=True, env=self.env, capture_output=True, text=True
        ).stdout


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0)


def fetch_version(repo: str, rev: str, data: Path) -> None:
    """What the steps `resolve` and `fetch` do."""
    version = resolve_version(repo, rev)
    fetch_data(repo, version.data_commit, version.data_hash, data)


def test_data_as_it_was_at_a_commit(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "shop")
    first = repository.commit(products="one", queries="asked")
    second = repository.commit(products="two")
    url = repository.root.as_uri()
    fetch_version(url, first, tmp_path / "data")
    assert content(tmp_path / "data") == {"products/00000.parquet": "one", "queries/00000.parquet": "asked"}
    fetch_version(str(repository.root), second, tmp_path / "data")  # a retry over what is there
    assert content(tmp_path / "data") == {"products/00000.parquet": "two"}

    repository.git("branch", "night", first)
    fetch_version(url, "night", tmp_path / "data")
    assert content(tmp_path / "data") == {"products/00000.parquet": "one", "queries/00000.parquet": "asked"}

    version = resolve_version(url, second)
    with pytest.raises(DataError, match=rf"data\.dvc of .* has the hash {version.data_hash}, not beef\.dir"):
        fetch_data(url, second, "beef.dir", tmp_path / "none")
    repository.forget()
    with pytest.raises(DataError, match=r"cannot read the data of .*; push it to the DVC remote"):
        fetch_data(url, second, version.data_hash, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_commit_that_does_not_change_the_data_has_their_version(tmp_path: Path) -> None:
    """KFP reuses `fetch` by this version, and with it all that follows."""
    repository = Repository(tmp_path / "shop")
    first = repository.commit(products="one")
    (repository.root / "README.md").write_text("x")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "no data")
    head = repository.git("rev-parse", "HEAD").strip()
    repository.git("tag", "--annotate", "--message", "v1", "v1")
    repository.git("checkout", "--quiet", "-b", "night/data")
    later = repository.commit(products="two")
    repository.git("checkout", "--quiet", "-")
    for place in (str(repository.root), repository.root.as_uri()):
        versions = [resolve_version(place, rev) for rev in (first, head, "HEAD", "v1")]
        assert [version.commit for version in versions] == [first, head, head, head]
        assert {version.data_commit for version in versions} == {first}
        assert len({version.data_hash for version in versions}) == 1
        changed = resolve_version(place, "night/data")
        assert changed[:2] == (later, later) and changed.data_hash != versions[0].data_hash


def test_a_remote_within_the_repository(tmp_path: Path) -> None:
    """Like that of the sample: its path is relative to the repository."""
    repository = Repository(tmp_path / "shop", "../kept")
    commit = repository.commit(products="one")
    shutil.rmtree(repository.root / ".dvc" / "cache")
    fetch_version(repository.root.as_uri(), commit, tmp_path / "data")
    assert content(tmp_path / "data") == {"products/00000.parquet": "one"}


def test_no_such_repository_commit_or_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere has no data\.dvc at 'HEAD' \(.*is not a git repository"):
        resolve_version(str(tmp_path / "nowhere"), "HEAD")
    repository = Repository(tmp_path / "shop")
    (repository.root / "README.md").write_text("x")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "no data")
    for place in (str(repository.root), repository.root.as_uri()):
        with pytest.raises(
            DataError, match=r"shop has no data\.dvc at '0000000' \(unknown Git revision '0000000'\)"
        ):
            resolve_version(place, "0000000")
        with pytest.raises(DataError, match=r"shop has no data\.dvc at 'HEAD' \("):
            resolve_version(place, "HEAD")


def test_what_may_pass_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [ConnectionError("connection reset by peer"), OSError("503 Slow Down")]

    def read() -> str:
        if failures:
            raise failures.pop(0)
        return "text"

    assert fetch._retry("fetch", read) == "text"
    assert capsys.readouterr().err.splitlines() == [
        "fetch: connection reset by peer; attempt 2 of 5 in 0 s",
        "fetch: 503 Slow Down; attempt 3 of 5 in 0 s",
    ]
    for error in (PermissionError("403 Forbidden"), DataError("connection reset")):
        failures = [error] * 2
        with pytest.raises(type(error)):
            fetch._retry("fetch", read)
        assert len(failures) == 1


def test_a_name_is_resolved_here_and_on_a_server(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "shop")
    first, second = repository.commit(products="one"), repository.commit(products="two")
    repository.git("tag", "--annotate", "--message", "v1", "v1", first)
    place, url = str(repository.root), repository.root.as_uri()
    assert resolve_commit(place, "HEAD") == resolve_commit(url, "HEAD") == second
    assert resolve_commit(place, "v1") == resolve_commit(url, "v1") == first
    assert resolve_commit(place, first[:8]) == resolve_commit(url, first) == first
    for where in (place, url):
        with pytest.raises(DataError, match="shop: no commit 'v2'"):
            resolve_commit(where, "v2")
    with pytest.raises(DataError, match="nowhere: no commit 'HEAD'"):
        resolve_commit(str(tmp_path / "nowhere"), "HEAD")


def test_only_an_https_server_gets_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_USERNAME", "bot")
    monkeypatch.setenv("GIT_PASSWORD", "p@ss/word")
    assert _with_credentials("https://git.test/shop.git") == "https://bot:p%40ss%2Fword@git.test/shop.git"
    for repo in ("ssh://git.test/shop.git", "/srv/shop.git", "https://me@git.test/shop.git"):
        assert _with_credentials(repo) == repo
    with pytest.raises(DataError) as raised:
        resolve_version("https://127.0.0.1:1/shop.git", "main")
    stderr = capsys.readouterr().err
    assert len(stderr.splitlines()) == fetch.ATTEMPTS - 1
    for message in (stderr, str(raised.value)):
        assert "127.0.0.1" in message and "p@ss" not in message and "p%40ss" not in message


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An S3 server; the environment that may use it."""
    folder = tmp_path_factory.mktemp("s3")
    with local_stack.run_s3(folder, port := local_stack.find_free_port()) as env:
        yield env | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@pytest.mark.services
def test_data_in_s3(bucket: dict[str, str], tmp_path: Path) -> None:
    """Fetched in separate processes, as in pods; their environment holds the credentials."""
    repository = Repository(tmp_path / "shop", f"s3://{local_stack.BUCKET}/shop", bucket)
    first = repository.commit(products="one")
    second = repository.commit(products="two")

    def fetched(*revs: str, **changed: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from pathlib import Path; from catalog.command import run_command; "
        code += "from pipelines import fetch; fetch.FIRST_WAIT = 0; repo, folder, *revs = sys.argv[1:]; "
        code += "versions = {rev: fetch.resolve_version(repo, rev)[1:] for rev in revs}; "
        code += "run = lambda rev: fetch.fetch_data(repo, *versions[rev], Path(folder + rev)); "
        code += "sys.exit(run_command(lambda: [run(rev) for rev in revs]))"
        command = [sys.executable, "-c", code, repository.root.as_uri(), str(tmp_path / "data-"), *revs]
        return subprocess.run(
            command, env=os.environ | bucket | changed, capture_output=True, text=True, check=False
        )

    assert (done := fetched(first, second)).returncode == 0, done.stderr
    for rev, text in ((first, "one"), (second, "two")):
        assert content(tmp_path / f"data-{rev}") == {"products/00000.parquet": text}
        shutil.rmtree(tmp_path / f"data-{rev}")

    wrong = "not-the-right-one-for-this-server"
    refused = fetched(second, AWS_SECRET_ACCESS_KEY=wrong)
    lost = fetched(second, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    repository.empty(local_stack.BUCKET)
    missing = fetched(second)
    assert "attempt 5 of 5" in lost.stderr and "attempt" not in refused.stderr + missing.stderr
    for done in (refused, lost, missing):
        assert done.returncode == 1
        message = done.stderr.strip().splitlines()[-1]
        assert (
            message.startswith("vitrine: fetch: cannot read the data of ")
            and f" at {second[:12]} (" in message
        )
        assert "Traceback" not in done.stderr and wrong not in done.stderr
    assert not list(tmp_path.glob("data-*"))
