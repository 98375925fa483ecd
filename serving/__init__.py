"""What people and shops talk to: the MLflow model, the demo page, MLflow's UI on this machine."""
