"""One file per checkpoint format: ours, T5X, Hugging Face, GGUF."""
