"""Everything MLflow: runs, versions and aliases, model card and packaging, the champion in a process of its own."""

import os

# MLflow reports usage to its makers by default; an air-gapped run must not wait for that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
