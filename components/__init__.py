"""The five stages: validate, featurize, train, evaluate, register. One file, one function each."""

import os

# These libraries report usage to their makers by default; an air-gapped run must not wait for that.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
