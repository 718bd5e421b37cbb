"""What the verbs and the library in Python do with a run: open, prepare, train, evaluate."""
