"""Models scored on a data set: systems and baselines, auxiliary tasks, serving costs, the content of pages."""
