"""Evaluation of models on a data set: systems and baselines, auxiliary tasks, runtime statistics, report content."""
