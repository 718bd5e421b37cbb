"""Training: the step, the loop, its log and the record of a run."""
