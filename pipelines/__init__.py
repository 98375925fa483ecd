"""The stages as a Kubeflow pipeline, and the pipelines that run beside it."""
