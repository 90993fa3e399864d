"""Floor 2: vectors to neighbours. Knows nothing of text or models."""
