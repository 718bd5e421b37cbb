"""Overlap between training rows and held-out rows: n-grams, index, filter, measurement."""
