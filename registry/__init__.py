"""MLflow: runs, versions, aliases, verdicts, model cards, packaging, and running the champion."""

import os

# By default MLflow reports usage to its authors; a machine without network would wait for that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
