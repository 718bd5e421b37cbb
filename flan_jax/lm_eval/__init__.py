"""The adapter for EleutherAI's lm-evaluation-harness."""
