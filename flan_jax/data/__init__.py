"""The token cache, packing, batches, and the data of a run."""
