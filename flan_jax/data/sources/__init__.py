"""Where raw rows come from: TFDS, the Hugging Face hub, JSON lines, the bundled rows."""
