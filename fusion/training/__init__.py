"""Training: objective, losses, sampling, hard negatives, and the loop, on one process or several."""
