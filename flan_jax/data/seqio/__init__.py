"""The catalogue as SeqIO tasks, and SeqIO tasks of others as training data."""
