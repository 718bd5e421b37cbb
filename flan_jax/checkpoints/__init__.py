"""Checkpoints: saving and restoring, and reading and writing the formats of other programs."""
