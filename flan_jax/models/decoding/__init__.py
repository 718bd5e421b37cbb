"""Decoding from a model: greedy, sampling and beam search, with a key/value cache."""
