"""The figures of a report: from results to plain points, and from points to PDF, SVG and PNG.

A figure is a file with three functions: `points` has every number that is drawn (and is written as
CSV), `caption` says in text what they are, `draw` draws them. The first two need no Matplotlib.
To add a figure, write such a file and list it in `registry.py`.
"""
