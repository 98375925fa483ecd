"""User-facing parts: the MLflow model, the demo page, MLflow's UI on this machine."""
