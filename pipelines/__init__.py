"""The same five stages as a Kubeflow pipeline."""
