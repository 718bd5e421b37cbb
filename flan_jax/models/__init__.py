"""The model, its losses and its decoding: pure JAX, nothing of the data pipeline."""
