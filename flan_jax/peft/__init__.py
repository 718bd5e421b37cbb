"""Parameter-efficient tuning: which arrays train, which ones a method adds, and how they join."""
