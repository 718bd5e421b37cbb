"""Evaluation of held-out datasets: option scores, generation, results, uncertainty."""
