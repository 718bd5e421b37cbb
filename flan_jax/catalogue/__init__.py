"""The catalogue: records of datasets and templates, clusters, splits, rendering."""
