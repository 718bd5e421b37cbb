"""What the tests share: models, checkpoints, tokenizers, runs and processes."""
