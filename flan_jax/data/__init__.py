"""Datasets as records, rendered with templates, tokenised once into a cache, packed into
batches.
"""
