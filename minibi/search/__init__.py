"""Floor 3: where text and vectors meet."""
