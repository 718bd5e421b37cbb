"""The library in Python: `import flan_jax` has its names; docs/python.md shows them at work."""
