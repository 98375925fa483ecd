"""The same six stages as a Kubeflow pipeline."""
