"""Training: optimizer, partitioning over a mesh, checkpoints, and the step and loop that use
them.
"""
