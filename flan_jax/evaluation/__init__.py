"""Evaluation of held-out datasets: rank classification, generation, metrics, results and the report
of them.
"""
