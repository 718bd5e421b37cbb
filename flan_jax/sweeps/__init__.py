"""Sweeps: a grid of settings, a run for each of its points, and what has become of them."""
