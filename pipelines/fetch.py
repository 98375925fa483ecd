"""fetch: a data set out of a git repository and its DVC remote; the pipeline's counterpart of `dvc pull`."""

from pathlib import Path

from catalog import store
from catalog.schema import DataError


def fetch(repo: str, rev: str, data: Path) -> None:
    """Copy the folder `data` of a repository, as it was at a commit.

    Args:
        repo: Path or URL of the git repository.
        rev: Commit id.
        data: Folder to write.

    Raises:
        DataError: where the repository, the commit or the data cannot be had.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from scmrepo.exceptions import SCMError

    try:
        with store.fresh(data) as partial:
            # with the slash, the contents; without, a folder `data` inside
            DVCFileSystem(repo, rev=rev).get("data/", str(partial), recursive=True)
    except (DvcException, DataIndexDirError, SCMError, OSError) as error:
        raise DataError(
            f"fetch: data of {repo} at {rev} cannot be had ({error}); is it pushed to the DVC remote?"
        ) from error
