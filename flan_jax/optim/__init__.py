"""Optimizers as optax transformations."""
