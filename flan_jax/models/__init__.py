"""The models, their losses and their decoding: pure JAX, without the data pipeline."""
