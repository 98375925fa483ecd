"""Downloads what is live, and says how to start its worker."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from catalog.threads import share_threads
from registry import champion_process, mlflow_store
from registry.live_index import LiveIndex
from serving.worker_client import Launch

CODE, INDEX = "code", "index"
MILVUS_URI = "MILVUS_URI"  # variable of the environment


@dataclass(frozen=True)
class PackageCache:
    """The packages and indexes that the service has downloaded.

    Attributes:
        folder: Of this process and one alias alone.
        workers: Workers that share the CPUs with this process.
    """

    folder: Path
    workers: int = 1

    def prepare(self, live: LiveIndex) -> Launch:
        """Download a version and its index unless they are here, and find its Python.

        Args:
            live: A version and its index.

        Raises:
            DataError: where MLflow cannot be reached, or the environment of the version cannot be created.
        """
        package = self.download(live.model_uri)
        artifacts = champion_process.list_artifacts(package)
        if live.index_uri:
            artifacts[INDEX] = self.download(live.index_uri)
        # with more threads in each, they would wait for the other processes
        environment = share_threads(1 + self.workers) | {
            "PYTHONPATH": str(package / CODE),
            "PYTHONSAFEPATH": "1",
            "TOKENIZERS_PARALLELISM": "false",  # for a few short texts, its threads cost more than they save
        }
        interpreter = champion_process.prepare_interpreter(package)
        paths = {name: str(path) for name, path in artifacts.items()}
        return Launch(interpreter, package, paths, environment, live.collection if has_milvus() else None)

    def remove_others(self, live: LiveIndex) -> None:
        """Remove all downloads but those of one version and its index."""
        kept = {self._path(uri) for uri in (live.model_uri, live.index_uri) if uri}
        for folder in set(self.folder.iterdir()) - kept:
            shutil.rmtree(folder, ignore_errors=True)  # what stays needs only room

    def _path(self, uri: str) -> Path:
        return self.folder / blake2b(uri.encode(), digest_size=8).hexdigest()

    def download(self, uri: str) -> Path:
        """The local copy of a folder of artifacts; it appears whole."""
        import mlflow

        path = self._path(uri)
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=self.folder))
        with mlflow_store.translate_errors(OSError):
            # of a model it is the folder itself, of an artifact one in it
            copy = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(partial)))
        copy.rename(path)
        shutil.rmtree(partial, ignore_errors=True)
        return path


def has_milvus() -> bool:
    """Whether a Milvus server is configured. A file of Milvus Lite does not count: only one process can open it."""
    return os.environ.get(MILVUS_URI, "").startswith(("http://", "https://"))
